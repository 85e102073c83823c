// Which score to act on: reliability of scores, and what a threshold keeps, with what flips.
import { chart, curve, legend, points } from "../charts.js";
import { choice, h } from "../dom.js";
import { plural } from "../format.js";
import { UNIT, headCurves } from "./common.js";

/** Counts of true and false positives at or above a score, of one head's detections. */
function countsAt(report, one) {
  const table = report.tables.get("detections");
  const rows = table.where({ detector: one.detector, head: one.head });
  const score = table.reader("score");
  const correct = table.reader("true_positive");
  rows.sort((a, b) => score(b) - score(a));
  const scores = Float64Array.from(rows, score);
  const hits = new Uint32Array(rows.length + 1);
  rows.forEach((row, at) => { hits[at + 1] = hits[at] + (correct(row) ? 1 : 0); });
  return (threshold) => {
    let [low, high] = [0, scores.length];
    while (low < high) {
      const half = (low + high) >> 1;
      if (scores[half] >= threshold) low = half + 1;
      else high = half;
    }
    return { kept: low, hits: hits[low] };
  };
}

function slider(report, settings, set) {
  const heads = report.series.filter((one) => report.tables.get("detections").where({ detector: one.detector, head: one.head }).length);
  const one = heads[Math.min(Number(settings.get("head") ?? 0), heads.length - 1)];
  const counts = countsAt(report, one);
  const objects = report.counts?.objects ?? NaN;
  const start = Number(settings.get("at") ?? 0.5);
  const said = h("output", { "aria-live": "polite" });
  const tell = (value) => {
    const { kept, hits } = counts(value);
    const before = counts(start);
    const flips = value === start ? "" : ` Against ${start.toFixed(2)}: ${plural(Math.abs(hits - before.hits), "true positive")} ${hits < before.hits ? "lost" : "won"}, ${plural(Math.abs(kept - hits - before.kept + before.hits), "false positive")} ${kept - hits < before.kept - before.hits ? "gone" : "added"}.`;
    said.textContent = `Score at least ${value.toFixed(2)}: ${plural(kept, "detection")}, precision ${kept ? (hits / kept).toFixed(3) : "-"}, recall ${Number.isFinite(objects) ? (hits / objects).toFixed(3) : "-"} at IoU 0.5.${flips}`;
  };
  const input = h("input", { id: "threshold", type: "range", min: 0, max: 1, step: 0.01, value: start, oninput: (event) => tell(Number(event.target.value)), onchange: (event) => set({ at: event.target.value }, true) });
  tell(start);
  const steps = Array.from({ length: 101 }, (_, at) => at / 100);
  const rates = steps.map(counts);
  const into = chart({ x: { ...UNIT, label: "Score threshold" }, y: { ...UNIT, label: "Precision (line), recall (dashed)" }, title: `What a threshold keeps: ${one.label}`, describe: "Precision and recall at IoU 0.5 against the score threshold." });
  curve(into, steps.map((at, place) => [at, rates[place].kept ? rates[place].hits / rates[place].kept : NaN]), one, { markers: false });
  curve(into, steps.map((at, place) => [at, rates[place].hits / objects]), { ...one, dash: "5 3" }, { markers: false });
  return [h("h3", {}, "What a threshold keeps"),
    h("div", { class: "controls" }, choice("Head", heads.map((each, at) => [String(at), each.label]), String(heads.indexOf(one)), (value) => set({ head: value })), h("span", { class: "field" }, h("label", { for: "threshold" }, "Score threshold"), input)),
    h("p", {}, said), into.figure, scatter(report, one)];
}

function scatter(report, one) {
  const table = report.tables.get("detections");
  const rows = table.where({ detector: one.detector, head: one.head });
  const [score, iou] = [table.reader("score"), table.reader("iou")];
  const into = chart({ x: { ...UNIT, label: "IoU with the nearest object of its class" }, y: { ...UNIT, label: "Score" }, title: `Every detection: ${one.label}`, describe: "Score against IoU of every detection." });
  points(into, rows.map(iou), rows.map(score), one.colour, { alpha: rows.length > 20000 ? 0.08 : 0.3 });
  return into.figure;
}

function optimal(report) {
  const table = report.tables.get("reliability");
  if (!table) return null;
  const diagonal = { x: (row) => table.get(row, "mean_score"), xLabel: "Score", xRange: UNIT, yRange: UNIT };
  return [h("h3", {}, "Reliability"), legend(report.series, "bands are 95% intervals"), h("div", { class: "charts" },
    headCurves(report, table, {}, { ...diagonal, value: "precision", title: "Precision by score", yLabel: "Precision at IoU 0.5" }),
    headCurves(report, table, {}, { ...diagonal, value: "iou", title: "IoU by score", yLabel: "Mean IoU, false positives as 0" }))];
}

export const thresholds = {
  title: "Thresholds",
  about: "How far a score can be taken for a probability, and what a threshold on it keeps. Each class's optimal threshold (oLRP) is on the screen of classes.",
  needs: ["reliability", "detections"],
  content: (report, settings, set) => h("div", {}, report.tables.has("detections") ? slider(report, settings, set) : null, optimal(report)),
};
