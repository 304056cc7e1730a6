"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b4fa3"];
  // Beyond as many runs as there are colours, lines have other dashes and points other shapes.
  const DASHES = ["solid", "dash", "dashdot", "longdash"], SHAPES = ["circle", "square", "diamond", "x"];
  const ON_DARK = { "#0072b2": "#3d9be0", "#8c6d31": "#b08d4a", "#7b4fa3": "#a67fd0" };
  // Pixels of a figure on a landscape page: of two beside each other, of one alone, of a small one.
  const PAPER = { half: 455, full: 930, small: 290, height: 290, low: 180 };
  const NARROW = 420, REM = 16;
  const root = document.documentElement, plots = [];
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  let paper = false, chosen = null;

  function colour(n) {
    const one = COLOURS[n % COLOURS.length];
    return (root.dataset.theme === "dark" && ON_DARK[one]) || one;
  }
  const round = (t) => Math.floor((t.colour ?? 0) / COLOURS.length) % DASHES.length;
  // Names of colours, such as --link, become those of the theme.
  function themed(value) {
    if (typeof value === "string") return value.startsWith("--") ? css(value) : opdlabPlain(value);
    if (Array.isArray(value)) return value.map(themed);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, k === "hovertemplate" ? v : themed(v)]));
    return value;
  }
  function mixed(share) {
    const parts = (name) => css(name).match(/[0-9a-f]{2}/gi).map((one) => parseInt(one, 16));
    const [from, to] = [parts("--faint"), parts("--link")];
    return `rgb(${from.map((one, n) => Math.round(one + share * (to[n] - one))).join(",")})`;
  }
  function merged(a, b) {
    const plain = (one) => one && typeof one === "object" && !Array.isArray(one);
    const both = { ...a };
    for (const [key, value] of Object.entries(b ?? {})) both[key] = plain(value) && plain(a[key]) ? merged(a[key], value) : value;
    return both;
  }
  function drawn(t) {
    const trace = { type: "scatter", showlegend: Boolean(t.name), ...themed(t) };
    if (t.colour !== undefined) Object.assign(trace, { line: { dash: DASHES[round(t)], ...t.line, color: colour(t.colour), width: 1.8 } }, t.mode === "lines+markers" ? { marker: { size: round(t) ? 8 : 5, symbol: SHAPES[round(t)] } } : {});
    if (t.heat !== undefined) trace.line = { ...t.line, color: t.heat === 1 ? css("--up") : mixed(t.heat ** 2) };
    // Trials that the table leaves out are pale.
    if (t.trials && chosen) {
      const pale = t.trials.map((one) => (chosen.has(one) ? 1 : 0.08));
      if (t.mode === "lines") trace.opacity = pale[0]; else { trace.marker = { ...trace.marker, opacity: pale }; delete trace.error_y; }
    }
    return trace;
  }
  function shape(one, plot, names) {
    const axis = { gridcolor: css("--line"), linecolor: css("--line"), zerolinecolor: css("--dim"), automargin: true };
    const size = paper ? { autosize: false, width: one.slice ? PAPER.small : one.wide ? PAPER.full : PAPER.half, height: one.slice ? PAPER.low : one.height ? REM * one.height : PAPER.height } : {};
    if (!one.height && !one.slice) plot.style.height = plot.clientWidth < NARROW ? `${17 + 1.2 * names}rem` : "";
    const base = { ...size, hoverlabel: { namelength: -1 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 45, r: 12, t: 12, b: 44 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } },
      xaxis: { ...axis, title: { text: one.x ?? "" } }, yaxis: { ...axis, rangemode: one.share ? "tozero" : "normal" } };
    const made = merged(base, themed(one.layout));
    // To the left the first name would leave the figure.
    if (made.xaxis.side === "top" && plot.clientWidth < NARROW) made.xaxis.tickangle = -30;
    return made;
  }
  function draw(changed = () => true) {
    figures.forEach((one, n) => {
      const plot = plots[n];
      // What is folded has no size to be drawn in; it is drawn when it is opened.
      if (plot.closest("details:not([open])") || !changed(one, plot)) return;
      const traces = one.traces.map(drawn);
      Plotly.react(plot, traces, shape(one, plot, traces.filter((t) => t.showlegend).length), { responsive: true, displaylogo: false, displayModeBar: false });
    });
    root.dataset.figures = "drawn";
  }
  function theme(name) { root.dataset.theme = name ?? (root.dataset.theme === "dark" ? "light" : "dark"); draw(); }

  for (const one of figures) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption"), plot = document.createElement("div");
    figure.className = one.slice ? "slice" : one.wide ? "wide" : "";
    caption.textContent = one.title; plot.className = "plot"; figure.append(caption, plot);
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", one.alt ?? one.title);
    if (one.height) plot.style.height = `${one.height}rem`;
    document.querySelector(`.figures[data-place="${one.place}"]${one.slice ? ".slices" : ":not(.slices)"}`).append(figure);
    plots.push(plot);
    opdlabExport(caption, plot, one.title);
  }
  document.querySelectorAll("details").forEach((one) => one.addEventListener("toggle", () => draw((_, plot) => one.contains(plot))));
  document.addEventListener("trials", (event) => { chosen = event.detail; draw((one) => one.traces.some((t) => t.trials)); });
  document.getElementById("theme").addEventListener("click", () => theme());
  document.addEventListener("keydown", (event) => { if (event.key === "d" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && !event.ctrlKey && !event.metaKey && !event.altKey) theme(); });
  let before = null;
  addEventListener("beforeprint", () => { before = root.dataset.theme; paper = true; theme("light"); });
  addEventListener("afterprint", () => { paper = false; theme(before); plots.forEach((plot) => plot.data && Plotly.Plots.resize(plot)); });
  theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
})();
