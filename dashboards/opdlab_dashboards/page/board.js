"use strict";
// The table: which board, sorted how, which rows. Everything shown goes in as text, never as HTML.
const opdlab = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const state = { board: 0, sort: "average", down: true, metric: "mean", search: "", filter: "", chosen: null };
  const taken = new Map(), waiting = new Map(), listeners = [];

  function el(tag, options = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  // Data behind the first view comes as scripts, the one thing that a page opened from disk may load.
  function take(key, value) { taken.set(key, value); waiting.get(key)?.forEach((use) => use(value)); waiting.delete(key); }
  function load(key, path) {
    if (taken.has(key)) return Promise.resolve(taken.get(key));
    return new Promise((resolve, reject) => {
      if (waiting.has(key)) { waiting.get(key).push(resolve); return; }
      waiting.set(key, [resolve]);
      document.head.append(el("script", { src: path, onerror: () => { waiting.delete(key); reject(new Error(`${path} is missing`)); } }));
    });
  }

  const board = () => data.boards[state.board];
  const percent = (x, digits = 1) => (100 * x).toFixed(digits);
  const interval = (score) => (score[0] === null ? "not all graded" : `${percent(score[1], 0)}–${percent(score[2], 0)}`);
  const value = (score) => (score[0] === null ? `${percent(score[3], 0)} to ${percent(score[4], 0)}?` : percent(score[0]));
  const rank = (standing) => (standing === null ? "?" : standing[0] === standing[1] ? `${standing[0]}` : `${standing[0]}–${standing[1]}`);
  function big(x) {
    if (x === null) return "–";
    for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (x >= 0.9995 * size) return `${+(x / size).toPrecision(3)}${unit}`;
    return `${+x.toPrecision(3)}`;
  }

  // Ranks belong to the column that the rows are sorted by, where that column has ranks.
  const rankColumn = () => (board().standings[state.sort] ? state.sort : board().standings.average ? "average" : "0");
  const standings = () => board().standings[rankColumn()];

  function sortValue(row, i) {
    const column = state.sort;
    if (column === "model") return row.name;
    if (column === "rank") { const s = standings()[i]; return s ? -(s[0] + s[1]) : -Infinity; }
    if (column === "average") return row.mean[3];
    if (column === "pass") return row.pass[3];
    if (/^\d+$/.test(column)) { const cell = row.cells[+column]; const x = cell[state.metric]; return Array.isArray(x) ? x[3] : x; }
    return row[column] ?? -Infinity;
  }

  function matches(row, i) {
    const text = [row.name, row.method, row.role, row.source, row.pin, ...row.seeds.map((s) => `seed ${s}`), JSON.stringify(row.settings), row.varied].join(" ").toLowerCase();
    const first = standings()[i]?.[0] === 1;
    const kept = { "": true, run: row.role === "run", reference: row.role !== "run", first }[state.filter];
    return kept && state.search.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  // Of names the numbers count as numbers: tiny-999 before tiny-1000.
  const names = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => (typeof a === "string" ? names.compare(a, b) : a < b ? -1 : a > b ? 1 : 0);

  function order() {
    const rows = board().rows.map((row, i) => ({ row, i, key: sortValue(row, i), shown: matches(row, i) }));
    rows.sort((a, b) => compare(a.key, b.key) || b.i - a.i);
    if (state.down) rows.reverse();
    return rows;
  }
  const shown = () => order().filter((one) => one.shown);

  function columns() {
    const b = board();
    const average = b.benchmarks.length > 1 ? [["average", `average`, `mean@${b.k}`, "average"]] : [];
    const pass = b.benchmarks.length > 1 ? [["pass", "average", `pass@${b.k}`, ""]] : [["pass", `pass@${b.k}`, "", ""]];
    const label = { mean: "mean@", pass: "pass@", truncated: "truncated", tokens: "tokens" }[state.metric];
    return [
      ["rank", "rank", rankColumn() === "average" ? "average" : b.benchmarks[+rankColumn()].name, "rank"], ["model", "model", "", "model"],
      ...average, ...pass,
      ...b.benchmarks.map((one, j) => [`${j}`, one.name, `${label}${label.endsWith("@") ? one.k : ""}, n=${one.n}`, ""]),
      ["truncated", "truncated", "share", ""], ["tokens", "tokens", "a response", ""],
      ["teacherTokens", "teacher tokens", "training", ""], ["seconds", "seconds", "training", ""],
    ];
  }

  function head() {
    const cells = columns().map(([key, name, sub, kind]) => {
      const sorted = state.sort === key ? (state.down ? "descending" : "ascending") : undefined;
      const button = el("button", { type: "button", onclick: () => sortBy(key), "data-column": key }, el("span", { class: "name" }, name), sub ? el("small", {}, sub) : null);
      return el("th", { class: kind, scope: "col", "aria-sort": sorted }, button);
    });
    return el("thead", {}, el("tr", {}, ...cells));
  }

  function scoreCell(score, i, j, options = {}) {
    const td = el("td", { class: `score ${options.class ?? ""}`, style: `--heat:${(0.34 * score[3]).toFixed(3)}` });
    const inside = [value(score), el("small", {}, interval(score))];
    td.append(j === null ? el("span", {}, ...inside) : el("a", { href: `#cell/${state.board}/${i}/${j}`, title: options.title ?? "" }, ...inside));
    return td;
  }

  function benchmarkCell(row, i, j) {
    const cell = row.cells[j], one = board().benchmarks[j];
    const seeds = cell.seeds.length > 1 ? `; seeds ${cell.seeds.map(value).join(", ")}` : "";
    const title = `${row.name} on ${one.name}: rank ${rank(board().standings[`${j}`][i])} of ${board().rows.length}; ${cell.samples} samples of ${one.n} problems${seeds}`;
    if (state.metric === "mean" || state.metric === "pass") return scoreCell(cell[state.metric], i, j, { title });
    const text = state.metric === "tokens" ? cell.tokens.toFixed(0) : `${percent(cell.truncated, 0)} %`;
    return el("td", {}, el("a", { href: `#cell/${state.board}/${i}/${j}`, title }, text));
  }

  function relation(i) {
    if (state.chosen === null || state.chosen === i) return null;
    const chosen = standings()[state.chosen];
    if (chosen === null || standings()[i] === null) return null;
    const [sign, kind] = chosen[2].includes(i) ? ["▲", "up"] : chosen[3].includes(i) ? ["▼", "down"] : ["=", "even"];
    return el("span", { class: `relation ${kind}` }, sign);
  }

  function seedText(row) {
    if (row.role !== "run") return row.source === row.name ? "" : row.source;
    const n = row.seeds.length;
    return `${row.method} · ${n} ${n > 1 ? "seeds" : "seed"} (${row.seeds.join(", ")})`;
  }

  // A row is made once and then only moved: of what it shows, the rank alone depends on the sorting.
  const made = new Map();
  function bodyRow({ row, i, shown }) {
    const key = `${state.board}/${state.metric}/${i}`;
    if (!made.has(key)) made.set(key, makeRow(row, i));
    const tr = made.get(key), button = tr.querySelector(".rank button");
    tr.className = [row.pin ? "pinned" : "", shown ? "" : "unmatched", state.chosen === i ? "chosen" : ""].join(" ").trim();
    button.replaceChildren(rank(standings()[i]), relation(i) ?? "");
    button.setAttribute("aria-pressed", `${state.chosen === i}`);
    return tr;
  }
  function makeRow(row, i) {
    const settings = Object.entries(row.settings).map(([k, v]) => `${k}: ${typeof v === "object" ? JSON.stringify(v) : v}`).join("\n");
    const button = el("button", { type: "button", onclick: () => choose(i), "data-row": i, title: "set the others against this row" });
    const sub = seedText(row);
    const model = el("th", { class: "model", scope: "row", title: settings || row.source }, row.name, el("span", { class: "sub" }, row.pin ? el("span", { class: "pin" }, row.pin) : null, row.pin && sub ? " " : "", sub), row.varied ? el("span", { class: "sub varied" }, row.varied) : null);
    const average = board().benchmarks.length > 1 ? [scoreCell(row.mean, i, null, { class: "average" })] : [];
    return el("tr", { "data-row": i },
      el("td", { class: "rank" }, button), model, ...average, scoreCell(row.pass, i, null),
      ...row.cells.map((_, j) => benchmarkCell(row, i, j)),
      el("td", {}, `${percent(row.truncated, 0)} %`), el("td", {}, row.tokens.toFixed(0)),
      el("td", {}, big(row.teacherTokens)), el("td", {}, big(row.seconds)));
  }

  // Figures printed elsewhere stand below the measured ones where they are of as many samples and problems.
  function publishedRows() {
    const names = board().benchmarks.map((one) => one.name), groups = new Map();
    const alike = (p) => board().benchmarks.some((one) => one.name === p.benchmark && one.k === p.k && one.n === p.problems);
    for (const one of data.published.filter(alike)) {
      const key = `${one.model}\n${one.setting}`;
      groups.set(key, [...(groups.get(key) ?? []), one]);
    }
    const several = names.length > 1;
    return [...groups.values()].map((figures) => el("tr", { class: "published" },
      el("td", { class: "rank" }, "–"),
      el("th", { class: "model", scope: "row" }, figures[0].model, el("span", { class: "sub" }, el("span", { class: "pin" }, "published"), ` ${figures[0].setting} · ${figures[0].source}`)),
      ...(several ? [el("td", { class: "average" }, "")] : []), el("td", {}, ""),
      ...names.map((name) => publishedCell(figures.find((one) => one.benchmark === name))),
      ...Array.from({ length: 4 }, () => el("td", {}, ""))));
  }
  function publishedCell(one) {
    const text = one && { mean: one.mean, pass: one.pass }[state.metric];
    if (!text) return el("td", {}, "");
    return el("td", { title: one.impossible }, text, one.impossible ? el("span", { class: "warn" }, " ⚠") : null);
  }

  function stack(body) {
    // A pinned row keeps its place while that is in view, and else waits at the edge.
    const pinned = [...body.querySelectorAll("tr.pinned")], top = $("table").tHead.offsetHeight;
    const heights = pinned.map((tr) => tr.offsetHeight);
    pinned.forEach((tr, n) => {
      const above = heights.slice(0, n).reduce((a, b) => a + b, top), below = heights.slice(n + 1).reduce((a, b) => a + b, 0);
      tr.style.setProperty("--pin-top", `${above}px`);
      tr.style.setProperty("--pin-bottom", `${below}px`);
    });
  }

  function render() {
    const rows = order(), visible = rows.filter((one) => one.shown || one.row.pin);
    const body = el("tbody", {}, ...visible.map(bodyRow));
    const extra = publishedRows();
    $("title").textContent = board().title;
    $("table").replaceChildren(head(), body, extra.length ? el("tbody", {}, ...extra) : "");
    stack(body);
    $("count").textContent = `${rows.filter((one) => one.shown).length} of ${rows.length} rows`;
    const chosen = state.chosen === null ? null : board().rows[state.chosen];
    $("compared").hidden = chosen === null;
    if (chosen) $("compared").textContent = `Against ${chosen.name}: ▲ shown better, ▼ shown worse, = not told apart (${rankColumn() === "average" ? "average" : board().benchmarks[+rankColumn()].name}).`;
    listeners.forEach((use) => use());
  }

  function sortBy(column) {
    state.down = state.sort === column ? !state.down : column !== "model";
    state.sort = column;
    render();
    document.querySelector(`[data-column="${column}"]`)?.focus();
  }
  function choose(i) {
    state.chosen = state.chosen === i ? null : i;
    render();
    document.querySelector(`.rank [data-row="${i}"]`)?.focus();
  }

  function navigation() {
    const buttons = data.boards.map((one, n) => el("button", { type: "button", "aria-pressed": `${n === state.board}`, onclick: () => show(n) },
      `${one.protocol.slice(0, 8)} · ${one.benchmarks.length > 1 ? `${one.benchmarks.length} benchmarks` : one.benchmarks[0].name} · k=${one.k} · ${one.rows.length} rows`));
    $("boards").replaceChildren(...(buttons.length > 1 ? [el("span", { class: "reading" }, "Protocols, never ranked together:"), ...buttons] : []));
  }
  function show(n) {
    Object.assign(state, { board: n, sort: board().benchmarks.length ? "average" : "0", chosen: null, down: true });
    if (data.boards[n].benchmarks.length === 1) state.sort = "0";
    navigation();
    render();
  }

  function below() {
    if (data.leftOut.length) {
      $("left-out").replaceChildren(el("h2", {}, `Left out (${data.leftOut.length})`), el("ul", {}, ...data.leftOut.map(([name, why]) => el("li", {}, el("b", {}, name), `: ${why}`))));
    }
    const rows = data.published.map((one) => el("tr", {}, el("td", {}, one.model), el("td", {}, one.setting), el("td", {}, one.benchmark), el("td", {}, one.problems ?? "–"), el("td", {}, one.k), el("td", {}, one.mean), el("td", {}, one.pass ?? "–"), el("td", { class: "warn" }, one.impossible ? `⚠ ${one.impossible}` : "")));
    const names = ["model", "setting", "benchmark", "problems", "k", "mean@k", "pass@k", "remark"].map((name) => el("th", { scope: "col" }, name));
    $("published").replaceChildren(el("details", {}, el("summary", {}, `Published figures, not measured here and never ranked (${[...new Set(data.published.map((one) => one.source))].join(", ")})`),
      el("p", { class: "reading" }, "In per cent, as printed. ⚠ marks a figure that cannot be what it is said to be: with n problems and k samples a mean@k is a multiple of 1/(n k)."),
      el("table", { class: "plain" }, el("thead", {}, el("tr", {}, ...names)), el("tbody", {}, ...rows))));
  }

  function move(event) {
    const cell = document.activeElement?.closest("#table td, #table th");
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!cell || !steps) return false;
    let [row, column] = [[...$("table").rows].indexOf(cell.parentElement), cell.cellIndex];
    for (;;) {
      row += steps[0]; column += steps[1];
      const next = $("table").rows[row]?.cells[column];
      if (!next) return true;
      const target = next.querySelector("a, button");
      if (target) { target.focus(); target.scrollIntoView({ block: "nearest", inline: "nearest" }); return true; }
    }
  }
  function keys(event) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && typing) { if (event.target.id === "search") { event.target.value = ""; state.search = ""; render(); } event.target.blur(); return; }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !$("overview").hidden) { $("search").focus(); event.preventDefault(); }
    else if (event.key === "Escape" && location.hash) location.hash = "";
    else if (event.key === "d") theme();
    else if (event.key === " " && event.target.matches("#table td a")) { choose(+event.target.closest("tr").dataset.row); event.preventDefault(); }
    else if (move(event)) event.preventDefault();
  }

  function theme(name) {
    const root = document.documentElement;
    root.dataset.theme = name ?? (root.dataset.theme === "dark" ? "light" : "dark");
    if (name === undefined) { try { localStorage.setItem("opdlab-theme", root.dataset.theme); } catch { /* a page from disk may not store */ } }
    listeners.forEach((use) => use());
  }
  function begin() {
    let kept = null;
    try { kept = localStorage.getItem("opdlab-theme"); } catch { /* see above */ }
    document.documentElement.dataset.theme = kept ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    $("made").textContent = `measured until ${data.until}`;
    $("theme").addEventListener("click", () => theme());
    $("search").addEventListener("input", (event) => { state.search = event.target.value; render(); });
    $("filter").addEventListener("change", (event) => { state.filter = event.target.value; render(); });
    $("metric").addEventListener("change", (event) => { state.metric = event.target.value; render(); });
    document.addEventListener("keydown", keys);
    addEventListener("resize", () => stack($("table").tBodies[0]));
    below();
    show(0);
  }
  begin();
  return { data, state, $, el, take, load, board, shown, standings, percent, interval, value, rank, big, choose, onRender: (use) => listeners.push(use) };
})();
