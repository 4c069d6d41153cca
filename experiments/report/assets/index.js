// The table of units. Only the rows in view exist in the page, so ten thousand units scroll like ten.
// Everything is set as text, never as markup: labels were written by a model.
(() => {
  "use strict";
  const ROW = 52; // the height of a row in pixels, as in the style sheet
  const SPARE = 12; // rows kept ready above and below the view
  if (!document.querySelector(".units-table")) {
    // No unit has begun: the page has a table, and needs this script, once one has.
    document.addEventListener("maia:changed", ({ detail }) => { if (detail.units?.rows.length) location.reload(); });
    return;
  }
  const at = Object.fromEntries(MAIA_UNITS.columns.map((name, place) => [name, place]));
  let units = MAIA_UNITS.rows;
  const collator = new Intl.Collator("en", { numeric: true });

  const roles = units.some((unit) => unit[at.role]);
  const COLUMNS = [
    { key: "short", title: "Unit" },
    { key: "thumbs", title: "Exemplars", fixed: true },
    { key: "label", title: "Label" },
    { key: "role", title: "Role" },
    { key: "verdict", title: "Verdict" },
    { key: "auroc", title: "AUROC", number: true },
    { key: "low", title: "Interval", number: true },
    { key: "e_value", title: "e-value", number: true },
    { key: "rounds", title: "Rounds", number: true },
    { key: "images", title: "Images", number: true },
    { key: "tokens", title: "Tokens", number: true },
  ].filter((column) => roles || column.key !== "role"); // runs of earlier versions have none

  const byId = (id) => document.getElementById(id);
  const table = document.querySelector(".units-table");
  const body = table.tBodies[0];
  table.classList.toggle("roles", roles);
  const search = byId("search"), verdict = byId("verdict"), layer = byId("layer"), least = byId("least");
  const found = byId("found");
  let haystack = [];
  const index = () => {
    haystack = units.map((unit) => `${unit[at.short]} ${unit[at.label]} ${unit[at.role]}`.toLowerCase());
  };
  let shown = [];
  let sort = { key: "short", down: false };
  let chosen = -1;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const figure = (value, digits) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
  const amount = (value) => (value === null ? "–" : Math.round(value).toLocaleString("en"));

  const SUPERSCRIPT = { "-": "⁻", ...[..."⁰¹²³⁴⁵⁶⁷⁸⁹"] };
  const evidence = (value) => { // as the terminal writes it
    if (value === null) return "–";
    if (value >= 1e5 || (value > 0 && value < 0.005)) {
      const [mantissa, exponent] = value.toExponential(1).split("e");
      return `${mantissa} × 10${[...exponent.replace("+", "")].map((digit) => SUPERSCRIPT[digit]).join("")}`;
    }
    return value < 100 ? figure(value, value < 1 ? 2 : 1) : amount(value);
  };

  const interval = (low, high, value) => {
    if (low === null || high === null) return "–";
    const track = element("span", "track");
    const range = element("span", "range"), point = element("span", "point");
    range.style.left = `${100 * low}%`;
    range.style.width = `${100 * (high - low)}%`;
    point.style.left = `${100 * value}%`;
    track.setAttribute("role", "img");
    track.setAttribute("aria-label", `${figure(low, 2)} to ${figure(high, 2)}`);
    track.title = track.getAttribute("aria-label");
    track.append(range, point);
    return track;
  };

  const thumbs = (images, name) => {
    const strip = element("span", "thumbs");
    images.forEach((layers, rank) => {
      const thumb = element("span", "thumb");
      layers.forEach((path, level) => {
        const image = element("img", level ? "mask" : "");
        image.alt = level ? "" : `exemplar ${rank + 1} of ${name}`;
        image.width = image.height = 40;
        image.decoding = "async";
        image.src = `../${path}`;
        thumb.append(image);
      });
      strip.append(thumb);
    });
    return strip;
  };

  const chip = (key) => {
    const made = element("span", `chip ${key}`, MAIA_UNITS.verdicts[key]);
    made.title = MAIA_UNITS.meanings[key];
    return made;
  };

  const row = (place) => {
    const unit = units[shown[place]];
    const line = element("tr", place === chosen ? "chosen" : "");
    line.setAttribute("aria-rowindex", String(place + 2));
    line.dataset.place = String(place);
    const cell = (className, content) => {
      const made = element("td", className);
      made.append(content);
      line.append(made);
      return made;
    };
    cell("short", element("span", "said", unit[at.short]));
    const link = element("a", "said", unit[at.label] || "–");
    link.href = unit[at.href];
    link.title = unit[at.label] || unit[at.short];
    cell("thumbs", thumbs(unit[at.thumbs], unit[at.short]));
    cell("label", link).dataset.unit = unit[at.short]; // what a narrow screen shows in place of its column
    if (roles) {
      const role = element("span", "said", unit[at.role] || "–");
      role.title = unit[at.role];
      cell("role", role);
    }
    cell("verdict", chip(unit[at.verdict]));
    cell("number auroc", figure(unit[at.auroc], 2));
    cell("low", interval(unit[at.low], unit[at.high], unit[at.auroc]));
    cell("number e_value", evidence(unit[at.e_value]));
    cell("number rounds", amount(unit[at.rounds]));
    cell("number images", amount(unit[at.images]));
    cell("number tokens", amount(unit[at.tokens]));
    return line;
  };
  const space = (rows) => {
    const line = element("tr", "space");
    line.setAttribute("aria-hidden", "true");
    line.append(element("td"));
    line.firstChild.style.height = `${rows * ROW}px`;
    return line;
  };

  let drawn = "";
  const draw = (force) => {
    const top = -table.tBodies[0].getBoundingClientRect().top;
    const first = Math.max(0, Math.min(shown.length - 1, Math.floor(top / ROW) - SPARE));
    const last = Math.min(shown.length, Math.ceil((top + innerHeight) / ROW) + SPARE);
    const state = `${first} ${last}`;
    if (!force && state === drawn) return;
    drawn = state;
    const lines = [], known = new Map([...body.rows].map((line) => [line.dataset.state, line]));
    if (first > 0) lines.push(space(first));
    for (let place = Math.max(0, first); place < last; place += 1) {
      // A row that says the same stays as it is, with its pictures and whatever has the focus.
      const says = JSON.stringify([place, place === chosen, units[shown[place]]]);
      const line = known.get(says) ?? row(place);
      line.dataset.state = says;
      lines.push(line);
    }
    if (last < shown.length) lines.push(space(shown.length - Math.max(0, last)));
    if (lines.length === body.rows.length) {
      lines.forEach((line, at) => { if (body.rows[at] !== line) body.rows[at].replaceWith(line); });
    } else {
      body.replaceChildren(...lines);
    }
  };

  const order = () => {
    const place = at[sort.key], sign = sort.down ? -1 : 1;
    shown.sort((one, two) => {
      const a = units[one][place], b = units[two][place];
      // What is not known comes last, whichever way the rest is sorted.
      if (a === null || a === "" || b === null || b === "") return (a === null || a === "") - (b === null || b === "");
      return sign * (typeof a === "number" ? a - b : collator.compare(a, b)) || one - two;
    });
  };

  const keep = () => {
    const parts = new URLSearchParams();
    if (search.value) parts.set("q", search.value);
    if (verdict.value) parts.set("verdict", verdict.value);
    if (layer.value) parts.set("layer", layer.value);
    if (least.value) parts.set("least", least.value);
    if (sort.key !== "short" || sort.down) parts.set("sort", (sort.down ? "-" : "") + sort.key);
    const hash = parts.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  };

  const list = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const bound = least.value === "" ? null : Number(least.value);
    shown = [];
    units.forEach((unit, place) => {
      if (verdict.value && unit[at.verdict] !== verdict.value) return;
      if (layer.value && unit[at.layer] !== layer.value) return;
      if (bound !== null && !(unit[at.auroc] !== null && unit[at.auroc] >= bound)) return;
      if (!words.every((word) => haystack[place].includes(word))) return;
      shown.push(place);
    });
    order();
    found.textContent = `${amount(shown.length)} of ${amount(units.length)}`;
    table.setAttribute("aria-rowcount", String(shown.length + 1));
    draw(true);
  };
  const apply = () => {
    chosen = -1;
    list();
    keep();
  };

  const heads = COLUMNS.map((column) => {
    const head = element("th", `${column.key}${column.number ? " number" : ""}`);
    head.scope = "col";
    if (column.fixed) {
      head.append(element("span", "", column.title));
      return head;
    }
    const button = element("button", "", column.title);
    button.type = "button";
    button.addEventListener("click", () => {
      // Numbers are most often wanted from the largest, words from A.
      sort = { key: column.key, down: sort.key === column.key ? !sort.down : Boolean(column.number) };
      mark();
      apply();
    });
    head.append(button);
    return head;
  });
  table.tHead.rows[0].append(...heads);
  const mark = () => {
    COLUMNS.forEach((column, place) => {
      if (column.fixed) return;
      const sorted = column.key === sort.key;
      heads[place].setAttribute("aria-sort", sorted ? (sort.down ? "descending" : "ascending") : "none");
    });
  };

  const listLayers = () => {
    const layers = [...new Set(units.map((unit) => unit[at.layer]))].sort(collator.compare);
    const known = new Set([...layer.options].map((option) => option.value));
    for (const name of layers.filter((each) => !known.has(each))) {
      const option = element("option", "", name);
      option.value = name;
      layer.append(option);
    }
    layer.hidden = layers.length < 2;
  };
  index();
  listLayers();

  const start = new URLSearchParams(location.hash.slice(1));
  search.value = start.get("q") ?? "";
  verdict.value = start.get("verdict") ?? "";
  layer.value = start.get("layer") ?? "";
  least.value = start.get("least") ?? "";
  const wanted = start.get("sort") ?? "";
  if (COLUMNS.some((column) => !column.fixed && column.key === wanted.replace(/^-/, ""))) {
    sort = { key: wanted.replace(/^-/, ""), down: wanted.startsWith("-") };
  }
  if (verdict.selectedIndex < 0) verdict.value = "";
  if (layer.selectedIndex < 0) layer.value = "";

  const choose = (place) => {
    if (!shown.length) return;
    chosen = Math.max(0, Math.min(shown.length - 1, place));
    const top = body.getBoundingClientRect().top + chosen * ROW;
    if (top < 120) scrollBy(0, top - 120);
    else if (top + ROW > innerHeight - 20) scrollBy(0, top + ROW - innerHeight + 20);
    draw(true);
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      else if (event.key === "Enter" && event.target === search) { search.blur(); choose(0); }
      return;
    }
    if (event.key === "/") search.focus();
    else if (event.key === "j") choose(chosen + 1);
    else if (event.key === "k") choose(chosen - 1);
    else if (event.key === "Enter" && chosen >= 0 && event.target === document.body) location.assign(units[shown[chosen]][at.href]);
    else return;
    event.preventDefault();
  });
  body.addEventListener("click", (event) => {
    const line = event.target.closest("tr[data-place]");
    if (line && !event.target.closest("a") && !String(getSelection())) location.assign(units[shown[Number(line.dataset.place)]][at.href]);
  });
  for (const input of [search, least]) input.addEventListener("input", apply);
  for (const input of [verdict, layer]) input.addEventListener("change", apply);
  addEventListener("scroll", () => requestAnimationFrame(() => draw(false)), { passive: true });
  addEventListener("resize", () => draw(true));
  document.addEventListener("maia:changed", ({ detail }) => {
    if (!detail.units || JSON.stringify(detail.units.rows) === JSON.stringify(units)) return;
    const unit = chosen < 0 ? null : units[shown[chosen]][at.href];
    units = detail.units.rows;
    index();
    listLayers();
    list();
    chosen = unit === null ? -1 : shown.findIndex((place) => units[place][at.href] === unit);
    draw(true);
  });
  byId("table").hidden = false;
  mark();
  apply();
})();
