// Draws the figures of a page from the tables beside them: the table is the data, so a page without
// JavaScript says the same.
"use strict";
(() => {
  const drawn = new Map(); // figure -> uPlot
  const DASHES = [[], [6, 3], [2, 3], [9, 3, 2, 3]]; // told apart without colour too
  const TOKENS = ["--accent", "--bad", "--unknown", "--warn"];
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = (cell) => {
    const text = cell.textContent.trim();
    return text === "" ? null : Number(text);
  };
  const data = (table, columns) => {
    const rows = [...table.tBodies[0].rows];
    const xs = rows.map((row) => Number(row.cells[0].dataset.x));
    return [xs, ...columns.map((column) => rows.map((row) => number(row.cells[column])))];
  };
  const draw = (figure) => {
    const table = document.getElementById(figure.dataset.table);
    if (!table || !window.uPlot) return;
    const columns = figure.dataset.columns.split(",").map(Number);
    const canvas = figure.querySelector(".canvas");
    const width = Math.max(200, canvas.clientWidth);
    const names = columns.map((column) => table.tHead.rows[0].cells[column].textContent);
    const bars = Boolean(figure.dataset.bars);
    // Side by side: one bar must not hide another.
    const path = (n) => (bars ? uPlot.paths.bars({ size: [0.8 / names.length, 30], align: names.length === 1 ? 0 : n ? 1 : -1 }) : undefined);
    const shown = (_, value) => (value === null || value === undefined ? "" : String(value));
    const whole = bars ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] } : {};
    const axis = { stroke: token("--faint"), grid: { stroke: token("--line"), width: 1 }, ticks: { stroke: token("--line") }, font: "12px system-ui, sans-serif" };
    const series = names.map((label, n) => ({
      label, stroke: token(TOKENS[n]), width: bars ? 0 : 1.5, dash: bars ? undefined : DASHES[n], paths: path(n), value: shown,
      fill: bars ? token(TOKENS[n]) : undefined, points: { show: !bars && table.tBodies[0].rows.length < 60, size: 5 },
    }));
    drawn.get(figure)?.destroy();
    drawn.set(figure, new uPlot({
      width, height: 190, series: [{ label: "at", value: (_, at) => at === null ? "" : uPlot.fmtDate("{YYYY}-{MM}-{DD} {HH}:{mm} UTC")(utc(at)) }, ...series],
      tzDate: utc, axes: [{ ...axis, values: instants }, { ...axis, ...whole, size: 56 }], scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), (high ?? 1) * 1.08 || 1] } },
      cursor: { y: false }, legend: { live: true },
    }, data(table, columns), canvas));
  };
  const utc = (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC");
  const DAY = 86400;
  // As everywhere on these pages: UTC, year first, no am and pm.
  const instants = (plot, splits) => {
    const span = plot.scales.x.max - plot.scales.x.min;
    const format = uPlot.fmtDate(span > 2 * DAY ? "{MM}-{DD}" : "{HH}:{mm}");
    return splits.map((at) => format(utc(at)));
  };
  const all = () => {
    for (const [figure, plot] of drawn) if (!figure.isConnected) { plot.destroy(); drawn.delete(figure); }
    document.querySelectorAll("figure.plot").forEach(draw);
  };
  let timer = 0;
  const later = () => { clearTimeout(timer); timer = setTimeout(all, 150); };
  document.addEventListener("DOMContentLoaded", all);
  document.addEventListener("htmx:afterSettle", later);
  window.addEventListener("resize", later);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  if (document.readyState !== "loading") all();
})();
