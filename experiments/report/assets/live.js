// Only in pages that `maia view` serves: loads the page again when its run went on, where the reader was.
(() => {
  "use strict";
  const { seen } = document.currentScript.dataset;
  const place = `maia-place ${location.pathname}`;
  const kept = sessionStorage.getItem(place);
  if (kept) {
    sessionStorage.removeItem(place);
    const { top, open } = JSON.parse(kept);
    document.querySelectorAll("details").forEach((each, number) => { each.open = open[number] ?? each.open; });
    addEventListener("load", () => requestAnimationFrame(() => scrollTo(0, top)));
  }
  const busy = () => document.activeElement?.matches("input, select") || String(getSelection());
  let waiting = false;
  const again = () => {
    // Not under the reader's hands: the page waits until nothing is being typed or selected.
    if (busy() || document.hidden) { waiting = true; return; }
    const open = [...document.querySelectorAll("details")].map((each) => each.open);
    sessionStorage.setItem(place, JSON.stringify({ top: scrollY, open }));
    location.reload();
  };
  const events = new EventSource(`/${location.pathname.split("/")[1]}/events?seen=${seen}`);
  events.addEventListener("message", again);
  const later = () => { if (waiting && !busy() && !document.hidden) { waiting = false; again(); } };
  for (const name of ["focusout", "visibilitychange", "mouseup", "keyup"]) {
    document.addEventListener(name, () => setTimeout(later, 300));
  }
  addEventListener("pagehide", () => events.close());
})();
