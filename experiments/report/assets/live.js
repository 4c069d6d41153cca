// Only in pages that `maia view` serves: brings what changed in a run into the open page, and touches nothing else.
// A copy of the page as the server wrote it is compared with the new one; what scripts and readers did stays.
(() => {
  "use strict";
  const { seen } = document.currentScript.dataset;
  const PARTS = ["header.bar", "main"];
  const nodes = new WeakMap(); // from a node of the copy to the one in the page
  const pair = (copy, node) => {
    nodes.set(copy, node);
    for (let a = copy.firstChild, b = node.firstChild; a; a = a.nextSibling, b = b.nextSibling) pair(a, b);
  };
  const copies = PARTS.map((selector) => {
    const node = document.querySelector(selector), copy = node.cloneNode(true);
    pair(copy, node);
    return copy;
  });

  const name = (node) => node.id || node.getAttribute?.("aria-labelledby") || node.nodeName;
  const place = (node, before, parent) => {
    const right = node.parentNode === parent
      && (!before || before.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING);
    if (!right) parent.insertBefore(node, before ? before.nextSibling : parent.firstChild);
  };
  const update = (copy, fresh) => {
    if (copy.isEqualNode(fresh)) return;
    const node = nodes.get(copy);
    if (copy.nodeType !== Node.ELEMENT_NODE) {
      copy.nodeValue = node.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name: attribute } of [...copy.attributes]) {
      if (!fresh.hasAttribute(attribute)) for (const each of [copy, node]) each.removeAttribute(attribute);
    }
    for (const { name: attribute, value } of fresh.attributes) {
      if (copy.getAttribute(attribute) !== value) for (const each of [copy, node]) each.setAttribute(attribute, value);
    }
    const rest = [...copy.childNodes], wanted = [...fresh.childNodes];
    const take = (fits) => {
      const at = rest.findIndex(fits);
      return at < 0 ? null : rest.splice(at, 1)[0];
    };
    const same = wanted.map((child) => take((each) => each.isEqualNode(child)));
    const kept = wanted.map((child, at) => same[at] ?? take((each) => name(each) === name(child)));
    for (const each of rest) nodes.get(each).remove();
    let before = null;
    copy.replaceChildren(...wanted.map((child, at) => {
      let own = kept[at];
      if (own) {
        update(own, child);
      } else {
        own = document.importNode(child, true);
        pair(own, document.importNode(child, true));
      }
      place(nodes.get(own), before, node);
      before = nodes.get(own);
      return own;
    }));
  };

  const read = async (address) => {
    const answer = await fetch(address, { cache: "no-store" });
    return answer.ok ? answer.text() : null;
  };
  const bring = async () => {
    const page = await read(location.pathname);
    if (page === null) return;
    const fresh = new DOMParser().parseFromString(page, "text/html");
    const table = document.querySelector('script[src="units.js"]') && (await read("units.js"));
    PARTS.forEach((selector, at) => update(copies[at], fresh.querySelector(selector)));
    document.title = fresh.title;
    const units = table ? JSON.parse(table.slice(table.indexOf("=") + 1).replace(/;\s*$/, "")) : null;
    document.dispatchEvent(new CustomEvent("maia:changed", { detail: { units } }));
  };

  const atlas = document.querySelector('script[src*="atlas/"]') !== null; // its address keeps the view
  let waiting = false, working = false;
  const again = async () => {
    waiting = true;
    if (working || document.hidden) return;
    if (atlas) return location.reload();
    working = true;
    try {
      while (waiting) {
        waiting = false;
        await bring();
      }
    } catch { /* the server has ended; the stream of changes says when it is back */ }
    working = false;
  };
  const events = new EventSource(`/${location.pathname.split("/")[1]}/events?seen=${seen}`);
  events.addEventListener("message", again);
  document.addEventListener("visibilitychange", () => { if (waiting) again(); });
  addEventListener("pagehide", () => events.close());
})();
