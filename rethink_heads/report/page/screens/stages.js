// What becomes of objects from proposals to detections: correlation by stage, the recall ladder, fates.
import { heatmap, legend } from "../charts.js";
import { choice, go, h } from "../dom.js";
import { cell, percent } from "../format.js";
import { FATES, objectsOf } from "../objects.js";
import { headDots, headRows, headTable, sizesIn } from "./common.js";

const LADDER = { proposals: "Proposals", regressed: "Regressed", classified: "Right class", after_nms: "After NMS", detections: "Detections" };
const STAGES = { predefined: "Predefined", rpn: "RPN", detections: "Detections" };

function ladder(report, size, settings, set) {
  const table = report.tables.get("recall_ladder");
  if (!table) return null;
  const iou = settings.get("iou") ?? "0.50";
  const rows = headRows(report, table, "stage", { size, iou });
  const stages = Object.keys(LADDER);
  if (!rows.length) return null;
  return [h("h3", {}, "Recall from proposals to detections"),
    h("div", { class: "controls" },
      choice("IoU at least", table.distinct("iou").map((each) => [each, each]), iou, (value) => set({ iou: value }))),
    headDots(table, rows, stages, "recall", { title: `Recall at IoU ${iou}, ${size} objects`, label: "Recall (%)", scale: 100, names: LADDER, width: 560 }),
    headTable(table, rows, stages, "recall", { caption: "Recall in per cent [95% interval]", options: percent(), names: LADDER })];
}

function fates(report, size) {
  const table = report.tables.get("fates");
  if (!table) return null;
  const rows = headRows(report, table, "fate", { size, class_name: "all" });
  if (!rows.length) return null;
  const kinds = Object.keys(FATES).filter((fate) => rows.some(({ at }) => at.has(fate) && table.get(at.get(fate), "count") > 0));
  const rowOf = (fate, head) => rows[head].at.get(kinds[fate]);
  const text = (fate, head) => (rowOf(fate, head) === undefined ? "" : `${cell(table, rowOf(fate, head), "share", percent())}, ${cell(table, rowOf(fate, head), "count", { count: true })}`);
  return [h("h3", {}, "The fate of every object"), h("p", { class: "about" }, `Share of ${size} objects in per cent [95% interval], and how many; a cell opens them.`),
    heatmap({ rows: kinds.map((fate) => FATES[fate]), columns: rows.map(({ one }) => one.label), range: [0, 1],
      value: (fate, head) => (rowOf(fate, head) === undefined ? NaN : table.get(rowOf(fate, head), "share")), text,
      press: (fate, head) => (objectsOf(report).hasFates ? () => go("objects", { head: report.series.indexOf(rows[head].one), fate: kinds[fate], ...(size === "all" ? {} : { size }) }) : null) })];
}

function correlation(report, size) {
  const table = report.tables.get("stages") ?? report.tables.get("stage_correlation");
  if (!table) return null;
  const rows = headRows(report, table, "stage", { size });
  if (!rows.length) return null;
  const stages = Object.keys(STAGES).filter((stage) => rows.some(({ at }) => at.has(stage)));
  return [h("h3", {}, "Correlation of score and IoU by stage (Figure 3 of Wu et al., CVPR 2020)"),
    stages.length > 1 ? headDots(table, rows, stages, "pcc", { title: `PCC, ${size} objects`, label: "PCC", names: STAGES }) : null,
    headTable(table, rows, stages, "pcc", { caption: `PCC of ${size} objects [95% interval]`, names: STAGES })];
}

function content(report, settings, set) {
  const sizes = sizesIn(["recall_ladder", "fates", "stages", "stage_correlation"].map((name) => report.tables.get(name)).find(Boolean));
  const size = sizes.includes(settings.get("size")) ? settings.get("size") : "all";
  return h("div", {}, legend(report.series, "bars are 95% intervals"),
    h("div", { class: "controls" }, choice("Object size", sizes.map((name) => [name, name]), size, (value) => set({ size: value }))),
    ladder(report, size, settings, set), fates(report, size), correlation(report, size));
}

export const stages = {
  title: "Stages",
  about: "Where objects are lost on the way from proposals to detections.",
  needs: ["recall_ladder", "fates", "stages", "stage_correlation"],
  content,
};
