// Classes and sizes in a sortable table, and the confusion matrix with background.
import { heatmap } from "../charts.js";
import { choice, go, h } from "../dom.js";
import { cell, percent } from "../format.js";
import { order, sortable } from "../table.js";

const QUANTITIES = { ap: "AP", ap50: "AP50", ap75: "AP75", recall: "Recall", olrp: "oLRP", localization: "oLRP loc.", false_positives: "oLRP FP", false_negatives: "oLRP FN", threshold: "Threshold", pcc: "PCC" };
const MOST_CONFUSED = 30;

function confusion(report, one) {
  const table = report.tables.get("confusion");
  if (!table) return null;
  const rows = table.where({ detector: one.detector, head: one.head });
  const sums = new Map();
  for (const row of rows) sums.set(table.get(row, "true_class"), (sums.get(table.get(row, "true_class")) ?? 0) + table.get(row, "count"));
  const names = [...sums.keys()].sort((a, b) => (a === "background") - (b === "background") || sums.get(b) - sums.get(a)).slice(0, MOST_CONFUSED);
  const predicted = [...names.filter((name) => name !== "background"), "background"];
  const at = new Map(rows.map((row) => [`${table.get(row, "true_class")}\n${table.get(row, "predicted_class")}`, table.get(row, "count")]));
  const count = (row, column) => at.get(`${names[row]}\n${predicted[column]}`) ?? 0;
  return [h("h3", {}, "Confusion matrix"), h("p", { class: "about" }, "Objects by their class (rows) and the class of their detection (columns); background: not found, or found where there is none. A cell opens the class's objects."),
    heatmap({ rows: names, columns: predicted, rowLabel: "true", columnLabel: "detected", value: (row, column) => (sums.get(names[row]) ? count(row, column) / sums.get(names[row]) : NaN), text: (row, column) => (count(row, column) ? String(count(row, column)) : ""), range: [0, 1], onclick: (row) => (names[row] === "background" ? null : go("objects", { class: names[row] })) })];
}

export const classes = {
  title: "Classes and sizes",
  about: "AP and its kin by class and object size. A class opens its objects.",
  needs: ["by_class"],
  content: (report, settings, set) => {
    const table = report.tables.get("by_class");
    const heads = report.series.filter((one) => table.where({ detector: one.detector, head: one.head }).length);
    const one = heads[Math.min(Number(settings.get("head") ?? 0), heads.length - 1)];
    const size = settings.get("size") ?? "all";
    const text = settings.get("text") ?? "";
    const rows = table.where({ detector: one.detector, head: one.head, size }).filter((row) => table.get(row, "class_name").toLowerCase().includes(text.toLowerCase()));
    const there = Object.keys(QUANTITIES).filter((name) => table.has(name));
    const options = (name) => (["threshold", "pcc"].includes(name) ? {} : percent());
    const columns = [
      { title: "Class", text: (row) => table.get(row, "class_name") },
      { title: "Objects", text: (row) => cell(table, row, "objects", { count: true }), value: (row) => table.get(row, "objects") },
      ...there.map((name) => ({ title: QUANTITIES[name], text: (row) => cell(table, row, name, options(name)), value: (row) => table.get(row, name) })),
    ];
    const sort = { by: Number(settings.get("by") ?? -1), down: settings.get("down") !== "0" };
    const filter = h("span", { class: "field" }, h("label", { for: "class-filter" }, "Class contains"), h("input", { id: "class-filter", value: text, onchange: (event) => set({ text: event.target.value }, true) }));
    return h("div", {},
      h("div", { class: "controls" },
        choice("Head", heads.map((each, at) => [String(at), each.label]), String(heads.indexOf(one)), (value) => set({ head: value })),
        choice("Object size", table.distinct("size").map((name) => [name, name]), size, (value) => set({ size: value })), filter),
      sortable({ caption: `${one.label}, in per cent [95% interval]`, columns, rows: sort.by < 0 ? order(rows, (row) => table.get(row, "objects"), true) : rows, sort, onsort: ({ by, down }) => set({ by, down: down ? "1" : "0" }, true), onpick: (row) => go("objects", { class: table.get(row, "class_name") }) }),
      confusion(report, one));
  },
};
