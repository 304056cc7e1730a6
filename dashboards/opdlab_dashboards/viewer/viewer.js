"use strict";
const $ = (id) => document.getElementById(id);
const read = (id) => JSON.parse($(id).textContent);
const all = read("overview");
const SIGNS = ["✓", "✗", "–", "…", "!", "!", "!", "!"];
const MISSING = ".";
const state = { sheet: 0, hidden: new Set(), text: "", order: "given", chosen: null, cell: null, hits: null, raw: false };
const kept = new Map();

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
const sheet = () => all.sheets[state.sheet];
const label = (mark) => (mark === MISSING ? "not there" : all.statuses[mark].replace("_", " "));
function detail(place) {
  const key = `problem-${state.sheet}-${place}`;
  if (!kept.has(key)) kept.set(key, read(key));
  return kept.get(key);
}
// Faults of the grader or the server are no answers: as in the tables, they are not counted as wrong.
function share(marks) {
  const judged = [...marks].filter((mark) => mark !== MISSING && mark < 4);
  return judged.length ? judged.filter((mark) => mark === "0").length / judged.length : NaN;
}
function score(marks, problems, k) {
  const there = [...marks].filter((mark) => mark !== MISSING);
  const faults = there.filter((mark) => mark >= 4).length;
  const value = share(marks);
  const all = `${problems} × ${k}`;
  const of = there.length < marks.length ? `the ${there.length} there are of ${all}` : all;
  return `${Number.isNaN(value) ? "–" : (100 * value).toFixed(1)} %${faults ? `, ${faults} not judged,` : ""} of ${of}`;
}
const percent = (value) => (Number.isNaN(value) ? "–" : (100 * value).toFixed(0));

// A problem without a verdict is neither hard nor easy: it comes last.
const judged = (compare) => (one, two) => {
  const lacks = [one, two].map((place) => Number.isNaN(mean(place)));
  return lacks[0] || lacks[1] ? lacks[0] - lacks[1] : compare(one, two);
};
const ORDERS = {
  given: ["as given", () => 0],
  hardest: ["hardest first", judged((one, two) => mean(one) - mean(two))],
  easiest: ["easiest first", judged((one, two) => mean(two) - mean(one))],
  longest: ["longest first", (one, two) => tokens(two) - tokens(one)],
  difference: ["largest difference first", (one, two) => gap(two) - gap(one)],
};
const mean = (place) => share(sheet().marks.map((marks) => marks[place]).join(""));
const tokens = (place) => Math.max(...sheet().tokens.map((each) => each[place]));
const gap = (place) => Math.abs(share(sheet().marks[0][place]) - share(sheet().marks.at(-1)[place])) || 0;

function shown(place, run, index) {
  const mark = sheet().marks[run][place][index];
  return !state.hidden.has(mark) && (state.hits === null || state.hits.has(`${place}/${run}/${index}`));
}
function order() {
  const places = sheet().problems.map((_, place) => place);
  return state.order === "given" ? places : places.sort((one, two) => ORDERS[state.order][1](one, two) || one - two);
}

