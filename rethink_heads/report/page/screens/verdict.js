// What was found, in sentences that lead to their evidence.
import { legend } from "../charts.js";
import { h, hashOf } from "../dom.js";
import { percent } from "../format.js";
import { headDots, headRows, headTable } from "./common.js";

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

const QUESTIONS = [
  { text: "Which head ranks small objects better, and by how much?", screen: "score", needs: (report) => report.tables.has("pcc") },
  { text: "What would AP be if detections came in the order of their true IoU?", screen: "lost", needs: (report) => report.tables.has("exchange_rate") },
  { text: "Which objects do heads disagree on most?", screen: "objects", settings: { preset: "disagree" }, needs: (report) => report.series.length > 1 },
  { text: "Which objects are well placed but badly scored?", screen: "objects", settings: { preset: "misranked" }, needs: () => true },
  { text: "Where are objects lost between proposals and detections?", screen: "stages", needs: (report) => report.tables.has("fates") },
  { text: "Which score to act on?", screen: "thresholds", needs: (report) => report.tables.has("detections") },
];

export const verdict = {
  title: "Verdict",
  content: (report) => h("div", {},
    report.sentences.map(({ text, screen, settings }) => h("p", { class: "lead" }, text, " ", screen ? h("a", { href: hashOf(screen, settings ?? {}) }, "evidence") : null)),
    h("h3", {}, "Questions"), h("ul", {}, QUESTIONS.filter(({ needs }) => needs(report)).map(({ text, screen, settings }) => h("li", {}, h("a", { href: hashOf(screen, settings ?? {}) }, text)))),
    report.warnings.map((text) => h("p", { class: "warning" }, text)),
    precision(report),
    report.missing.length ? [h("h3", {}, "Not in this report"), h("ul", {}, report.missing.map(({ title, why }) => h("li", {}, `${title}. ${why ?? "It was not measured."}`)))] : null),
};
