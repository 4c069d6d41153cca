// Only in pages that `maia view` serves with a playground: try a prompt, a photo, a crop, an edit or an ablation.
// What comes of a trial is written into the page by the server; here are only the forms and the progress.
(() => {
  "use strict";
  const { unit } = document.currentScript.dataset;
  const base = `/${location.pathname.split("/")[1]}`;
  const element = (tag, name, text = "") => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.textContent = text;
    return made;
  };
  const field = (label, longest = 2000) => {
    const made = element("input");
    made.type = "text";
    made.maxLength = longest;
    made.placeholder = label;
    made.setAttribute("aria-label", label);
    made.autocomplete = "off";
    return made;
  };
  const form = (input, label, action) => {
    const made = element("form");
    made.append(input, element("button", "", label));
    made.addEventListener("submit", (event) => {
      event.preventDefault();
      if (input.value.trim()) action(input.value);
    });
    return made;
  };

  const section = element("section", "playground"), title = element("h2", "", "Playground");
  section.id = "playground";
  section.setAttribute("aria-labelledby", "playground-title");
  title.id = "playground-title";
  const said = element("output");
  said.setAttribute("aria-live", "polite");
  const say = (words, bad = false) => {
    said.textContent = words;
    said.classList.toggle("bad", bad);
  };

  const stop = element("button", "stop", "Stop waiting");
  stop.type = "button";
  stop.hidden = true;
  stop.title = "What is made or measured already stays on record";

  const post = async (what, asked, step, signal) => {
    const answer = await fetch(`${base}/${what}/${encodeURIComponent(unit)}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked), signal,
    });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", last = { error: "the server ended before the trial did" };
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        last = JSON.parse(line);
        if (last.doing) step(last.doing);
      }
    }
    if (last.number === null || last.number === undefined) throw new Error(last.error || "the trial did not end");
    return last.number;
  };

  let wanted = 0, busy = false;
  const reveal = () => {
    const trial = wanted && document.getElementById(`trial-${wanted}`);
    if (!trial) return;
    wanted = 0;
    trial.focus({ preventScroll: true });
    trial.scrollIntoView({ block: "center" });
  };
  const attempt = async (asked) => {
    if (busy) return say("Another trial is at work.", true);
    busy = true;
    if (dialog?.open) dialog.close();
    section.scrollIntoView({ block: "nearest" });
    say("Sent.");
    const leaving = new AbortController();
    stop.onclick = () => leaving.abort();
    stop.hidden = false;
    try {
      wanted = await post("trials", asked, (doing) => say(`${doing} …`), leaving.signal);
      say(`Trial ${wanted} is on record.`);
      reveal();
    } catch (error) {
      if (error.name === "AbortError") say("No longer waited for: what is known already is on record.");
      else say(error.message, true);
    }
    stop.hidden = true;
    busy = false;
  };

  const send = (file) => {
    if (!file) return;
    if (!file.type.startsWith("image/")) return say("This is no image file.", true);
    if (file.size > 24e6) return say("The photo has more than 24 MB. Reduce it first.", true);
    const reader = new FileReader();
    reader.addEventListener("load", () => attempt({ kind: "photo", data: reader.result.split(",")[1] ?? "" }));
    reader.addEventListener("error", () => say("The photo cannot be read.", true));
    reader.readAsDataURL(file);
  };
  const prompt = form(field("A prompt, such as: a red bus at night"), "Try the prompt", (words) => attempt({ kind: "prompt", prompt: words }));
  const drop = element("label", "drop", "Drop or paste a photo here, or choose a file"), chooser = element("input");
  chooser.type = "file";
  chooser.accept = "image/*";
  chooser.addEventListener("change", () => { send(chooser.files[0]); chooser.value = ""; });
  drop.append(chooser);
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragenter" || name === "dragover");
      if (name === "drop") send(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file) { event.preventDefault(); send(file); }
  });
  const note = form(field("A note to the agent, read before its next round", 4000), "Send the note", async (words) => {
    try {
      const number = await post("notes", { text: words }, () => {});
      say(`Note ${number} is on record: the agent reads it before its next round.`);
      note.reset();
    } catch (error) {
      say(error.message, true);
    }
  });
  section.append(
    title, element("p", "quiet", "Try something on this unit. The models start with the first trial. Open any image to crop, edit or ablate it."),
    prompt, drop, note, said, stop,
  );
  document.querySelector(".exemplars")?.after(section); // the first screen stays the unit's

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.send-trial");
    if (!button) return;
    button.disabled = true;
    try {
      await post("notes", { trial: Number(button.dataset.trial) }, () => {});
      button.textContent = "Sent";
    } catch (error) {
      button.disabled = false;
      say(error.message, true);
    }
  });
  const prepare = () => {
    note.hidden = !document.querySelector(".chip.running");
    for (const button of document.querySelectorAll("button.send-trial")) button.hidden = false;
    reveal();
  };
  document.addEventListener("maia:changed", prepare);

  // In the lightbox, whose script has made it by now: a crop is drawn on the picture, or it is edited or ablated.
  let dialog = null, box = null, frame = null;
  const begin = () => {
    prepare();
    dialog = document.querySelector("dialog.lightbox");
    if (!dialog) return;
    const view = dialog.querySelector(".view");
    const shown = () => (/\/([0-9a-f]{8,64})\.webp$/.exec(view.querySelector("img")?.src ?? "") ?? [])[1];
    const edit = form(field("An edit, such as: replace the sky by water"), "Edit", (words) => attempt({ kind: "edit", image: shown(), instruction: words }));
    const crop = element("button", "crop", "Try the crop"), ablate = element("button", "ablate", "Ablate the unit");
    crop.type = ablate.type = "button";
    crop.disabled = true;
    crop.title = "Draw a box on the picture first";
    const clear = () => {
      frame?.remove();
      box = frame = null;
      crop.disabled = true;
    };
    crop.addEventListener("click", () => { if (frame?.isConnected) attempt({ kind: "crop", image: shown(), box }); });
    ablate.addEventListener("click", () => attempt({ kind: "ablate", image: shown() }));
    edit.append(crop, ablate);
    dialog.append(edit);
    dialog.addEventListener("close", clear);
    dialog.querySelector(".controls").addEventListener("click", clear);
    view.classList.add("drawing");
    view.addEventListener("dragstart", (event) => event.preventDefault());
    const place = (event) => {
      const area = view.getBoundingClientRect();
      const share = (at, from, length) => Math.min(1, Math.max(0, (at - from) / length));
      return [share(event.clientX, area.left, area.width), share(event.clientY, area.top, area.height)];
    };
    let start = null;
    view.addEventListener("pointerdown", (event) => {
      clear();
      start = place(event);
      frame = element("div", "box");
      view.append(frame);
      view.setPointerCapture(event.pointerId);
    });
    view.addEventListener("pointermove", (event) => {
      if (!start || !frame) return;
      const [x, y] = place(event);
      box = [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
      const [left, top, right, bottom] = box;
      Object.assign(frame.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
    });
    view.addEventListener("pointerup", () => {
      start = null;
      crop.disabled = !box || box[2] - box[0] < 0.02 || box[3] - box[1] < 0.02;
    });
  };
  document.addEventListener("DOMContentLoaded", begin);
})();