function drawMap() {
  const { problems, marks, k } = sheet();
  const head = element("div", { className: "row head" }, element("span", { className: "id", textContent: "problem" }));
  for (const run of all.runs) {
    const name = element("span", { className: "cells", title: run });
    name.style.width = `${22 * k - 2}px`;
    name.append(element("span", { textContent: run, className: "name" }));
    head.append(element("span", { className: "mean", textContent: "%" }), name);
  }
  const rows = [];
  let samples = 0;
  state.visible = [];
  for (const place of order()) {
    const row = element("div", { className: "row" });
    row.append(element("span", { className: "id", textContent: problems[place], title: problems[place] }));
    let some = false;
    marks.forEach((each, run) => {
      const cells = element("span", { className: "cells" });
      [...each[place]].forEach((mark, index) => {
        const seen = shown(place, run, index);
        some ||= seen;
        if (seen && mark !== MISSING) {
          samples += 1;
          state.visible.push(`${place}/${run}/${index}`);
        }
        cells.append(cell(place, run, index, mark, seen));
      });
      row.append(element("span", { className: "mean", textContent: percent(share(each[place])) }), cells);
    });
    if (some) rows.push(row);
  }
  const empty = element("p", { className: "empty", textContent: "No sample fits. Show more verdicts, or search for something else." });
  $("map").replaceChildren(head, ...(rows.length ? rows : [empty]));
  $("count").textContent = `${samples} samples of ${rows.length} problems`;
  choose(state.chosen, false);
}
function cell(place, run, index, mark, seen) {
  const made = element("button", { type: "button", tabIndex: -1 });
  made.className = `cell ${mark === MISSING ? "missing" : `s${mark}`}${seen ? "" : " out"}`;
  made.textContent = mark === MISSING ? "" : SIGNS[mark];
  made.dataset.key = `${place}/${run}/${index}`;
  made.setAttribute("aria-label", `${sheet().problems[place]}, ${all.runs[run]}, sample ${index}: ${label(mark)}`);
  made.title = `sample ${index}: ${label(mark)}`;
  return made;
}
function choose(key, open) {
  const before = state.cell;
  if (before) {
    before.removeAttribute("aria-current");
    before.tabIndex = -1;
  }
  state.chosen = key;
  state.cell = (key && $("map").querySelector(`[data-key="${key}"]`)) || $("map").querySelector(".cell");
  if (!state.cell) return;
  state.cell.tabIndex = 0;
  if (key && state.cell.dataset.key === key) state.cell.setAttribute("aria-current", "true");
  if (open) openDetail(key);
}
function show(key) {
  choose(key, true);
  state.cell?.focus({ preventScroll: true });
  state.cell?.scrollIntoView({ block: "nearest" });
}

