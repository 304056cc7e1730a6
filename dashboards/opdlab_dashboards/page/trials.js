"use strict";
// The table of trials: sorted by a click on a heading, filtered by words and conditions; figures follow it.
(() => {
  const table = document.getElementById("trials-table"), body = table.tBodies[0], search = document.getElementById("trials-search");
  const state = document.getElementById("trials-state"), count = document.getElementById("trials-count"), fault = document.getElementById("trials-fault");
  const heads = [...table.tHead.rows[0].cells], rows = [...body.rows], keys = heads.map((one) => one.dataset.key), names = heads.map((one) => one.querySelector(".name").textContent);
  const value = (row, n) => { const by = row.cells[n].dataset.by; return by === undefined ? null : by !== "" && !isNaN(by) ? +by : by; };

  function sort(n) {
    const down = heads[n].getAttribute("aria-sort") === "ascending" || (heads[n].getAttribute("aria-sort") === null && heads[n].dataset.down !== undefined);
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    heads[n].setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
    rows.sort((one, other) => {
      const a = value(one, n), b = value(other, n);
      // What has no value stands last, whatever the order.
      return a === null || b === null ? (a === null) - (b === null) : down ? order(b, a) : order(a, b);
    });
    body.append(...rows);
  }

  const COMPARE = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => String(a).toLowerCase() === String(b).toLowerCase() };
  // A word, or KEY<NUMBER, KEY>=NUMBER, KEY=VALUE, where KEY is a column or its last part.
  function condition(word) {
    const parts = word.match(/^([^<>=]+)(<=|>=|<|>|=)(.+)$/);
    if (!parts) return (row) => row.textContent.toLowerCase().includes(word.toLowerCase());
    const ends = keys.map((key) => key.split(".").pop());
    const n = [keys, names, ends].map((some) => some.indexOf(parts[1])).find((place) => place >= 0) ?? -1;
    if (n < 0) throw new Error(`There is no column ${parts[1]}: ${names.map((name, place) => (/[\s,%]/.test(name) ? keys[place] : name)).join(", ")}`);
    const wanted = isNaN(parts[3]) ? parts[3] : +parts[3];
    return (row) => { const found = value(row, n); return found !== null && COMPARE[parts[2]](found, wanted); };
  }
  function filter() {
    let tests = [];
    fault.hidden = true;
    try { tests = search.value.split(/\s+/).filter(Boolean).map(condition); } catch (error) { fault.textContent = error.message; fault.hidden = false; }
    const shown = rows.filter((row) => {
      row.hidden = !((!state.value || row.dataset.state === state.value) && tests.every((test) => test(row)));
      return !row.hidden;
    });
    count.textContent = `${shown.length} of ${rows.length} rows`;
    const all = shown.length === rows.length;
    document.dispatchEvent(new CustomEvent("trials", { detail: all ? null : new Set(shown.map((row) => +row.dataset.trial)) }));
  }

  heads.forEach((head, n) => head.querySelector("button").addEventListener("click", () => sort(n)));
  search.addEventListener("input", filter);
  state.addEventListener("change", filter);
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing) { search.focus(); event.preventDefault(); }
    else if (event.key === "Escape" && event.target === search) { search.value = ""; filter(); search.blur(); }
  });
})();
