// What several screens are made of: a table of heads by category, dots of it, and curves by a column.
import { chart, curve, dot, rangeOf } from "../charts.js";
import { s } from "../dom.js";
import { cell } from "../format.js";
import { sortable } from "../table.js";

export const UNIT = { range: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1] };

/** AP by the size of objects, as the tables call it. */
export const METRICS = { all: "AP", small: "APs", medium: "APm", large: "APl" };

/** By size that has objects of one class alone in a table by class: that class. Its AP is that of the size. */
export function onlyClasses(table) {
  const names = table.distinct("size").map((size) => [size, table.distinct("class_name", table.where({ size }))]);
  return new Map(names.filter(([, { length }]) => length === 1).map(([size, [name]]) => [size, name]));
}

/** By head that has any: the rows of the table that are wanted, by their category. */
export function headRows(report, table, category, wanted = {}) {
  return report.series.flatMap((one) => {
    const rows = table.where({ ...wanted, detector: one.detector, head: one.head });
    return rows.length ? [{ one, at: new Map(rows.map((row) => [table.get(row, category), row])) }] : [];
  });
}

/** A table with a row a head and a column a category; each cell an estimate with its interval. */
export function headTable(table, rows, categories, value, { caption, options = {}, names = {} }) {
  const columns = categories.map((category) => ({
    title: names[category] ?? String(category),
    text: ({ at }) => (at.has(category) ? cell(table, at.get(category), value, options) : "-"),
    value: ({ at }) => (at.has(category) ? table.get(at.get(category), value) : NaN),
  }));
  return sortable({ caption, columns: [{ title: "Head", text: ({ one }) => one.label }, ...columns], rows });
}

/** Dots with intervals: a place a category, heads side by side. */
export function headDots(table, rows, categories, value, { title, label, scale = 1, zero = false, names = {}, range = null, width = 420 }) {
  const read = (row, name) => scale * table.get(row, name);
  const ends = rows.flatMap(({ at }) => [...at.values()].flatMap((row) => ["", "_low", "_high"].map((end) => read(row, `${value}${end}`))));
  const into = chart({
    x: { range: [-0.5, categories.length - 0.5], names: Object.fromEntries(categories.map((category, at) => [at, names[category] ?? category])) },
    y: { range: range ?? rangeOf(ends, { zero }), label }, title, width,
    describe: `${title || label}, by head, with 95% intervals.`,
  });
  const step = Math.min(0.13, 0.8 / rows.length);
  rows.forEach(({ one, at }, place) => categories.forEach((category, x) => {
    if (!at.has(category)) return;
    const row = at.get(category);
    dot(into, x + (place - (rows.length - 1) / 2) * step, read(row, value), read(row, `${value}_low`), read(row, `${value}_high`), one);
  }));
  return into.figure;
}

/** Curves with bands of a column against another, one a head. */
export function headCurves(report, table, wanted, { x, value, title, xLabel, yLabel, xRange = null, yRange = null, scale = 1, diagonal = false }) {
  const heads = report.series.map((one) => ({ one, rows: table.where({ ...wanted, detector: one.detector, head: one.head }) })).filter(({ rows }) => rows.length);
  const read = (row, name) => scale * table.get(row, name);
  const all = heads.flatMap(({ rows }) => rows);
  const ends = all.flatMap((row) => ["", "_low", "_high"].map((end) => read(row, `${value}${end}`)));
  const into = chart({
    x: { ...(xRange ?? { range: rangeOf(all.map(x), { air: 0.02 }) }), label: xLabel },
    y: { ...(yRange ?? { range: rangeOf(ends) }), label: yLabel }, title, describe: `${yLabel} against ${xLabel}, by head, with 95% intervals.`,
  });
  if (diagonal) into.plot.append(s("line", { x1: into.x(0), y1: into.y(0), x2: into.x(1), y2: into.y(1), class: "mark" }));
  for (const { one, rows } of heads) {
    const sorted = [...rows].sort((a, b) => x(a) - x(b));
    curve(into, sorted.map((row) => [x(row), read(row, value), read(row, `${value}_low`), read(row, `${value}_high`)]), one);
  }
  return into.figure;
}

/** The middle of a row's IoU bin. */
export const middle = (table) => (row) => (table.get(row, "iou_low") + table.get(row, "iou_high")) / 2;

export const sizesIn = (table) => ["small", "medium", "large", "all"].filter((size) => table.where({ size }).length);

export const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** "detector/head" as its label; the label of the page where there is one. */
export function keyLabel(report, key) {
  return report.series.find((one) => `${one.detector}/${one.head}` === key)?.label ?? key;
}
