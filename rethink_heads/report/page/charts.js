// Charts in SVG: a frame with axes, and marks in it. A head has its colour, its marker and its dash; intervals are drawn.
import { h, s, unbroken } from "./dom.js";
import { short } from "./format.js";

const MARGIN = { top: 8, right: 10, bottom: 34, left: 50 };
// Of a letter, about.
const LETTER = 5.8;

/** Even steps that a reader counts in, about `count` of them, between two values. */
export function ticks(low, high, count = 5) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, at) => (first + at) * step);
}

/** Range of finite values, with zero in it where asked, and some air. */
export function rangeOf(values, { zero = false, air = 0.05 } = {}) {
  let low = zero ? 0 : Infinity;
  let high = zero ? 0 : -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!Number.isFinite(low)) return [0, 1];
  const more = (high - low || Math.abs(high) || 1) * air;
  return [zero && low === 0 ? 0 : low - more, zero && high === 0 ? 0 : high + more];
}

/**
 * A chart: `x` and `y` are {range, label, ticks, names}; marks are put into `plot` at `chart.x(value)`, `chart.y(value)`.
 * `describe` is what a reader who cannot see the chart is told; `live` charts have marks that can be pressed.
 */
export function chart({ x, y, width: most = 420, height: upright = 260, title = "", describe = "", live = false }) {
  // On a telephone a wide chart is drawn narrower, so that its letters can be read.
  const width = Math.min(most, Math.max(300, document.documentElement.clientWidth - 24));
  const names = (axis) => axis.names ?? Object.fromEntries((axis.ticks ?? ticks(...axis.range)).map((value) => [value, short(value)]));
  // Names that would run into each other stand aslant.
  const texts = Object.values(names(x)).map(String);
  const longest = LETTER * Math.max(...texts.map((text) => text.length));
  const aslant = longest > (width - MARGIN.left - MARGIN.right) / texts.length;
  const height = upright + (aslant ? 0.6 * longest : 0);
  const inner = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: upright - MARGIN.bottom };
  const scale = (range, from, to) => (value) => from + ((value - range[0]) / (range[1] - range[0])) * (to - from);
  const atX = scale(x.range, inner.left, inner.right);
  const atY = scale(y.range, inner.bottom, inner.top);
  const plot = s("g", { class: "plot" });
  const axes = s("g", { class: "axes", "aria-hidden": "true" });
  for (const [value, text] of Object.entries(names(y))) {
    const place = atY(Number(value));
    axes.append(s("line", { x1: inner.left, x2: inner.right, y1: place, y2: place, class: "grid" }));
    axes.append(s("text", { x: inner.left - 5, y: place, class: "tick y" }, text));
  }
  for (const [value, text] of Object.entries(names(x))) {
    const [left, below] = [atX(Number(value)), inner.bottom + 14];
    axes.append(s("text", { x: left, y: below, class: aslant ? "tick aslant" : "tick x", transform: aslant ? `rotate(-36 ${left} ${below})` : null }, text));
  }
  axes.append(s("line", { x1: inner.left, x2: inner.right, y1: inner.bottom, y2: inner.bottom, class: "axis" }));
  axes.append(s("text", { x: (inner.left + inner.right) / 2, y: height - 4, class: "label x" }, x.label ?? ""));
  const turned = `translate(11 ${(inner.top + inner.bottom) / 2}) rotate(-90)`;
  axes.append(s("text", { transform: turned, class: "label y" }, y.label ?? ""));
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", style: { maxWidth: `${1.2 * width}px` }, role: live ? "group" : "img", "aria-label": describe || title }, axes, plot);
  const figure = h("figure", {}, title ? h("figcaption", {}, title) : null, svg);
  return { figure, svg, plot, x: atX, y: atY, inner, width, height };
}

