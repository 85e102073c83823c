// Which score to act on: what a threshold keeps and what flips, each class's optimal threshold, reliability of scores.
import { chart, curve, legend, points } from "../charts.js";
import { choice, h, readState, s } from "../dom.js";
import { cell, plural, short } from "../format.js";
import { objectsOf } from "../objects.js";
import { UNIT, headCurves } from "./common.js";

const found = new Map();
// What the screen shows: the address without its thresholds, and the function that shows others.
const memory = { settings: "", show: null };

/** Detections of a head, of one class where one is named, by falling score, as they are in the page; found once. */
function detectionsOf(report, one, label) {
  const key = `${report.series.indexOf(one)} ${label}`;
  if (!found.has(key)) {
    const table = report.tables.get("detections");
    const rows = table.where({ detector: one.detector, head: one.head, ...(label ? { class_name: label } : {}) });
    const correct = table.reader("true_positive");
    const hits = new Uint32Array(rows.length + 1);
    rows.forEach((row, at) => { hits[at + 1] = hits[at] + (correct(row) ? 1 : 0); });
    found.set(key, { scores: table.numbersAt("score", rows), ious: table.numbersAt("iou", rows), hits });
  }
  return found.get(key);
}

/** Function of a threshold: how many detections are at or above it, and how many of them are true positives. */
function countsAt({ scores, hits }) {
  return (threshold) => {
    let [low, high] = [0, scores.length];
    while (low < high) {
      const half = (low + high) >> 1;
      if (scores[half] >= threshold) low = half + 1;
      else high = half;
    }
    return { detections: low, hits: hits[low] };
  };
}

/** A class's oLRP threshold of a head, as a row of the table by class. */
function optimalRow(report, one, label) {
  const table = report.tables.get("by_class");
  if (!table || !label) return null;
  const [row] = table.where({ detector: one.detector, head: one.head, size: "all", class_name: label });
  return row === undefined ? null : row;
}

/** Of the objects of a chosen cell, how many still are what it says of them. */
function chosenAt(report, value) {
  const { only } = report;
  if (!only || only.seen < 0) return "";
  const scores = objectsOf(report).numbers("seen_score", only.head);
  return ` Of ${plural(only.objects.length, "object")} ${only.seenAs} by ${report.series[only.head].label}, ${only.objects.filter((object) => scores[object] >= value).length} still are.`;
}

const NAMES = { at: "Score threshold", against: "Compared with threshold" };

/** A threshold in the address, 0 to 1; 0.5 where there is none. */
const thresholdIn = (settings, name) => Math.min(1, Math.max(0, Number(settings.get(name) ?? 0.5) || 0));

const withoutThresholds = (settings) => [...settings].filter(([name]) => !(name in NAMES)).join("&");

