// Classes and sizes in a sortable table, and the confusion matrix with background.
import { heatmap } from "../charts.js";
import { choice, go, h } from "../dom.js";
import { cell, percent } from "../format.js";
import { objectsOf } from "../objects.js";
import { className } from "../only.js";
import { order, sortable } from "../table.js";
import { METRICS, onlyClasses } from "./common.js";

const QUANTITIES = { ap: "AP", ap50: "AP50", ap75: "AP75", recall: "Recall, mean", olrp: "oLRP", localization: "oLRP loc.", false_positives: "oLRP FP", misses: "oLRP misses", score_threshold: "Threshold", pcc: "PCC" };
const MOST_CONFUSED = 30;

/** Objects by class and that of their detection; a row or column of the background has label -1. */
function confusion(report, one) {
  const table = report.tables.get("confusion");
  if (!table) return null;
  const rows = table.where({ detector: one.detector, head: one.head });
  const [object, detected, count] = ["object_label", "detection_label", "count"].map((name) => table.reader(name));
  const sums = new Map();
  for (const row of rows) sums.set(object(row), (sums.get(object(row)) ?? 0) + count(row));
  const labels = [...sums.keys()].filter((label) => label >= 0).sort((a, b) => sums.get(b) - sums.get(a)).slice(0, MOST_CONFUSED);
  const shownLabels = [...labels, -1];
  const name = (label) => className(report, label);
  const head = report.series.indexOf(one);
  const at = new Map(rows.map((row) => [`${object(row)} ${detected(row)}`, row]));
  const rowOf = (a, b) => at.get(`${shownLabels[a]} ${shownLabels[b]}`);
  const cellOf = (a, b) => `${shownLabels[a]}.${shownLabels[b]}.${head}`;
  // Of the background there are no objects, but detections.
  const opens = (a, b) => (shownLabels[a] < 0 ? () => go("thresholds", { class: name(shownLabels[b]), head }) : objectsOf(report).has("seen_label") ? () => go("objects", { cell: cellOf(a, b), head }) : null);
  const { only } = report;
  return [h("h3", {}, "Confusion matrix"), h("p", { class: "about" }, `Objects by their class (rows) and the class of their detection (columns), of all sizes, at each class's optimal threshold; background: not found, or found where there is none. A cell opens its objects and keeps to them on every screen; one of the last row opens the detections of its class.${sums.size > shownLabels.length ? ` The ${MOST_CONFUSED} most frequent classes.` : ""}`),
    heatmap({ rows: shownLabels.map(name), columns: shownLabels.map(name), rowLabel: "object", columnLabel: "detected as", range: [0, 1],
      value: (a, b) => (rowOf(a, b) === undefined ? NaN : table.get(rowOf(a, b), "share")), text: (a, b) => (rowOf(a, b) === undefined || count(rowOf(a, b)) === 0 ? "" : cell(table, rowOf(a, b), "count", { count: true })),
      press: opens, chosen: (a, b) => only !== null && `${only.label}.${only.seen}.${only.head}` === cellOf(a, b) })];
}

// The matrix as it was drawn last: another order of the table leaves it as it is.
const memory = { of: "", matrix: null };

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
    const options = (name) => (["score_threshold", "pcc"].includes(name) ? {} : percent());
    // The AP of a size's only class is that of the size, with its interval.
    const precision = report.tables.get("ap");
    const metrics = onlyClasses(table).has(size) ? { ap: METRICS[size], ...(size === "all" ? { ap50: "AP50", ap75: "AP75" } : {}) } : {};
    const textOf = (row, name) => {
      const [same] = precision && metrics[name] ? precision.where({ detector: one.detector, head: one.head, metric: metrics[name] }) : [];
      return same === undefined ? cell(table, row, name, options(name)) : cell(precision, same, "value", percent());
    };
    const columns = [
      { title: "Class", text: (row) => table.get(row, "class_name") },
      { title: "Objects", text: (row) => cell(table, row, "objects", { count: true }), value: (row) => table.get(row, "objects") },
      ...there.map((name) => ({ title: QUANTITIES[name], text: (row) => textOf(row, name), value: (row) => table.get(row, name) })),
    ];
    const sort = { by: Number(settings.get("by") ?? -1), down: settings.get("down") !== "0" };
    const of = `${report.series.indexOf(one)} ${settings.get("cell") ?? ""}`;
    if (memory.of !== of) Object.assign(memory, { of, matrix: h("div", { class: "matrix" }, confusion(report, one)) });
    const filter = h("span", { class: "field" }, h("label", { for: "class-filter" }, "Class contains"), h("input", { id: "class-filter", value: text, onchange: (event) => set({ text: event.target.value }, true) }));
    return h("div", {},
      h("div", { class: "controls" },
        choice("Head", heads.map((each, at) => [String(at), each.label]), String(heads.indexOf(one)), (value) => set({ head: value })),
        choice("Object size", table.distinct("size").map((name) => [name, name]), size, (value) => set({ size: value })), filter),
      sortable({ caption: `${one.label}, in per cent; PCC of true positives, and the score threshold of the least oLRP, from 0 to 1 [95% interval]`, columns, rows: sort.by < 0 ? order(rows, (row) => table.get(row, "objects"), true) : rows, sort, onsort: ({ by, down }) => set({ by, down: down ? "1" : "0" }, true), onpick: (row) => go("objects", { class: table.get(row, "class_name") }) }),
      memory.matrix);
  },
};
