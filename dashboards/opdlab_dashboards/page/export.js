"use strict";
// Buttons that save a figure as it is seen: as SVG for a paper, as PNG for a slide.
// A text as plotly shows it letter by letter: it takes <b>, <a href> and &amp; for markup.
const opdlabPlain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
const opdlabExport = (() => {
  const SCALE = 2;
  const file = (title) => title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "figure";
  async function save(plot, title, format) {
    const { width, height } = plot.getBoundingClientRect();
    const layout = { ...structuredClone(plot.layout), paper_bgcolor: getComputedStyle(document.body).backgroundColor, title: { text: opdlabPlain(title), font: { size: 13 } } };
    layout.margin = { ...layout.margin, t: (layout.margin.t ?? 12) + 32 };
    const address = await Plotly.toImage({ data: plot.data, layout }, { format, width: Math.round(width), height: Math.round(height) + 32, scale: format === "png" ? SCALE : 1 });
    const link = document.createElement("a");
    link.href = address; link.download = `${file(title)}.${format}`;
    link.click();
  }
  return (caption, plot, title) => {
    const group = document.createElement("span"), name = typeof title === "function" ? title : () => title;
    group.className = "export";
    for (const format of ["svg", "png"]) {
      const button = document.createElement("button");
      button.type = "button"; button.textContent = format.toUpperCase();
      button.setAttribute("aria-label", `save as ${format.toUpperCase()}: ${name()}`);
      button.addEventListener("click", () => plot.data && save(plot, name(), format));
      group.append(button);
    }
    caption.append(group);
  };
})();