function said(counts, objects, value, start) {
  const now = counts(value);
  const before = counts(start);
  const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)}%` : "-");
  const [won, more] = [now.hits - before.hits, now.detections - now.hits - before.detections + before.hits];
  const flips = value === start ? "" : ` Against ${short(start)}: ${plural(Math.abs(won), "true positive")} ${won < 0 ? "lost" : "won"}, ${plural(Math.abs(more), "false positive")} ${more < 0 ? "gone" : "added"}.`;
  return `Score at least ${short(value)}: ${plural(now.detections, "detection")}, precision ${share(now.hits, now.detections)}, recall ${share(now.hits, objects)} at IoU 0.5.${flips}`;
}

function slider(report, settings, set) {
  const heads = report.series.filter((one) => detectionsOf(report, one, "").scores.length);
  if (!heads.length) return h("p", { class: "about" }, "No head has detections.");
  const one = heads[Math.min(Number(settings.get("head") ?? 0) || 0, heads.length - 1)];
  const label = settings.get("class") ?? "";
  const detections = detectionsOf(report, one, label);
  const counts = countsAt(detections);
  const objects = report.tables.get("objects").where(label ? { class_name: label } : {}).length;
  const steps = Array.from({ length: 101 }, (_, at) => at / 100);
  const rates = steps.map(counts);
  const into = chart({ x: { ...UNIT, label: "Score threshold" }, y: { range: [0, 100], label: "Precision (line), recall (dashed), %" }, title: "Precision and recall at IoU 0.5", describe: "Precision and recall at IoU 0.5 against the score threshold." });
  const answer = h("output", { id: "kept", "aria-live": "polite" });
  const mark = s("line", { y1: into.inner.top, y2: into.inner.bottom, class: "mark" });
  into.plot.append(mark);
  const number = (name, id = null) => h("input", { type: "number", id, min: 0, max: 1, step: "any", "aria-label": id ? null : `${NAMES[name]}, number`, onchange: (event) => { set({ [name]: event.target.value }, true); memory.show(readState().settings); } });
  // The arrow keys move it by a hundredth; a number in the box may lie between.
  const input = h("input", { id: "threshold", type: "range", min: 0, max: 1, step: "any", oninput: (event) => show(Number(Number(event.target.value).toFixed(2))), onchange: () => set({ at: exact.value }, true) });
  const [exact, other] = [number("at"), number("against", "against")];
  const show = (value, start = Number(other.value)) => {
    answer.textContent = said(counts, objects, value, start) + chosenAt(report, value);
    for (const end of ["x1", "x2"]) mark.setAttribute(end, into.x(value));
    for (const [field, shownValue] of [[input, value], [exact, value], [other, start]]) field.value = shownValue;
  };
  memory.show = (chosen) => show(thresholdIn(chosen, "at"), thresholdIn(chosen, "against"));
  memory.settings = withoutThresholds(settings);
  memory.show(settings);
  curve(into, steps.map((at, place) => [at, rates[place].detections ? (100 * rates[place].hits) / rates[place].detections : NaN]), { ...one, dash: null }, { markers: false });
  curve(into, steps.map((at, place) => [at, (100 * rates[place].hits) / objects]), { ...one, dash: "5 3" }, { markers: false });
  const row = optimalRow(report, one, label);
  const byClass = report.tables.get("by_class");
  const best = row === null ? null : h("p", {}, `Optimal threshold of ${label} by oLRP: ${cell(byClass, row, "score_threshold")}. `,
    h("button", { onclick: () => set({ at: byClass.get(row, "score_threshold") }) }, "Use it"));
  const classes = [...report.tables.get("objects").columns.get("class_name").strings].sort();
  return [h("h3", {}, "What a threshold keeps"),
    h("div", { class: "controls" }, choice("Head", heads.map((each, at) => [String(at), each.label]), String(heads.indexOf(one)), (value) => set({ head: value })),
      choice("Class", [["", "all"], ...classes.map((name) => [name, name])], label, (value) => set({ class: value })),
      h("span", { class: "field" }, h("label", { for: "threshold" }, NAMES.at), h("span", { class: "range" }, input, exact)),
      h("span", { class: "field" }, h("label", { for: "against" }, NAMES.against), h("span", { class: "range" }, other))),
    h("p", {}, answer), best, h("div", { class: "charts" }, into.figure, scatter(detections, one))];
}

function scatter({ scores, ious }, one) {
  const into = chart({ x: { ...UNIT, label: "IoU with its object" }, y: { ...UNIT, label: "Score" }, title: "Every detection", describe: "Score against IoU of every detection." });
  points(into, ious, scores, one.colour, { alpha: scores.length > 20000 ? 0.08 : 0.3 });
  return into.figure;
}

function reliability(report) {
  const table = report.tables.get("reliability");
  if (!table) return null;
  const diagonal = { x: (row) => table.get(row, "mean_score"), xLabel: "Score", xRange: UNIT, yRange: UNIT, diagonal: true };
  return [h("h3", {}, "Reliability"), legend(report.series, "bands are 95% intervals; on the thin line the score is equal to it; all classes"), h("div", { class: "charts" },
    headCurves(report, table, {}, { ...diagonal, value: "precision", title: "Precision by score", yLabel: "Precision at IoU 0.5" }),
    headCurves(report, table, {}, { ...diagonal, value: "iou", title: "IoU by score", yLabel: "Mean IoU, false positives as 0" }))];
}

export const thresholds = {
  title: "Thresholds",
  about: "How far a score can be taken for a probability, and what a threshold on it keeps. Choose a class for its optimal threshold.",
  needs: ["reliability", "detections"],
  // Another threshold moves the line, and nothing is drawn anew.
  move: (report, settings) => {
    if (!memory.show || withoutThresholds(settings) !== memory.settings) return false;
    memory.show(settings);
    return true;
  },
  content: (report, settings, set) => h("div", {}, report.tables.has("detections") ? slider(report, settings, set) : null, reliability(report)),
};
