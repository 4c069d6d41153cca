// The atlas: all units on one map, with a search. Labels were written by models: they are only ever set as text
// or painted on the canvas, never as markup.
"use strict";
const MAIA_DETAILS = []; // files of details put theirs here
(() => {
  const SHOWN = 60; // units in the list
  const CELLS = 96; // cells of a side, to find the point under the pointer
  const NOWHERE = 65535;
  const byId = (id) => document.getElementById(id);
  const numbers = (coded, Kind) => {
    const raw = atob(coded), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
    return new Kind(bytes.buffer);
  };
  const A = MAIA_ATLAS, n = A.count;
  const x = numbers(A.x, Uint16Array), y = numbers(A.y, Uint16Array), layerOf = numbers(A.layer, Uint16Array);
  const index = numbers(A.index, Int32Array), labelOf = numbers(A.label, Int32Array);
  const verdictOf = numbers(A.verdict, Uint8Array), tierOf = numbers(A.tier, Uint8Array);
  const shared = numbers(A.shared, Uint8Array), role = numbers(A.role, Uint8Array);
  const score = numbers(A.score, Int16Array), named = numbers(A.named, Int32Array);
  const root = byId("atlas"), canvas = byId("map"), tip = byId("tip"), hits = byId("hits"), panel = byId("unit");
  const search = byId("search"), only = byId("only"), color = byId("color"), found = byId("found");
  const selects = { layer: byId("layer"), verdict: byId("verdict"), tier: byId("tier") };
  const chunkOf = (unit) => Math.floor(unit / A.chunk);

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const amount = (value) => Math.round(value).toLocaleString("en");
  const nameOf = (unit) => (index[unit] < 0 ? A.layers[layerOf[unit]] : `${A.layers[layerOf[unit]]}:${index[unit]}`);
  const labelText = (unit) => (labelOf[unit] < 0 ? "" : A.labels[labelOf[unit]]);

  // Filters -------------------------------------------------------------------------------------------------
  const fill = (select, of, names) => {
    const counts = new Int32Array(names.length);
    for (let i = 0; i < n; i += 1) counts[of[i]] += 1;
    names.forEach((name, place) => {
      if (!counts[place]) return;
      const option = element("option", "", `${name} (${amount(counts[place])})`);
      option.value = String(place);
      select.append(option);
    });
  };
  fill(selects.layer, layerOf, A.layers);
  fill(selects.verdict, verdictOf, A.verdicts.map((row) => row[1]));
  fill(selects.tier, tierOf, A.tiers.map((row) => row[1]));

  // Search --------------------------------------------------------------------------------------------------
  const low = A.labels.map((label) => ` ${label.toLowerCase()} `);
  let more = null, kinds = [], words = [], starts = null, entries = null, near = null, names = null;
  const inOrder = (() => {
    // The surest first, so that a list of the first hits is one of the best.
    const keys = new Float64Array(n);
    for (let i = 0; i < n; i += 1) keys[i] = (10001 - score[i]) * 4194304 + i;
    keys.sort();
    return Uint32Array.from(keys, (key) => key % 4194304);
  })();
  const labelRank = new Uint8Array(A.labels.length);
  const rankLabels = (query, parts) => {
    // Best the label itself, then labels with the words, with words that begin so, and things of that kind.
    const whole = parts.map((part) => ` ${part} `), begun = parts.map((part) => ` ${part}`), phrase = ` ${query} `;
    for (let l = 0; l < low.length; l += 1) {
      const text = low[l];
      let rank = 0;
      if (begun.every((part) => text.includes(part))) {
        rank = text === phrase ? 5 : whole.every((part) => text.includes(part)) ? 4 : 3;
      } else if (kinds.length && begun.every((part) => text.includes(part) || kinds[l].includes(part))) rank = 2;
      else if (parts.every((part) => text.includes(part))) rank = 1;
      labelRank[l] = rank;
    }
  };
  const namesOf = () => { names ??= Array.from({ length: n }, (_, i) => nameOf(i).toLowerCase()); };
  const rank = new Uint8Array(n);
  const rankUnits = (query, parts) => {
    rankLabels(query, parts);
    for (let i = 0; i < n; i += 1) rank[i] = labelOf[i] < 0 ? 0 : labelRank[labelOf[i]];
    if (more) {
      const matching = Uint8Array.from(words, (word) => (parts.every((part) => word.includes(part)) ? 1 : 0));
      for (let i = 0; i < n; i += 1) {
        for (let e = starts[i]; !rank[i] && e < starts[i + 1]; e += 1) if (matching[entries[e]]) rank[i] = 1;
      }
    }
    if (/[:.\d]/.test(query)) {
      namesOf();
      for (let i = 0; i < n; i += 1) if (!rank[i] && names[i].includes(query)) rank[i] = names[i] === query ? 5 : 1;
    }
  };
  let match = new Uint8Array(n).fill(1), list = [], count = n, chosen = -1, at = -1;
  const filter = () => {
    const query = search.value.trim().toLowerCase().replace(/\s+/g, " ");
    const wanted = Object.fromEntries(Object.entries(selects).map(([k, s]) => [k, s.value === "" ? -1 : +s.value]));
    if (query) rankUnits(query, query.split(" "));
    const buckets = [[], [], [], [], [], []];
    count = 0;
    for (let o = 0; o < n; o += 1) {
      const i = inOrder[o];
      const fits = (!query || rank[i])
        && (wanted.layer < 0 || layerOf[i] === wanted.layer)
        && (wanted.verdict < 0 || verdictOf[i] === wanted.verdict)
        && (wanted.tier < 0 || tierOf[i] === wanted.tier)
        && (only.value === "" || (only.value === "label" && labelOf[i] >= 0) || (only.value === "none" && labelOf[i] < 0)
          || (only.value === "shared" && shared[i]) || (only.value === "role" && role[i]));
      match[i] = fits ? 1 : 0;
      if (!fits) continue;
      count += 1;
      const bucket = buckets[query ? rank[i] : labelOf[i] < 0 ? 0 : 1];
      if (bucket.length < SHOWN) bucket.push(i);
    }
    list = buckets.reverse().flat().slice(0, SHOWN);
    at = -1;
    found.textContent = `${amount(count)} of ${amount(n)}`;
  };

  // Colors --------------------------------------------------------------------------------------------------
  const VARIABLES = { confirmed: "--accent", real: "--s", generated: "--s", partial: "--wait", weak: "--wait",
    unconfirmed: "--warm", failed: "--bad", running: "--blue", untested: "--k", dead: "--c" };
  const TIERS = ["--c", "--k", "--accent"];
  let palette = [], dim = 0, ink = "", page = "";
  const packed = (hex) => {
    const value = parseInt(hex.slice(1), 16);
    return (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
  };
  const depthColor = (place) => {
    const hue = 260 - 230 * (A.layers.length < 2 ? 0 : place / (A.layers.length - 1)), f = (k) => {
      const h = (k + hue / 30) % 12;
      return Math.round(255 * (0.52 - 0.32 * Math.max(-1, Math.min(h - 3, 9 - h, 1)))).toString(16).padStart(2, "0");
    };
    return `#${f(0)}${f(8)}${f(4)}`;
  };
  const classOf = () => (color.value === "layer" ? layerOf : color.value === "tier" ? tierOf : verdictOf);
  const readColors = () => {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    const used = color.value === "layer" ? A.layers.map((_, place) => depthColor(place))
      : color.value === "tier" ? A.tiers.map((_, place) => value(TIERS[place]))
      : A.verdicts.map(([key]) => value(VARIABLES[key] ?? "--c"));
    palette = used.map((hex) => ({ hex, number: packed(hex) }));
    dim = packed(value("--line"));
    ink = value("--ink");
    page = value("--page");
    const counts = new Int32Array(used.length), of = classOf();
    for (let i = 0; i < n; i += 1) counts[of[i]] += 1;
    const texts = color.value === "layer" ? A.layers : (color.value === "tier" ? A.tiers : A.verdicts).map((row) => row[1]);
    byId("legend").replaceChildren(...texts.flatMap((text, place) => {
      if (!counts[place]) return [];
      const item = element("span", "legend-item said"), swatch = element("span", "swatch");
      swatch.style.background = used[place];
      item.append(swatch, text);
      return [item];
    }));
  };

  // The map -------------------------------------------------------------------------------------------------
  let zoom = 1, left = 0, top = 0; // the part of the unit square in view: from (left, top), 1 / zoom wide
  const stamps = new Map();
  const stamp = (radius, width) => {
    const key = `${radius} ${width}`;
    if (!stamps.has(key)) {
      const offsets = [], reach = Math.ceil(radius);
      for (let dy = -reach; dy <= reach; dy += 1) {
        for (let dx = -reach; dx <= reach; dx += 1) if (dx * dx + dy * dy <= radius * radius) offsets.push(dy * width + dx);
      }
      stamps.set(key, Int32Array.from(offsets));
    }
    return stamps.get(key);
  };
  const paint = (target, show, part, radius) => {
    const { width, height } = target, context = target.getContext("2d");
    const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
    const offsets = stamp(radius, width), margin = Math.ceil(radius), of = classOf();
    const scaleX = part.zoom * width / 65534, scaleY = part.zoom * height / 65534;
    const moveX = -part.left * part.zoom * width, moveY = -part.top * part.zoom * height;
    for (const pass of [0, 1]) {
      for (let i = 0; i < n; i += 1) {
        if (x[i] === NOWHERE || match[i] !== pass || !show(i, pass)) continue;
        const column = Math.round(x[i] * scaleX + moveX), row = Math.round(y[i] * scaleY + moveY);
        if (column < margin || row < margin || column >= width - margin || row >= height - margin) continue;
        const place = row * width + column, ink32 = pass ? palette[of[i]].number : dim;
        for (let o = 0; o < offsets.length; o += 1) pixels[place + offsets[o]] = ink32;
      }
    }
    context.putImageData(image, 0, 0);
    return context;
  };
  const screenX = (value) => (value / 65534 - left) * zoom * canvas.width;
  const screenY = (value) => (value / 65534 - top) * zoom * canvas.height;
  const centers = new Int32Array(A.labels.length).fill(-1);
  for (let i = 0; i < n; i += 1) if (labelOf[i] >= 0 && centers[labelOf[i]] < 0) centers[labelOf[i]] = i;
  const commonest = Uint32Array.from(A.labels.keys()).sort((a, b) => named[b] - named[a] || a - b);
  const writeNames = (context, ratio) => {
    const taken = [];
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.lineWidth = 3 * ratio;
    context.strokeStyle = page;
    context.fillStyle = ink;
    const narrowed = count < n;
    for (let o = 0, tried = 0; o < commonest.length && taken.length < 36 && tried < 300; o += 1) {
      const label = commonest[o], unit = centers[label];
      if (narrowed && !match[unit]) continue;
      const cx = screenX(x[unit]), cy = screenY(y[unit]);
      if (cx < 0 || cy < 14 * ratio || cx > canvas.width || cy > canvas.height) continue;
      const tall = 9 * ratio;
      tried += 1;
      if (taken.some((box) => Math.abs(box.cx - cx) < box.half && Math.abs(box.cy - cy) < 2 * tall)) continue;
      const text = A.labels[label].length > 26 ? `${A.labels[label].slice(0, 25)}…` : A.labels[label];
      const half = context.measureText(text).width / 2 + 4 * ratio;
      if (cx < half || cx > canvas.width - half) continue;
      if (taken.some((box) => Math.abs(box.cx - cx) < box.half + half && Math.abs(box.cy - cy) < 2 * tall)) continue;
      taken.push({ cx, cy, half });
      context.strokeText(text, cx, cy - 6 * ratio);
      context.fillText(text, cx, cy - 6 * ratio);
    }
  };
  const draw = () => {
    const box = canvas.getBoundingClientRect(), ratio = Math.min(2, devicePixelRatio || 1);
    const width = Math.max(1, Math.round(box.width * ratio)), height = Math.max(1, Math.round(box.height * ratio));
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const radius = Math.max(1, Math.min(5, (n > 10000 ? 1 : n > 2000 ? 1.5 : 2.5) * ratio * Math.sqrt(zoom)));
    const context = paint(canvas, () => true, { zoom, left, top }, radius);
    writeNames(context, ratio);
    if (chosen >= 0 && x[chosen] !== NOWHERE) {
      context.beginPath();
      context.lineWidth = 2 * ratio;
      context.strokeStyle = ink;
      context.arc(screenX(x[chosen]), screenY(y[chosen]), radius + 4 * ratio, 0, 2 * Math.PI);
      context.stroke();
    }
  };
  let waiting = 0;
  const redraw = () => { waiting ||= requestAnimationFrame(() => { waiting = 0; draw(); }); };

  // Small maps, one a layer ---------------------------------------------------------------------------------
  const layerMaps = A.layers.map((name, place) => {
    const button = element("button", "layer-map"), small = element("canvas");
    button.type = "button";
    small.width = 132; small.height = 96;
    button.append(small, element("span", "said", name));
    button.addEventListener("click", () => {
      selects.layer.value = selects.layer.value === String(place) ? "" : String(place);
      apply();
    });
    byId("layers").append(button);
    return { button, small };
  });
  const unitsOf = Array.from({ length: A.layers.length }, () => []);
  for (let i = 0; i < n; i += 1) unitsOf[layerOf[i]].push(i);
  const drawLayers = () => {
    const of = classOf();
    layerMaps.forEach(({ button, small }, place) => {
      const context = small.getContext("2d"), image = context.createImageData(132, 96);
      const pixels = new Uint32Array(image.data.buffer);
      for (const pass of [0, 1]) {
        for (const i of unitsOf[place]) {
          if (x[i] === NOWHERE || match[i] !== pass) continue;
          const spot = Math.round(y[i] / 65534 * 94) * 132 + Math.round(x[i] / 65534 * 130);
          const value = pass ? palette[of[i]].number : dim;
          pixels[spot] = pixels[spot + 1] = pixels[spot + 132] = pixels[spot + 133] = value;
        }
      }
      context.putImageData(image, 0, 0);
      button.setAttribute("aria-pressed", String(selects.layer.value === String(place)));
    });
  };

  // The list and one unit -----------------------------------------------------------------------------------
  const chip = (unit) => {
    const [key, text, meaning] = A.verdicts[verdictOf[unit]];
    const made = element("span", `chip ${key}`, text);
    made.title = meaning;
    return made;
  };
  const line = (unit, place) => {
    const item = element("li"), button = element("button", place === at ? "hit chosen" : "hit");
    button.type = "button";
    button.dataset.unit = String(unit);
    button.append(element("span", "said name", labelText(unit) || "no label"), element("span", "said quiet", nameOf(unit)));
    if (verdictOf[unit]) button.append(chip(unit));
    item.append(button);
    return item;
  };
  const fillList = () => {
    const lines = list.map(line);
    if (count > list.length) lines.push(element("li", "quiet", `and ${amount(count - list.length)} more`));
    if (!count) lines.push(element("li", "quiet", "No unit fits."));
    hits.replaceChildren(...lines);
  };
  const loaded = new Map();
  const script = (source) => {
    if (!loaded.has(source)) {
      loaded.set(source, new Promise((done, failed) => {
        const made = element("script");
        made.src = source;
        made.addEventListener("load", done);
        made.addEventListener("error", failed);
        document.head.append(made);
      }));
    }
    return loaded.get(source);
  };
  const goTo = (unit, words) => {
    const button = element("button", "link said", words);
    button.type = "button";
    button.dataset.unit = String(unit);
    return button;
  };
  const section = (title, ...content) => {
    const made = element("div", "about");
    made.append(element("h3", "", title), ...content);
    return made;
  };
  const thumbs = (images, name) => {
    const strip = element("div", "thumbs large");
    images.forEach((layers, place) => {
      const thumb = element("span", "thumb");
      layers.forEach((path, level) => {
        const image = element("img", level ? "mask" : "");
        image.alt = level ? "" : `exemplar ${place + 1} of ${name}`;
        image.width = image.height = 72;
        image.src = root.dataset.run + path;
        thumb.append(image);
      });
      strip.append(thumb);
    });
    return strip;
  };
  const alikeUnits = (unit) => {
    const made = [];
    if (labelOf[unit] < 0) return made;
    const same = [];
    for (let i = 0; i < n && same.length < 12; i += 1) if (i !== unit && labelOf[i] === labelOf[unit]) same.push(i);
    if (same.length) {
      const row = element("p", "chips");
      row.append(...same.map((other) => goTo(other, nameOf(other))));
      if (named[labelOf[unit]] - 1 > same.length) row.append(` and ${amount(named[labelOf[unit]] - 1 - same.length)} more`);
      made.push(section("Same label", row));
    }
    if (near) {
      const row = element("p", "chips");
      for (let k = 0; k < more.neighbors; k += 1) {
        const label = near[labelOf[unit] * more.neighbors + k];
        if (label >= 0) row.append(goTo(centers[label], A.labels[label]));
      }
      if (row.childNodes.length) made.push(section("Nearest labels", row));
    }
    return made;
  };
  const show = (unit, center) => {
    chosen = unit;
    panel.hidden = false;
    const head = element("h2", "said", labelText(unit) || "no label");
    const facts = element("p", "tally");
    facts.append(element("span", "said", nameOf(unit)), element("span", "", A.tiers[tierOf[unit]][1]));
    if (verdictOf[unit]) facts.append(chip(unit));
    if (score[unit] >= 0) facts.append(element("span", "", `AUROC ${(score[unit] / 10000).toFixed(2)}`));
    panel.replaceChildren(head, facts, ...alikeUnits(unit));
    if (center && x[unit] !== NOWHERE) {
      const px = screenX(x[unit]) / canvas.width, py = screenY(y[unit]) / canvas.height;
      if (px < 0 || py < 0 || px > 1 || py > 1) { left = x[unit] / 65534 - 0.5 / zoom; top = y[unit] / 65534 - 0.5 / zoom; bound(); }
    }
    redraw();
    keep();
    script(`atlas/details-${chunkOf(unit)}.js`).then(() => {
      if (chosen !== unit) return;
      const [, href, description, raises, lowers, rivals, images, , q, alike, likeness] = MAIA_DETAILS[chunkOf(unit)][unit % A.chunk];
      const parts = [];
      if (href) {
        const link = element("a", "open", "Open the unit's page");
        link.href = root.dataset.report + href;
        parts.push(link);
      }
      if (images.length) parts.push(thumbs(images, nameOf(unit)));
      if (description) parts.push(element("p", "said", description));
      if (raises.length) parts.push(section("Raises", element("p", "said", raises.join("; "))));
      if (lowers.length) parts.push(section("Lowers", element("p", "said", lowers.join("; "))));
      if (rivals.length) parts.push(section("Other labels", element("p", "said", rivals.join("; "))));
      if (alike) parts.push(section("Most alike unit", element("p", "said", likeness === null ? alike : `${alike} (${likeness.toFixed(2)})`)));
      if (q !== null) facts.append(element("span", "", `q ${q.toPrecision(2)}`));
      facts.after(...parts);
    }, () => panel.append(element("p", "quiet", "Details of this unit are missing beside this page.")));
  };

  // State in the address, so that a view can be shared and survives a reload --------------------------------
  let keeping = 0;
  const keep = () => {
    clearTimeout(keeping);
    keeping = setTimeout(() => {
      const parts = new URLSearchParams();
      if (search.value) parts.set("q", search.value);
      if (selects.layer.value) parts.set("layer", A.layers[+selects.layer.value]);
      if (selects.verdict.value) parts.set("verdict", A.verdicts[+selects.verdict.value][0]);
      if (selects.tier.value) parts.set("tier", A.tiers[+selects.tier.value][1]);
      if (only.value) parts.set("only", only.value);
      if (color.value !== usual) parts.set("color", color.value);
      if (chosen >= 0) parts.set("unit", nameOf(chosen));
      const hash = parts.toString();
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    }, 250);
  };
  let later = 0;
  const apply = () => {
    filter();
    fillList();
    redraw();
    keep();
    clearTimeout(later);
    later = setTimeout(drawLayers, 120);
  };

  // Pointer, keys -------------------------------------------------------------------------------------------
  const cells = Array.from({ length: CELLS * CELLS }, () => []);
  const cellOf = (value) => Math.min(CELLS - 1, Math.floor(value / 65535 * CELLS));
  for (let i = 0; i < n; i += 1) if (x[i] !== NOWHERE) cells[cellOf(y[i]) * CELLS + cellOf(x[i])].push(i);
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const px = (event.clientX - box.left) / box.width / zoom + left, py = (event.clientY - box.top) / box.height / zoom + top;
    const column = Math.floor(px * CELLS), row = Math.floor(py * CELLS);
    let best = -1, least = 12;
    for (let r = row - 1; r <= row + 1; r += 1) {
      for (let c = column - 1; c <= column + 1; c += 1) {
        if (r < 0 || c < 0 || r >= CELLS || c >= CELLS) continue;
        for (const i of cells[r * CELLS + c]) {
          if (!match[i]) continue;
          const away = Math.hypot((x[i] / 65534 - px) * zoom * box.width, (y[i] / 65534 - py) * zoom * box.height);
          if (away < least) { least = away; best = i; }
        }
      }
    }
    return best;
  };
  const bound = () => {
    left = Math.max(0, Math.min(1 - 1 / zoom, left));
    top = Math.max(0, Math.min(1 - 1 / zoom, top));
    canvas.classList.toggle("zoomed", zoom > 1);
  };
  const zoomBy = (factor, px = 0.5, py = 0.5) => {
    const wanted = Math.max(1, Math.min(64, zoom * factor));
    left += px / zoom - px / wanted;
    top += py / zoom - py / wanted;
    zoom = wanted;
    bound();
    redraw();
  };
  const move = (dx, dy) => { left += dx / zoom; top += dy / zoom; bound(); redraw(); };
  const pointers = new Map();
  let moved = false;
  canvas.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, event); moved = false; });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect(), before = pointers.get(event.pointerId);
    if (!before) {
      const unit = under(event);
      tip.hidden = unit < 0;
      if (unit >= 0) {
        tip.textContent = `${labelText(unit) || "no label"} · ${nameOf(unit)}`;
        tip.style.left = `${Math.min(event.clientX - box.left + 12, box.width - 160)}px`;
        tip.style.top = `${event.clientY - box.top + 14}px`;
      }
      return;
    }
    if (pointers.size === 2) {
      const [other] = [...pointers.values()].filter((each) => each.pointerId !== event.pointerId);
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      zoomBy(apart(event) / Math.max(1, apart(before)), (other.clientX - box.left) / box.width, (other.clientY - box.top) / box.height);
    } else if (moved || Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY) > 3) {
      if (!moved) canvas.setPointerCapture(event.pointerId);
      move((before.clientX - event.clientX) / box.width, (before.clientY - event.clientY) / box.height);
    } else return;
    moved = true;
    pointers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => {
    const unit = moved ? -1 : under(event);
    if (unit >= 0) show(unit, false);
  });
  canvas.addEventListener("wheel", (event) => {
    // Without a key, only of a map that was entered: a page must scroll.
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY / 300), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }, { passive: false });
  const MOVES = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else if (event.key === "0") { zoom = 1; bound(); redraw(); }
    else if (MOVES[event.key]) move(...MOVES[event.key]);
    else return;
    event.preventDefault();
  });
  byId("closer").addEventListener("click", () => zoomBy(1.6));
  byId("farther").addEventListener("click", () => zoomBy(1 / 1.6));
  byId("whole").addEventListener("click", () => { zoom = 1; bound(); redraw(); });

  const step = (by) => {
    if (!list.length) return;
    at = Math.max(0, Math.min(list.length - 1, at + by));
    fillList();
    hits.children[at].scrollIntoView({ block: "nearest" });
    show(list[at], true);
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select")) {
      if (event.key === "Escape") event.target.blur();
      else if (event.key === "Enter" && event.target === search) { search.blur(); at = -1; step(1); }
      return;
    }
    if (event.key === "/") search.focus();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "Enter" && event.target === document.body) panel.querySelector("a.open")?.click();
    else return;
    event.preventDefault();
  });
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-unit]");
    if (button) show(Number(button.dataset.unit), true);
  });
  search.addEventListener("input", apply);
  for (const select of [...Object.values(selects), only]) select.addEventListener("change", apply);
  color.addEventListener("change", () => { readColors(); apply(); });
  addEventListener("resize", redraw);
  const recolor = () => { readColors(); draw(); drawLayers(); };
  new MutationObserver(recolor).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);

  // Start ---------------------------------------------------------------------------------------------------
  const start = new URLSearchParams(location.hash.slice(1));
  const choose = (select, place) => { if (place >= 0) select.value = String(place); if (select.selectedIndex < 0) select.value = ""; };
  search.value = start.get("q") ?? "";
  choose(selects.layer, A.layers.indexOf(start.get("layer") ?? ""));
  if (start.get("verdict")) choose(selects.verdict, A.verdicts.findIndex((row) => row[0] === start.get("verdict")));
  if (start.get("tier")) choose(selects.tier, A.tiers.findIndex((row) => row[1] === start.get("tier")));
  only.value = start.get("only") ?? "";
  if (only.selectedIndex < 0) only.value = "";
  // One verdict for all says nothing.
  const usual = selects.verdict.options.length > 2 ? "verdict" : "layer";
  color.value = start.get("color") ?? usual;
  if (color.selectedIndex < 0) color.value = usual;
  byId("first").hidden = true;
  root.hidden = false;
  readColors();
  apply();
  setTimeout(() => script("atlas/more.js").then(() => {
    more = MAIA_ATLAS_MORE;
    words = more.words.map((word) => word.toLowerCase());
    kinds = more.kinds.map((text) => ` ${text.toLowerCase()} `);
    starts = numbers(more.starts, Int32Array);
    entries = numbers(more.entries, Int32Array);
    near = numbers(more.near, Int32Array);
    namesOf();
    root.dataset.whole = "true";
    if (search.value) apply();
    const wanted = start.get("unit");
    if (wanted && chosen < 0) for (let i = 0; i < n; i += 1) if (nameOf(i) === wanted) { show(i, true); break; }
  }, () => {}), 0);
})();