function openDetail(key) {
  const [place, run, index] = key.split("/").map(Number);
  const found = detail(place);
  const close = element("button", { type: "button", className: "close", textContent: "✕", title: "close (Esc)" });
  close.onclick = closeDetail;
  const first = found.samples[run][index];
  const prompt = found.prompts[first ? first.prompt : 0] ?? "";
  const turns = chatTurns(prompt);
  const chat = turns && !state.raw;
  const sides = element("div", { className: "sides" });
  all.runs.forEach((name, each) => sides.append(side(found, name, each, place, index, chat)));
  const raw = element("button", { type: "button", className: "raw", textContent: "raw text", hidden: !turns });
  raw.setAttribute("aria-pressed", String(state.raw));
  raw.onclick = () => { state.raw = !state.raw; openDetail(key); $("detail").querySelector(".raw").focus(); };
  const asked = chat ? element("div", { className: "chat" }, ...turns.map(({ role, said }) => turn(role, said)))
    : element("pre", { className: "prompt" }, marked(prompt));
  $("detail").replaceChildren(
    element("h2", {}, sheet().problems[place], element("span", { className: "name", textContent: `sample ${index}` }), raw, close),
    element("h3", { textContent: "Prompt" }), asked,
    element("h3", { textContent: "Reference answer" }), element("pre", { className: "gold", textContent: gold(found.gold) }),
    sides,
  );
  document.querySelector("main").classList.remove("closed");
  $("detail").scrollTop = 0;
  history.replaceState(null, "", `#${encodeURIComponent(sheet().name)}/${encodeURIComponent(sheet().problems[place])}/${run}/${index}`);
}
function gold(value) {
  if (value === null || value === undefined) return "not known here";
  if (typeof value === "string") return value;
  if (Array.isArray(value) || typeof value !== "object") return JSON.stringify(value);
  const shown = (each) => (typeof each === "string" && each.includes("\n") ? `\n${each.trim()}\n` : JSON.stringify(each));
  return Object.entries(value).map(([name, each]) => `${name}: ${shown(each)}`).join("\n");
}
function side(found, name, run, place, index, chat) {
  const mark = sheet().marks[run][place][index];
  const swatch = element("span", { className: `swatch ${mark === MISSING ? "missing" : `s${mark}`}`, textContent: SIGNS[mark] ?? "" });
  const made = element("div", { className: "side" }, element("strong", {}, swatch, `${name}: ${label(mark)}`));
  const sample = found.samples[run][index];
  if (!sample) return made;
  const facts = element("dl");
  const add = (term, value, kind) => facts.append(element("dt", { textContent: term }), element("dd", { className: kind ?? "" }, marked(String(value))));
  const answered = sample.stop !== "refused";
  if (sample.reason) add(answered ? "grader" : "server", sample.reason, "reason");
  if (answered) add("answer", sample.answer ?? "nothing", "answer");
  if (answered) add("tokens", `${sample.tokens}, ${sample.stop === "eos" ? "with end token" : "cut at the length limit"}`, "tokens");
  add("seed", sample.seed);
  made.append(facts);
  if (!answered) return made;
  if (sample.seconds) add("seconds", sample.seconds);
  const text = element(chat ? "div" : "pre", { className: "completion" });
  if (chat && !Array.isArray(sample.text)) text.append(turn("assistant", sample.text));
  else if (Array.isArray(sample.text)) {
    const [begin, left, end] = sample.text;
    text.append(marked(begin), element("span", { className: "gap", textContent: `… ${left} characters left out …` }), marked(end));
  } else text.append(marked(sample.text));
  made.append(element("h3", { textContent: "Completion" }), text);
  return made;
}
function marked(text) {
  const made = document.createDocumentFragment();
  const wanted = state.text;
  const low = text.toLowerCase();
  let from = 0;
  for (let at = wanted ? low.indexOf(wanted) : -1; at >= 0 && low.length === text.length; at = low.indexOf(wanted, from)) {
    made.append(text.slice(from, at), element("mark", { textContent: text.slice(at, at + wanted.length) }));
    from = at + wanted.length;
  }
  made.append(text.slice(from));
  return made;
}
function closeDetail() {
  document.querySelector("main").classList.add("closed");
  history.replaceState(null, "", location.pathname + location.search);
  state.cell?.focus();
}

let searching = 0;
async function search() {
  const mine = ++searching;
  state.text = $("text").value.trim().toLowerCase();
  if (!state.text) state.hits = null;
  else {
    const hits = new Set();
    for (let place = 0; place < sheet().problems.length; place += 1) {
      // A long page is searched in slices, so that typing stays quick.
      if (place % 50 === 49) await new Promise((done) => setTimeout(done));
      if (mine !== searching) return;
      find(place, hits);
    }
    state.hits = hits;
  }
  drawMap();
}
function find(place, hits) {
  const key = `problem-${state.sheet}-${place}`;
  const found = kept.get(key) ?? read(key);
  const has = (text) => String(text ?? "").toLowerCase().includes(state.text);
  const common = has(sheet().problems[place]) || found.prompts.some(has) || has(gold(found.gold));
  found.samples.forEach((each, run) => each.forEach((sample, index) => {
    if (sample && (common || has(sample.answer) || has(sample.reason) || [sample.text].flat().some(has))) hits.add(`${place}/${run}/${index}`);
  }));
}

