"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b4fa3"];
  // Beyond as many runs as there are colours, lines have other dashes and points other shapes.
  const DASHES = ["solid", "dash", "dashdot", "longdash"], SHAPES = ["circle", "square", "diamond", "x"];
  const ON_DARK = { "#0072b2": "#3d9be0", "#8c6d31": "#b08d4a", "#7b4fa3": "#a67fd0" };
  // Pixels of a figure on a landscape page, two beside each other.
  const PAPER = { autosize: false, width: 455, height: 290 };
  const NARROW = 420;
  const root = document.documentElement, place = document.getElementById("figures");
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  let paper = false;

  function colour(n) {
    const one = COLOURS[n % COLOURS.length];
    return (root.dataset.theme === "dark" && ON_DARK[one]) || one;
  }
  const round = (t) => Math.floor((t.colour ?? 0) / COLOURS.length) % DASHES.length;
  function draw() {
    const axis = () => ({ gridcolor: css("--line"), linecolor: css("--line"), zerolinecolor: css("--dim"), automargin: true });
    figures.forEach((one, n) => {
      const traces = one.traces.map((t) => ({ ...t, type: "scatter", showlegend: Boolean(t.name), line: { dash: DASHES[round(t)], ...t.line, color: colour(t.colour ?? 0), width: 1.8 },
        ...(t.mode === "lines+markers" ? { marker: { size: round(t) ? 8 : 5, symbol: SHAPES[round(t)] } } : {}),
        ...(t.marks ? { hovertemplate: "%{y}: %{x:+.1f} points<extra></extra>", marker: { size: 9, color: t.marks.map((m) => css(`--${m}`)) }, error_x: { ...t.error_x, color: css("--dim"), thickness: 1.5 } } : {}) }));
      const plot = place.children[n].lastChild, names = traces.filter((t) => t.showlegend).length;
      plot.style.height = plot.clientWidth < NARROW ? `${17 + 1.2 * names}rem` : "";
      Plotly.react(plot, traces, { ...(paper ? PAPER : {}), hoverlabel: { namelength: -1 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), family: "system-ui, sans-serif", size: 12 },
        margin: { l: 45, r: 12, t: 12, b: 44 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } }, xaxis: { ...axis(), title: { text: one.x }, ...(one.range ? { range: one.range, zeroline: true, zerolinewidth: 2 } : {}) }, yaxis: { ...axis(), rangemode: one.share ? "tozero" : "normal" } },
        { responsive: true, displaylogo: false, displayModeBar: false });
    });
    root.dataset.figures = "drawn";
  }
  function theme(name) { root.dataset.theme = name ?? (root.dataset.theme === "dark" ? "light" : "dark"); draw(); }

  for (const one of figures) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption"), plot = document.createElement("div");
    caption.textContent = one.title; plot.className = "plot"; figure.append(caption, plot); place.append(figure);
  }
  document.getElementById("theme").addEventListener("click", () => theme());
  document.addEventListener("keydown", (event) => { if (event.key === "d" && !event.ctrlKey && !event.metaKey && !event.altKey) theme(); });
  let before = null;
  addEventListener("beforeprint", () => { before = root.dataset.theme; paper = true; theme("light"); });
  addEventListener("afterprint", () => { paper = false; theme(before); document.querySelectorAll(".plot").forEach((plot) => Plotly.Plots.resize(plot)); });
  theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
})();