/** The outline of a head's marker about a place. */
export function marker(look, x, y, size = 3.6) {
  const attributes = { class: "marker", fill: look.hollow ? "var(--paper)" : look.colour, stroke: look.colour };
  const points = {
    s: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    "^": [[0, -1.2], [1.1, 0.9], [-1.1, 0.9]],
    v: [[0, 1.2], [1.1, -0.9], [-1.1, -0.9]],
    D: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    "<": [[-1.2, 0], [0.9, -1.1], [0.9, 1.1]],
    ">": [[1.2, 0], [-0.9, -1.1], [-0.9, 1.1]],
    P: [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
  }[look.marker];
  if (!points) return s("circle", { cx: x, cy: y, r: size, ...attributes });
  return s("polygon", { points: points.map(([dx, dy]) => `${x + size * dx},${y + size * dy}`).join(" "), ...attributes });
}

/** A head's curve with its interval as a band; `rows` are [x, value, low, high]. */
export function curve(into, rows, look, { markers = true } = {}) {
  const there = rows.filter(([, value]) => Number.isFinite(value));
  const path = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${into.x(x).toFixed(1)} ${into.y(y).toFixed(1)}`).join("");
  const banded = there.filter(([, , low, high]) => Number.isFinite(low) && Number.isFinite(high));
  if (banded.length > 1) {
    const around = [...banded.map(([x, , low]) => [x, low]), ...banded.map(([x, , , high]) => [x, high]).reverse()];
    into.plot.append(s("path", { d: `${path(around)}Z`, fill: look.colour, class: "band" }));
  }
  into.plot.append(s("path", { d: path(there), stroke: look.colour, "stroke-dasharray": look.dash, class: "curve" }));
  if (markers) there.forEach(([x, y], at) => (at % Math.ceil(there.length / 8) ? null : into.plot.append(marker(look, into.x(x), into.y(y), 3))));
}

/** A dot with its interval as an upright (or level) line. */
export function dot(into, x, value, low, high, look, level = false) {
  if (!Number.isFinite(value)) return;
  const at = (a, b) => (level ? [into.x(a), into.y(b)] : [into.x(b), into.y(a)]);
  if (Number.isFinite(low) && Number.isFinite(high)) {
    const [[x1, y1], [x2, y2]] = [at(low, x), at(high, x)];
    into.plot.append(s("line", { x1, y1, x2, y2, stroke: look.colour, class: "interval" }));
  }
  into.plot.append(marker(look, ...at(value, x)));
}

/** A bar from one value to another, level or upright, with a title that is shown on hover and read aloud. */
export function bar(into, { place, from, to, thickness, colour, title, level = true, onclick = null, pattern = "" }) {
  const [a, b] = level ? [into.x(from), into.x(to)] : [into.y(from), into.y(to)];
  const middle = level ? into.y(place) : into.x(place);
  const box = level
    ? { x: Math.min(a, b), width: Math.abs(b - a), y: middle - thickness / 2, height: thickness }
    : { y: Math.min(a, b), height: Math.abs(b - a), x: middle - thickness / 2, width: thickness };
  const extra = onclick ? { tabindex: 0, role: "button", class: "bar live", onclick, onkeydown: (event) => (event.key === "Enter" ? onclick() : null) } : { class: "bar" };
  into.plot.append(s("rect", { ...box, fill: pattern || colour, stroke: colour, "aria-label": title, ...extra }, s("title", {}, title)));
}

/** Points as an image of small cells laid over the chart's plot; cells of many points are darker. */
export function points(into, xs, ys, colour, { size = 2, alpha = 0.25 } = {}) {
  const { left, right, top, bottom } = into.inner;
  const [columns, rows] = [Math.ceil((right - left) / size), Math.ceil((bottom - top) / size)];
  const counts = new Uint32Array(columns * rows);
  for (let at = 0; at < xs.length; at += 1) {
    const column = Math.min(columns - 1, Math.floor((into.x(xs[at]) - left) / size));
    const row = Math.min(rows - 1, Math.floor((into.y(ys[at]) - top) / size));
    if (column >= 0 && row >= 0) counts[row * columns + column] += 1;
  }
  const canvas = h("canvas", { width: columns, height: rows, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  // Its hexadecimal form, whatever the style says.
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(colour.slice(4, -1)) || colour;
  const hex = Number.parseInt(pen.fillStyle.slice(1), 16);
  const image = pen.createImageData(columns, rows);
  counts.forEach((count, at) => {
    if (count) image.data.set([hex >> 16, (hex >> 8) & 255, hex & 255, 255 * (1 - (1 - alpha) ** count)], 4 * at);
  });
  pen.putImageData(image, 0, 0);
  Object.assign(canvas.style, { width: `${columns * size}px`, height: `${rows * size}px`, imageRendering: "pixelated" });
  into.plot.prepend(s("foreignObject", { x: left, y: top, width: right - left, height: bottom - top }, canvas));
}

/**
 * A grid of cells coloured from faint to strong; `value` gives NaN where there is nothing.
 * `press` gives what pressing a cell does, or null; `chosen` whether it is pressed.
 */
export function heatmap({ rows, columns, value, text, title, range = null, diverging = false, press = null, chosen = null, rowLabel = "", columnLabel = "" }) {
  const values = rows.flatMap((_, row) => columns.map((__, column) => value(row, column)));
  const [low, high] = range ?? rangeOf(values, { air: 0 });
  const strength = (each) => (diverging ? Math.abs(each) / Math.max(Math.abs(low), Math.abs(high), 1e-12) : (each - low) / (high - low || 1));
  const body = rows.map((name, row) => h("tr", {}, h("th", { scope: "row" }, name), columns.map((_, column) => {
    const each = value(row, column);
    const share = Number.isFinite(each) ? Math.min(1, Math.max(0, strength(each))) : 0;
    const hue = diverging && each < 0 ? "var(--cold)" : "var(--warm)";
    const look = { background: `color-mix(in srgb, ${hue} calc(${share.toFixed(3)} * var(--strongest)), var(--paper))` };
    const content = text(row, column);
    const onclick = content ? press?.(row, column) : null;
    return h("td", { style: look }, onclick ? h("button", { class: "cell", onclick, "aria-pressed": chosen ? String(chosen(row, column)) : null }, unbroken(content)) : unbroken(content));
  })));
  const head = h("tr", {}, h("th", {}, rowLabel && columnLabel ? `${rowLabel} \\ ${columnLabel}` : ""), columns.map((name) => h("th", { scope: "col" }, name)));
  return h("figure", {}, title ? h("figcaption", {}, title) : null, h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": title || "table" }, h("table", { class: "heat" }, h("thead", {}, head), h("tbody", {}, body))));
}

/** Names of heads with their markers and dashes; one sits above the charts that share it. */
export function legend(entries, note = "") {
  const key = (entry) => {
    const small = s("svg", { viewBox: "0 0 28 12", class: "key", "aria-hidden": "true" },
      s("line", { x1: 1, x2: 27, y1: 6, y2: 6, stroke: entry.colour, "stroke-dasharray": entry.dash, class: "curve" }), marker(entry, 14, 6, 3.4));
    return h("li", {}, small, entry.label);
  };
  return h("ul", { class: "legend" }, entries.map(key), note ? h("li", { class: "note" }, note) : null);
}