function drawVerdicts() {
  const counts = {};
  sheet().marks.forEach((marks, run) => {
    for (const mark of marks.join("")) (counts[mark] ??= all.runs.map(() => 0))[run] += 1;
  });
  $("verdicts").replaceChildren(...Object.keys(counts).sort().map((mark) => {
    const swatch = element("span", { className: `swatch ${mark === MISSING ? "missing" : `s${mark}`}`, textContent: SIGNS[mark] ?? "" });
    const made = element("button", { type: "button" }, swatch, `${label(mark)} ${counts[mark].join(" | ")}`);
    made.dataset.mark = mark;
    made.title = all.runs.map((run, each) => `${run}: ${counts[mark][each]}`).join("\n");
    made.setAttribute("aria-pressed", String(!state.hidden.has(mark)));
    made.onclick = () => {
      if (!state.hidden.delete(mark)) state.hidden.add(mark);
      made.setAttribute("aria-pressed", String(!state.hidden.has(mark)));
      drawMap();
    };
    return made;
  }));
}
function openSheet(number) {
  Object.assign(state, { sheet: number, chosen: null, hits: null, hidden: new Set() });
  [...$("sheets").children].forEach((tab, place) => tab.setAttribute("aria-pressed", String(place === number)));
  const { note, marks, k, problems, graders } = sheet();
  $("graders").textContent = `graded by ${[...new Set(graders)].join(" and ")}`;
  $("note").hidden = !note;
  $("note").textContent = note;
  $("runs").replaceChildren(...all.runs.flatMap((run, each) => [
    each ? " and " : "", run, " ",
    element("span", { className: "score", textContent: `(${score(marks[each].join(""), problems.length, k)})` }),
  ]));
  document.querySelector("main").classList.add("closed");
  drawVerdicts();
  search();
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
function move(from, [down, right]) {
  const row = from.closest(".row");
  const cells = [...row.querySelectorAll(".cell")];
  const at = cells.indexOf(from);
  if (right) return cells[at + right];
  let next = row;
  do next = down > 0 ? next.nextElementSibling : next.previousElementSibling;
  while (next && !next.querySelector(".cell"));
  return next?.querySelectorAll(".cell")[at];
}
function step(by) {
  const { visible } = state;
  if (!visible.length) return;
  const at = visible.indexOf(state.chosen);
  show(visible[at < 0 ? (by > 0 ? 0 : visible.length - 1) : (at + by + visible.length) % visible.length]);
}
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select");
  if (event.key === "Escape") return typing ? event.target.blur() : closeDetail();
  if (typing) return;
  if (event.key === "/") $("text").focus();
  else if (event.key === "n") step(1);
  else if (event.key === "p") step(-1);
  else if (event.key in MOVES && event.target.matches(".cell")) {
    const next = move(event.target, MOVES[event.key]);
    if (next) {
      const open = !document.querySelector("main").classList.contains("closed");
      choose(next.dataset.key, open);
      next.focus();
    }
  } else return;
  event.preventDefault();
}
function fromAddress() {
  // A name with a slash is encoded; an address that was cut off may not be.
  const parts = location.hash.slice(1).split("/").map((part) => part.replace(/%(?![0-9a-f]{2})/gi, "%25"));
  const [name, problem, run, index] = parts.map(decodeURIComponent);
  const number = all.sheets.findIndex((each) => each.name === name);
  if (number < 0) return openSheet(0);
  openSheet(number);
  const place = sheet().problems.indexOf(problem);
  if (place >= 0 && sheet().marks[run]?.[place][index]) show(`${place}/${run}/${index}`);
}

function begin() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").onclick = () => {
    const { dataset } = document.documentElement;
    dataset.theme = dataset.theme === "dark" ? "light" : "dark";
  };
  $("sheets").hidden = all.sheets.length < 2;
  $("sheets").append(...all.sheets.map(({ name }, number) => {
    const tab = element("button", { type: "button", textContent: name });
    tab.onclick = () => openSheet(number);
    return tab;
  }));
  for (const [name, [title]] of Object.entries(ORDERS)) {
    if (name !== "difference" || all.runs.length > 1) $("order").append(new Option(title, name));
  }
  $("order").onchange = () => { state.order = $("order").value; drawMap(); };
  let waiting;
  $("text").oninput = () => { clearTimeout(waiting); waiting = setTimeout(search, 150); };
  $("map").onclick = (event) => { if (event.target.matches(".cell")) show(event.target.dataset.key); };
  addEventListener("keydown", pressed);
  fromAddress();
}
begin();
