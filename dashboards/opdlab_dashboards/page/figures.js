"use strict";
// Figures of the rows that are shown; drawn when they come into view, since plotly is large.
(() => {
  const { data, state, $, el, load, board, shown } = opdlab;
  const LINES = 12;
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b4fa3", "#5a6472", "#a0342c", "#3a7d44", "#2f6f8f"];
  // The dark ones of these are hard to see on a dark page.
  const ON_DARK = { "#0072b2": "#3d9be0", "#8c6d31": "#b08d4a", "#7b4fa3": "#a67fd0", "#5a6472": "#9aa5b3", "#a0342c": "#e0685e", "#3a7d44": "#67b573", "#2f6f8f": "#5f9dbd" };
  // Pixels of a landscape page: half of it, all of it; a figure that is printed cannot ask its frame.
  const PAPER = { half: 455, full: 930, height: 290 };
  const NARROW = 420;
  let near = false, paper = false, drawing = Promise.resolve();

  // What is chosen in a caption is a part of a saved figure's title; the buttons themselves are not.
  const title = (caption) => [...caption.childNodes].filter((one) => !one.classList?.contains("export")).map((one) => (one.selectedOptions ? one.selectedOptions[0]?.textContent : one.textContent)).join(" ").replace(/\s+/g, " ").trim();
  const dark = () => document.documentElement.dataset.theme === "dark";
  function colour(n) { const one = COLOURS[n % COLOURS.length]; return (dark() && ON_DARK[one]) || one; }
  // A row has one colour in all figures, however the table is sorted; of many the trained ones, which have curves, come first.
  function colours(rows) {
    const trained = (one) => (one.row.role === "run" ? 0 : 1);
    const ordered = [...rows].sort(rows.length <= LINES ? (a, b) => a.i - b.i : (a, b) => trained(a) - trained(b));
    return new Map(ordered.map(({ i }, n) => [i, colour(n)]));
  }
  const styles = () => getComputedStyle(document.documentElement);
  function layout(x, y, extra = {}) {
    const css = (name) => styles().getPropertyValue(name).trim();
    const axis = { gridcolor: css("--line"), linecolor: css("--line"), zerolinecolor: css("--line"), automargin: true };
    return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 50, r: 12, t: 12, b: 44 }, showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } }, hovermode: "closest", hoverlabel: { namelength: -1 },
      xaxis: { ...axis, title: { text: x }, ...extra.xaxis }, yaxis: { ...axis, title: { text: y }, ...extra.yaxis }, ...extra.rest };
  }
  function plot(id, traces, shape, why) {
    const place = $(id);
    place.classList.toggle("empty", !traces.length);
    if (!traces.length) { if (place.data) Plotly.purge(place); place.removeAttribute("role"); place.removeAttribute("aria-label"); place.textContent = why; return; }
    if (!place.data) place.textContent = "";
    const wide = place.classList.contains("tall");
    const names = shape.showlegend ? traces.filter((one) => one.showlegend !== false).length : 0;
    // A narrow legend has a line for each name, which must not take the place of the figure.
    if (!wide) place.style.height = place.clientWidth < NARROW ? `${17 + 1.2 * names}rem` : "";
    if (paper) Object.assign(shape, { autosize: false, width: wide ? PAPER.full : PAPER.half, height: wide ? 16 * parseFloat(place.style.height) : PAPER.height });
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${title(place.closest("figure").querySelector("figcaption"))}. The table and its cells hold the numbers.`);
    Plotly.react(place, traces, shape, { responsive: true, displaylogo: false, displayModeBar: false });
  }

  function points(rows, x) {
    // One trace for a few rows, so that a legend names them; of many the names are in the hover text.
    const known = rows.filter(({ row }) => row.mean[0] !== null && x(row) !== null);
    const error = (row) => ({ up: 100 * (row.mean[2] - row.mean[0]), down: 100 * (row.mean[0] - row.mean[1]) });
    const shades = colours(rows);
    const trace = (list, name, shade) => ({ type: "scatter", mode: "markers", name, x: list.map((one) => x(one.row)), y: list.map((one) => 100 * one.row.mean[0]),
      text: list.map((one) => opdlabPlain(one.row.name)), hovertemplate: "%{text}<br>%{x:,.4g}, %{y:.1f} %<extra></extra>", marker: { size: 9, color: shade },
      error_y: { type: "data", symmetric: false, array: list.map((one) => error(one.row).up), arrayminus: list.map((one) => error(one.row).down), thickness: 1, width: 0, color: shade } });
    if (known.length <= LINES) return known.map((one) => trace([one], opdlabPlain(one.row.name), shades.get(one.i)));
    const kinds = [["trained here", (row) => row.role === "run"], ["references", (row) => row.role !== "run"]];
    return kinds.map(([name, is], n) => trace(known.filter((one) => is(one.row)), name, colour(n))).filter((one) => one.x.length);
  }

  function lengthAndCost(rows) {
    const y = board().benchmarks.length > 1 ? `mean@${board().k} over benchmarks, %` : `mean@${board().k}, %`;
    // Lengths are alike more often than not: from 0 on, all rows would lie on one line.
    plot("figure-length", points(rows, (row) => row.tokens), layout("tokens a response", y, { yaxis: { rangemode: "tozero" } }), "No row has a score.");
    const cost = $("cost").value, name = cost === "seconds" ? "seconds of training" : "teacher tokens in training";
    plot("figure-cost", points(rows, (row) => row[cost]), layout(name, y, { xaxis: { rangemode: "tozero" }, yaxis: { rangemode: "tozero" } }), "No row that is shown was trained here.");
  }

  async function curves(rows) {
    const all = await load(`curves/${state.board}`, `data/${state.board}/curves.js`);
    const trained = rows.filter(({ i }) => Object.keys(all[i].training).length).slice(0, LINES);
    const metric = $("curve").value, shades = colours(rows);
    const training = trained.filter(({ i }) => all[i].training[metric]).map(({ row, i }) => ({ type: "scatter", mode: "lines", name: opdlabPlain(row.name), x: all[i].training[metric][0], y: all[i].training[metric][1], line: { color: shades.get(i), width: 1.8 } }));
    plot("figure-training", training, layout("step", data.curveNames[metric], { yaxis: { rangemode: data.shares.includes(metric) ? "tozero" : "normal" } }), "No row that is shown has this curve.");
    const fidelity = trained.flatMap(({ row, i }) => [["first steps", "dot"], ["last steps", "solid"]].filter(([part]) => all[i].fidelity[part]).map(([part, dash]) => ({
      type: "scatter", mode: "lines+markers", name: opdlabPlain(row.name), legendgroup: row.name, showlegend: part === "last steps", x: all[i].fidelity[part][0], y: all[i].fidelity[part][1],
      text: all[i].fidelity[part][0].map(() => part), hovertemplate: "%{text}: position %{x}, F = %{y:.3f}<extra>" + opdlabPlain(row.name) + "</extra>", line: { color: shades.get(i), dash, width: 1.8 }, marker: { size: 5 } })));
    plot("figure-fidelity", fidelity, layout("position in the response, tokens", "F(t), teacher's largest probability"), "No row that is shown has fidelity curves.");
  }

  // Paired by problem: Student's t for one benchmark; over several the half-widths add in squares.
  function difference(a, b, benchmarks) {
    const parts = benchmarks.map((j) => {
      const d = b[j].map((x, n) => x - a[j][n]), n = d.length, mean = d.reduce((s, x) => s + x, 0) / n;
      const variance = d.reduce((s, x) => s + (x - mean) ** 2, 0) / Math.max(n - 1, 1);
      if (variance === 0) { const s = 1 - 0.025 ** (1 / n); return { mean, low: mean - s * (mean + 1), high: mean + s * (1 - mean) }; }
      const half = board().benchmarks[j].t * Math.sqrt(variance / n);
      return { mean, low: Math.max(-1, mean - half), high: Math.min(1, mean + half) };
    });
    const count = parts.length, mean = parts.reduce((s, p) => s + p.mean, 0) / count;
    const side = (name) => Math.sqrt(parts.reduce((s, p) => s + (p[name] - p.mean) ** 2, 0)) / count;
    return { mean, low: mean - side("low"), high: mean + side("high") };
  }
  async function differences(rows) {
    const all = await load(`problems/${state.board}`, `data/${state.board}/problems.js`);
    const reference = +$("reference").value, chosen = $("difference-benchmark").value;
    const benchmarks = chosen === "average" ? board().benchmarks.map((_, j) => j) : [+chosen];
    const graded = (i) => benchmarks.every((j) => !board().rows[i].cells[j].faults);
    const list = graded(reference) ? rows.filter(({ i }) => i !== reference && graded(i)).slice(0, 60).reverse() : [];
    const found = list.map(({ i }) => difference(all[reference], all[i], benchmarks));
    const against = board().standings[chosen]?.[reference];
    const verdict = (i) => (against?.[2].includes(i) ? "--up" : against?.[3].includes(i) ? "--down" : "--dim");
    const colours = list.map(({ i }) => styles().getPropertyValue(verdict(i)).trim());
    const sides = { type: "data", symmetric: false, array: found.map((d) => 100 * (d.high - d.mean)), arrayminus: found.map((d) => 100 * (d.mean - d.low)), thickness: 1.5, width: 4 };
    const trace = { type: "scatter", mode: "markers", x: found.map((d) => 100 * d.mean), y: list.map(({ row }) => opdlabPlain(row.name)), error_x: { ...sides, color: styles().getPropertyValue("--dim").trim() }, marker: { size: 9, color: colours },
      hovertemplate: "%{y}: %{x:+.1f} points<extra></extra>" };
    $("figure-differences").style.height = `${Math.max(12, 5 + 1.6 * list.length)}rem`;
    plot("figure-differences", list.length ? [trace] : [], layout("difference in points", "", { xaxis: { rangemode: "tozero", zeroline: true, zerolinewidth: 2, zerolinecolor: styles().getPropertyValue("--dim").trim() }, rest: { showlegend: false, margin: { l: 12, r: 12, t: 8, b: 44 } } }), "There is nothing to compare.");
  }

  function fill(id, options, keep) {
    const before = keep ? $(id).value : "";
    $(id).replaceChildren(...options.map(([v, text]) => el("option", { value: v }, text)));
    if (options.some(([v]) => v === before)) $(id).value = before;
  }
  let filled = null;
  function choices() {
    $("difference-metric").textContent = `mean@${board().k}`;
    const changed = filled !== state.board;
    filled = state.board;
    if (changed) {
      const rows = board().rows, usual = ["student before", "best OPD", "teacher"].map((pin) => rows.findIndex((row) => row.pin === pin)).find((i) => i >= 0) ?? rows.length - 1;
      fill("reference", rows.map((row, i) => [`${i}`, row.name]), false);
      $("reference").value = `${usual}`;
      const names = board().benchmarks.map((one, j) => [`${j}`, one.name]);
      fill("difference-benchmark", names.length > 1 ? [["average", "all benchmarks"], ...names] : names, false);
      fill("curve", Object.entries(data.curveNames).map(([v, text]) => [v, text]), true);
    }
    if (state.chosen !== null) $("reference").value = `${state.chosen}`;
  }
  async function draw() {
    if (!near) return;
    await load("plotly", "assets/plotly.js").catch(() => { $("figures").replaceChildren(el("p", { class: "notice" }, "assets/plotly.js is missing.")); throw new Error("plotly"); });
    const rows = shown();
    lengthAndCost(rows);
    await curves(rows);
    await differences(rows);
  }
  // How many drawings are asked for and not done: "drawn" is true of the last one.
  let asked = 0;
  function update() {
    choices();
    asked += 1;
    document.documentElement.dataset.figures = "drawing";
    drawing = drawing.then(draw).catch((error) => console.warn(error.message)).finally(() => {
      asked -= 1;
      if (near && !asked) document.documentElement.dataset.figures = "drawn";
    });
  }

  document.querySelectorAll("#figures figure").forEach((figure) => {
    const caption = figure.querySelector("figcaption"), place = figure.querySelector(".plot");
    opdlabExport(caption, place, () => title(caption));
  });
  for (const id of ["cost", "curve", "reference", "difference-benchmark"]) $(id).addEventListener("change", update);
  new IntersectionObserver((seen) => { if (!near && seen.some((one) => one.isIntersecting)) { near = true; update(); } }).observe($("figures"));
  // On paper the figures have its size, and light colours.
  let before = null;
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    near = paper = true;
    update();
  });
  addEventListener("afterprint", () => {
    document.documentElement.dataset.theme = before;
    paper = false;
    update();
    drawing.then(() => document.querySelectorAll(".plot").forEach((place) => place.data && Plotly.Plots.resize(place)));
  });
  opdlab.onRender(update);
  choices();
})();
