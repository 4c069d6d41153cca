// Search runs in a worker, which browsers refuse to pages that were opened from a file. There, a hidden frame
// stands in for it: it loads the same script, and messages pass between the two windows.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentWindow;
      const load = (source) => new Promise((done, failed) => {
        const script = inner.document.createElement("script");
        script.onload = done;
        script.onerror = failed;
        script.src = new URL(source, document.baseURI);
        inner.document.head.append(script);
      });
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inner.importScripts = (...sources) => Promise.all(sources.map(load));
      this.ready = load(url);
      this.send = (data) => inner.dispatchEvent(new inner.MessageEvent("message", { data }));
      this.terminate = () => frame.remove();
    }

    async postMessage(data) {
      await this.ready;
      this.send(data);
    }
  };
}
