"use strict";
// One cell: its problems, every sample, and another row beside it, problem by problem.
(() => {
  const { data, $, el, load, percent, interval, value, rank } = opdlab;
  const MARKS = { correct: "●", wrong: "○", no_answer: "∅", truncated: "✂" };
  const NAMES = { correct: "correct", wrong: "wrong", no_answer: "no answer", truncated: "cut at the limit" };
  const view = { path: null, sort: "problem", keep: "all", against: "" };

  const kind = (status) => (MARKS[status] ? status : "fault");
  const mark = (status) => el("span", { class: kind(status), title: NAMES[status] ?? status }, MARKS[status] ?? "!");
  // A sample that could not be graded is neither right nor wrong: shares are of the others, NaN where there are none.
  const graded = (problem) => problem.samples.filter((s) => MARKS[s[2]]);
  const share = (problem) => graded(problem).filter((s) => s[2] === "correct").length / graded(problem).length;
  const shown = (problem) => (graded(problem).length ? `${percent(share(problem), 0)} %` : "not graded");
  const get = (b, i, j) => load(`cell/${b}/${i}/${j}`, `data/${b}/${i}-${j}.js`);

  function facts(board, row, cell, one, standing, problems) {
    const counts = {};
    for (const problem of problems) for (const s of problem.samples) counts[s[2]] = (counts[s[2]] ?? 0) + 1;
    const verdicts = Object.entries(counts).map(([name, n]) => `${n} ${NAMES[name] ?? name}`).join(", ");
    const list = {
      [`mean@${one.k}`]: `${value(cell.mean)} (${interval(cell.mean)})`,
      [`pass@${one.k}`]: `${value(cell.pass)} (${interval(cell.pass)})`,
      "rank here": `${rank(standing)} of ${board.rows.length}`,
      seeds: cell.seeds.length > 1 ? row.seeds.map((s, n) => `${s}: ${value(cell.seeds[n])}`).join(", ") : row.role === "run" ? `${row.seeds}` : "–",
      verdicts, "tokens a response": `${cell.tokens.toFixed(0)}, ${percent(cell.truncated, 0)} % cut`,
      sampling: one.sampling, "template, grader": `${one.template}, ${one.grader}`, protocol: one.protocol,
    };
    return el("dl", { class: "facts" }, ...Object.entries(list).map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, v))));
  }

  function inside(problem, other, row, otherRow) {
    const samples = (title, list) => list.map((s) => el("div", { class: "sample" },
      el("h3", {}, mark(s[2]), ` ${title}sample ${s[1]}${row.seeds.length > 1 ? `, seed ${s[0]}` : ""}: ${NAMES[s[2]] ?? s[2]}${s[3] === null ? "" : `, answer ${s[3]}`}${s[5] === "refused" ? "" : `, ${s[4]} tokens`}${s[5] === "length" ? ", cut" : ""}${s[6] ? `, ${s[6]}` : ""}`),
      el("pre", {}, s[7])));
    return el("div", { class: "inside" }, el("b", {}, "Prompt"), el("pre", {}, problem.prompt),
      ...samples("", problem.samples), ...(other ? samples(`${otherRow.name}: `, other.samples) : []));
  }

  function line(problem, other, row, otherRow) {
    const marks = (p) => el("span", { class: "marks" }, ...p.samples.map((s) => mark(s[2])));
    const difference = other ? 100 * (share(problem) - share(other)) || 0 : 0;
    const sign = difference > 0 ? "up" : difference < 0 ? "down" : "even";
    const details = el("details", { class: "problem", "data-problem": problem.id },
      el("summary", {}, el("span", { class: "id", title: problem.id }, problem.id), el("span", { class: "number" }, shown(problem)), marks(problem),
        ...(other ? [el("span", { class: "number" }, shown(other)), marks(other), el("span", { class: `number ${sign}` }, (difference > 0 ? "+" : "") + difference.toFixed(0))] : [])));
    details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(inside(problem, other, row, otherRow)); });
    return details;
  }

  const KEEP = { all: () => true, solved: (s) => s === 1, sometimes: (s) => s > 0 && s < 1, never: (s) => s === 0 };
  function list(problems, others, row, otherRow) {
    const pairs = problems.map((problem, n) => ({ problem, n, other: others?.get(problem.id) }));
    const kept = pairs.filter(({ problem, other }) => (view.keep === "differs" ? other && gap({ problem, other }) !== 0 : KEEP[view.keep](share(problem))));
    const ungradedLast = ({ problem }) => (graded(problem).length ? share(problem) : Infinity);
    if (view.sort === "score") kept.sort((a, b) => ungradedLast(a) - ungradedLast(b) || a.n - b.n);
    if (view.sort === "difference") kept.sort((a, b) => gap(b) - gap(a) || a.n - b.n);
    return [el("p", { class: "reading", role: "status" }, `${kept.length} of ${problems.length} problems`), ...kept.map(({ problem, other }) => line(problem, other, row, otherRow))];
  }
  const gap = ({ problem, other }) => (other ? share(problem) - share(other) || 0 : 0);

  function choice(label, name, options) {
    const select = el("select", { id: `cell-${name}`, onchange: (event) => { view[name] = event.target.value; draw(); } },
      ...options.map(([v, text]) => el("option", { value: v, selected: v === view[name] ? "selected" : null }, text)));
    return el("label", {}, `${label} `, select);
  }

  async function draw() {
    const [b, i, j] = view.path, board = data.boards[b], row = board.rows[i], one = board.benchmarks[j];
    const problems = await get(b, i, j);
    const against = view.against === "" ? null : +view.against;
    const other = against === null ? null : new Map((await get(b, against, j)).map((p) => [p.id, p]));
    if (view.path.join() !== [b, i, j].join()) return;
    const rows = board.rows.map((r, n) => [`${n}`, r.name]).filter(([n]) => +n !== i);
    const keep = [["all", "all"], ["solved", "always solved"], ["sometimes", "sometimes solved"], ["never", "never solved"], ...(other ? [["differs", "that differ"]] : [])];
    const focus = document.activeElement?.id;
    $("cell").replaceChildren(
      el("p", {}, el("a", { href: "#" }, "← leaderboard")),
      el("h2", {}, `${row.name} on ${one.name}`),
      row.varied ? el("p", { class: "varied" }, row.varied) : "",
      facts(board, row, row.cells[j], one, board.standings[`${j}`][i], problems),
      el("p", { class: "reading" }, `Samples: ${row.places.join(", ")}`),
      el("section", { class: "controls" },
        choice("Beside it", "against", [["", "nothing"], ...rows]), choice("Problems", "keep", keep),
        choice("Sorted by", "sort", [["problem", "problem"], ["score", "score"], ...(other ? [["difference", "difference"]] : [])])),
      ...list(problems, other, row, against === null ? null : board.rows[against]));
    if (focus) document.getElementById(focus)?.focus();
  }

  function route() {
    const match = /^#cell\/(\d+)\/(\d+)\/(\d+)$/.exec(location.hash);
    const path = match?.slice(1).map(Number);
    const known = path && data.boards[path[0]]?.rows[path[1]]?.cells[path[2]];
    $("overview").hidden = Boolean(known);
    $("cell").hidden = !known;
    document.title = known ? `${data.boards[path[0]].rows[path[1]].name} on ${data.boards[path[0]].benchmarks[path[2]].name}` : "opdlab leaderboard";
    if (!known) { opdlab.back?.(view.path); return; }
    Object.assign(view, { path, against: "", keep: "all", sort: "problem" });
    draw().catch((error) => $("cell").replaceChildren(el("p", { class: "notice" }, `${error.message}: the folder data/ belongs beside this page.`)));
    scrollTo(0, 0);
  }
  opdlab.back = (path) => { if (path) document.querySelector(`a[href="#cell/${path.join("/")}"]`)?.focus(); };
  addEventListener("hashchange", route);
  route();
})();
