// A unit's page: masks on and off, rounds that unfold, j and k between them, copying, and a look at a mark's image.
(() => {
  "use strict";
  const all = (selector) => [...document.querySelectorAll(selector)];

  const masks = document.getElementById("masks");
  const isMasked = () => document.querySelector("img[data-plain], img.mask") !== null;
  const swapped = new WeakSet();
  const paint = () => {
    const plain = document.body.classList.contains("unmasked");
    for (const image of all("img[data-plain]")) {
      if (plain === swapped.has(image)) continue;
      const shown = image.getAttribute("src");
      image.setAttribute("src", image.dataset.plain);
      image.dataset.plain = shown;
      image.parentElement.setAttribute("href", image.getAttribute("src"));
      if (plain) swapped.add(image); else swapped.delete(image);
    }
  };
  const toggleMasks = () => {
    const plain = document.body.classList.toggle("unmasked");
    masks.setAttribute("aria-pressed", String(plain));
    masks.textContent = plain ? "With masks" : "Without masks";
    paint();
  };
  masks.addEventListener("click", toggleMasks);

  const visit = (step) => {
    const rounds = all("article.round");
    const at = rounds.indexOf(document.activeElement);
    let next;
    if (at >= 0) {
      next = at + step;
    } else {
      const below = rounds.findIndex((round) => round.getBoundingClientRect().top > 80);
      next = step > 0 ? (below < 0 ? rounds.length - 1 : below) : (below < 0 ? rounds.length : below) - 1;
    }
    const round = rounds[Math.max(0, Math.min(rounds.length - 1, next))];
    if (!round) return;
    round.querySelector("details.fold").open = true;
    round.focus({ preventScroll: true });
    round.scrollIntoView({ block: "start" });
  };
  const reveal = () => {
    const named = document.getElementById(location.hash.slice(1));
    if (!named) return;
    const fold = named.querySelector("details.fold");
    if (fold) fold.open = true;
    for (let outer = named.closest("details"); outer; outer = outer.parentElement.closest("details")) outer.open = true;
    named.scrollIntoView({ block: "start" });
  };
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();
  const foldAll = (button) => {
    const open = button.getAttribute("aria-pressed") !== "true";
    for (const fold of all("details.fold")) fold.open = open;
    button.setAttribute("aria-pressed", String(open));
    button.textContent = open ? "Fold all" : "Unfold all";
  };
  addEventListener("beforeprint", () => { for (const fold of all("details.fold")) fold.open = true; });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
    if (event.key === "j") visit(1);
    else if (event.key === "k") visit(-1);
    else if (event.key === "m" && isMasked()) toggleMasks();
    else return;
    event.preventDefault();
  });

  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Without a secure context there is no clipboard: leave it selected for the keyboard.
      select(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.id === "unfold") foldAll(button);
    else if (button?.matches(".copy")) copy(button);
  });

  const peek = document.getElementById("peek");
  let shown = null;
  const place = () => {
    const dot = shown.getBoundingClientRect();
    const box = peek.getBoundingClientRect();
    const below = dot.bottom + box.height + 16 < innerHeight;
    peek.style.left = `${Math.max(8, Math.min(innerWidth - box.width - 8, dot.left - box.width / 2))}px`;
    peek.style.top = `${below ? dot.bottom + 8 : Math.max(8, dot.top - box.height - 8)}px`;
  };
  const show = (link) => {
    const figure = document.getElementById(link.getAttribute("href").slice(1));
    if (figure?.tagName !== "FIGURE") return;
    const copy = figure.cloneNode(true);
    copy.removeAttribute("id");
    for (const image of copy.querySelectorAll("img")) image.loading = "eager";
    peek.replaceChildren(copy);
    peek.hidden = false;
    shown = link;
    place();
  };
  const hide = () => { peek.hidden = true; shown = null; };
  for (const name of ["mouseover", "focusin", "focusout"]) {
    document.addEventListener(name, (event) => {
      const link = name === "focusout" ? null : event.target.closest("svg.plot a");
      if (link && link !== shown) show(link);
      else if (!link && shown) hide();
    });
  }
  addEventListener("scroll", () => { if (shown) place(); }, { passive: true });

  // What a page without scripts has no use for is shown: at first, and of a page that has grown (`maia view`).
  const prepare = () => {
    masks.hidden = !isMasked();
    for (const button of all("button.copy, #unfold")) button.hidden = false;
    paint();
  };
  document.addEventListener("maia:changed", prepare);
  prepare();
})();
