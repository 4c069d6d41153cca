// An image in large: arrows through those beside it, a slider for its mask, what is known of it, and its link.
(() => {
  "use strict";
  const frames = () => [...document.querySelectorAll("main a.frame")].filter((frame) => frame.offsetParent !== null);
  const element = (tag, name, text = "") => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.textContent = text;
    return made;
  };
  const button = (name, text, label, action) => {
    const made = element("button", name, text);
    made.type = "button";
    made.setAttribute("aria-label", label);
    made.addEventListener("click", action);
    return made;
  };

  const dialog = element("dialog", "lightbox");
  dialog.setAttribute("aria-label", "Image");
  const view = element("div", "view"), words = element("div", "words"), place = element("span", "quiet");
  const slider = element("input"), masked = element("label", "mask-slider", "Mask ");
  slider.type = "range";
  slider.min = "0";
  slider.max = "100";
  slider.value = "60";
  masked.append(slider);
  const copy = button("copy-link", "Copy image link", "Copy the image's link", async () => {
    const link = view.firstElementChild.src;
    try {
      await navigator.clipboard.writeText(link);
      copy.textContent = "Copied";
    } catch {
      const shown = element("input", "link");
      shown.readOnly = true;
      shown.value = link;
      words.append(shown);
      shown.select();
    }
    setTimeout(() => { copy.textContent = "Copy image link"; }, 2000);
  });
  const bar = element("div", "controls");
  let at = -1, opened = null;

  const shade = () => {
    const mask = view.children[1];
    if (mask) mask.style.opacity = slider.value / 100;
  };
  const show = (index) => {
    const all = frames();
    at = (index + all.length) % all.length;
    opened = all[at];
    const figure = opened.closest("figure"), image = opened.querySelector("img"), own = [...opened.querySelectorAll("img.mask")];
    const plain = image.dataset.plain;
    const layers = plain ? [plain, image.src] : [image.src, ...own.map((mask) => mask.src)];
    if (plain && document.body.classList.contains("unmasked")) layers.reverse();
    view.replaceChildren(...layers.map((source, number) => {
      const layer = element("img");
      layer.src = source;
      layer.alt = number ? "" : image.alt;
      return layer;
    }));
    masked.hidden = layers.length < 2;
    shade();
    words.replaceChildren();
    const caption = figure.querySelector("figcaption");
    if (caption) words.append(...[...caption.childNodes].map((node) => node.cloneNode(true)));
    else words.append(element("span", "said", image.alt));
    if (figure.dataset.story) words.append(element("p", "quiet said", figure.dataset.story));
    place.textContent = `${at + 1} of ${all.length}`;
  };

  bar.append(
    button("previous", "←", "Previous image", () => show(at - 1)),
    button("next", "→", "Next image", () => show(at + 1)),
    masked, copy, place,
    button("close", "Close", "Close", () => dialog.close()),
  );
  dialog.append(view, words, bar);
  document.body.append(dialog);
  slider.addEventListener("input", shade);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => opened?.focus());
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input") && event.key.startsWith("Arrow")) return;
    if (event.key === "ArrowLeft") show(at - 1);
    else if (event.key === "ArrowRight") show(at + 1);
    else return;
    event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    const frame = event.target.closest("main a.frame");
    if (!frame || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    dialog.showModal();
    show(frames().indexOf(frame));
  });
})();
