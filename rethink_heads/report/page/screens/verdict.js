// What was found, in sentences that lead to their evidence.
import { legend } from "../charts.js";
import { h, hashOf, unbroken } from "../dom.js";
import { cell, estimate, percent } from "../format.js";
import { objectsOf, select } from "../objects.js";
import { headDots, headRows, headTable, keyLabel } from "./common.js";

const METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"];

function precision(report) {
  const table = report.tables.get("ap");
  if (!table) return null;
  const rows = headRows(report, table, "metric");
  return [
    headTable(table, rows, METRICS, "value", { caption: "Average precision in per cent [95% interval]", options: percent() }),
    legend(rows.map(({ one }) => one), "bars are 95% intervals"),
    headDots(table, rows, METRICS, "value", { title: "Average precision", label: "Average precision (%)", scale: 100, zero: true, width: 560 }),
  ];
}

/** Differences in PCC on small objects, over all proposals and within each object, which may not agree. */
function smallRanking(report) {
  const table = report.tables.get("comparisons");
  const found = (statistic, of) => table.where({ statistic, iou_low: 0, size: "small" }).map((row) => `${keyLabel(report, table.get(row, "a"))} less ${keyLabel(report, table.get(row, "b"))} ${of}: ${cell(table, row, "difference", { signed: true })}${table.get(row, "excludes_zero") ? "" : " (undecided)"}`);
  return table?.has("statistic") ? [...found("pcc", "in PCC of score and IoU"), ...found("object_pcc", "in that within each object")] : [];
}

/** Each head's AP with its ranking fixed. */
function mendedRanking(report) {
  const table = report.tables.get("lost_precision");
  return report.series.flatMap((one) => table.where({ detector: one.detector, head: one.head, cause: "ranking" }).map((row) => `${one.label} ${cell(table, row, "oracle", percent())}%`));
}

/** The objects of the largest gaps between the first two heads. */
function disagreement(report) {
  const all = objectsOf(report);
  const gap = all.numbers("gap", 0, 1);
  const most = select(all, { preset: "disagree", head: 0, against: 1, by: "gap", down: true }).slice(0, 5);
  const of = `${all.has("score") ? "score" : "best IoU"} of ${report.series[0].label} less that of ${report.series[1].label}`;
  return Array.from(most, (object, at) => (at ? "" : `by ${of}: `) + `${all.table.get(object, "object_id")} (${all.text("class_name", object)}, ${estimate(gap[object], undefined, undefined, { digits: 2, signed: true })})`);
}

const QUESTIONS = [
  { text: "Which head ranks small objects better, and by how much?", screen: "score", needs: (report) => report.tables.has("pcc"), answer: smallRanking },
  { text: "What would AP be if detections came in the order of their true IoU?", screen: "lost", needs: (report) => report.tables.has("lost_precision"), answer: mendedRanking },
  { text: "Which objects do heads disagree on most?", screen: "objects", settings: { preset: "disagree" }, needs: (report) => report.series.length > 1, answer: disagreement },
  { text: "Which objects are well placed but badly scored?", screen: "objects", settings: { preset: "misranked" }, needs: () => true },
  { text: "Where are objects lost between proposals and detections?", screen: "stages", needs: (report) => report.tables.has("fates") },
  { text: "Which score to act on?", screen: "thresholds", needs: (report) => report.tables.has("detections") },
];

export const verdict = {
  title: "Verdict",
  content: (report) => h("div", {},
    report.sentences.map(({ text, screen, settings }) => h("p", { class: "lead" }, text, " ", screen ? h("a", { href: hashOf(screen, settings ?? {}) }, "evidence") : null)),
    report.sentences.some(({ screen }) => screen === "lost") ? h("p", { class: "note" }, "Causes overlap: a share divides the loss so that the causes add up, and fixing one cause alone may add more or less (see Methods).") : null,
    h("h3", {}, "Questions"), h("ul", {}, QUESTIONS.filter(({ needs }) => needs(report)).map(({ text, screen, settings, answer }) => h("li", {}, h("a", { href: hashOf(screen, settings ?? {}) }, text), " ", unbroken(answer?.(report).join("; ") ?? "")))),
    report.warnings.map((text) => h("p", { class: "warning" }, text)),
    precision(report),
    report.missing.length ? [h("h3", {}, "Not in this report"), h("ul", {}, report.missing.map(({ title, why }) => h("li", {}, `${title}. ${why ?? "It was not measured."}`)))] : null),
};
