// The paper's Figures 2 and 3: how the score follows the proposal's IoU, by object size and stage.
import { chart, curve, dot, legend, rangeOf } from "../charts.js";
import { choice, h } from "../dom.js";
import { SIZES, cell } from "../format.js";
import { sortable } from "../table.js";

const UNIT = { range: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1] };

/** A chart by IoU bin of a column of a table, one curve a head. */
export function byIou(report, name, column, size, label) {
  const table = report.tables.get(name);
  const rows = table.where({ size });
  const ends = rows.flatMap((row) => [table.get(row, `${column}_low`), table.get(row, `${column}_high`)]);
  const [low, high] = rangeOf(ends);
  const unit = low >= -0.1 && high <= 1.1;
  const into = chart({ x: { ...UNIT, label: "Proposal IoU" }, y: unit ? { ...UNIT, label } : { range: [low, high], label }, title: size === "all" ? "All sizes" : `${size[0].toUpperCase()}${size.slice(1)} objects`, describe: `${label} against the proposal's IoU, ${size} objects, with 95% intervals.` });
  for (const one of report.series) {
    const own = table.where({ size, detector: one.detector, head: one.head });
    const at = (row) => (table.get(row, "iou_low") + table.get(row, "iou_high")) / 2;
    curve(into, own.map((row) => [at(row), table.get(row, column), table.get(row, `${column}_low`), table.get(row, `${column}_high`)]), one);
  }
  return into.figure;
}

function coefficients(report, range) {
  const table = report.tables.get("pcc");
  const there = (row) => Math.abs(table.get(row, "iou_low") - range) < 1e-9;
  const rows = report.series.flatMap((one) => {
    const own = table.where({ detector: one.detector, head: one.head }).filter(there);
    return own.length ? [{ one, at: Object.fromEntries(own.map((row) => [table.get(row, "size"), row])) }] : [];
  });
  const text = (size, column) => ({ at }) => (size in at ? cell(table, at[size], column) : "-");
  const columns = (column) => [
    { title: "Head", text: ({ one }) => one.label },
    ...SIZES.map((size) => ({ title: size, text: text(size, column), value: ({ at }) => (size in at ? table.get(at[size], column) : NaN) })),
  ];
  const all = table.all().filter(there);
  const into = chart({
    x: { range: [-0.5, SIZES.length - 0.5], names: Object.fromEntries(SIZES.map((size, at) => [at, size])), label: "Object size" },
    y: { range: rangeOf(all.flatMap((row) => [table.get(row, "pcc_low"), table.get(row, "pcc_high")])), label: "PCC, all proposals" },
    title: "Pearson correlation of score and IoU", describe: "Pearson correlation by object size and head; the numbers are in the table.",
  });
  rows.forEach(({ one, at }, place) => SIZES.forEach((size, x) => {
    if (!(size in at)) return;
    const read = (name) => table.get(at[size], name);
    dot(into, x + (place - (rows.length - 1) / 2) * Math.min(0.12, 0.8 / rows.length), read("pcc"), read("pcc_low"), read("pcc_high"), one);
  }));
  return [into.figure,
    sortable({ caption: "PCC, all proposals [95% interval]", columns: columns("pcc"), rows }),
    sortable({ caption: "PCC, mean of objects [95% interval]", columns: columns("object_pcc"), rows })];
}

export const score = {
  title: "Score and IoU",
  about: "The same predefined proposals are put through every head: a good ranking head gives a higher score to a proposal that fits its object better.",
  needs: ["score_by_iou"],
  content: (report, settings, set) => {
    const range = Number(settings.get("from") ?? 0);
    const sizes = SIZES.filter((size) => report.tables.get("score_by_iou").where({ size }).length);
    return h("div", {},
      legend(report.series, "bands and bars are 95% intervals"),
      h("div", { class: "charts" }, sizes.map((size) => byIou(report, "score_by_iou", "mean", size, "Score of the true class"))),
      h("div", { class: "controls" }, choice("Correlation over proposals of IoU", [["0", "0 to 1 (the paper)"], ["0.5", "0.5 to 1"]], String(range), (from) => set({ from }))),
      coefficients(report, range));
  },
};
