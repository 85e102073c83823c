// The paper's Figures 2 and 3: how the score follows the proposal's IoU, by object size; density; a brush for objects.
import { chart, legend, points } from "../charts.js";
import { choice, go, h, rangeField, s } from "../dom.js";
import { SIZES, plural } from "../format.js";
import { objectsOf, select } from "../objects.js";
import { UNIT, capital, headCurves, headDots, headRows, headTable, keyLabel, middle, sizesIn } from "./common.js";

const STAGES = { predefined: "predefined proposals", rpn: "RPN's proposals", detections: "final detections" };

/** Shares of the score in each bin of IoU, a picture a head. */
function density(report, settings, set) {
  const table = report.tables.get("score_density");
  if (!table) return null;
  const size = settings.get("size") ?? "all";
  const stages = table.distinct("stage");
  const stage = stages.includes(settings.get("stage")) ? settings.get("stage") : stages[0];
  const bins = 1 + Math.max(...table.numbers("score_bin"));
  const grids = report.series.map((one) => {
    const rows = table.where({ detector: one.detector, head: one.head, stage, size });
    const into = chart({ x: { ...UNIT, label: "IoU" }, y: { ...UNIT, label: "Score" }, title: one.label, describe: `Share of scores in each bin of IoU, ${one.label}.` });
    const [width, height] = [(into.x(1) - into.x(0)) / bins, (into.y(0) - into.y(1)) / bins];
    for (const row of rows) {
      const share = table.get(row, "share");
      into.plot.append(s("rect", { x: into.x(table.get(row, "iou_bin") / bins), y: into.y((table.get(row, "score_bin") + 1) / bins), width, height, fill: one.colour, "fill-opacity": Math.min(1, 0.08 + share) }));
    }
    return rows.length ? into.figure : null;
  });
  return [h("h3", {}, "Density"), h("p", { class: "about" }, "Of the boxes in a column of equal IoU, the share that has each score: the stronger, the more."),
    h("div", { class: "controls" }, choice("Object size", sizesIn(table).map((name) => [name, name]), size, (value) => set({ size: value })),
      choice("Boxes", stages.map((name) => [name, STAGES[name] ?? name]), stage, (value) => set({ stage: value }))),
    h("div", { class: "charts" }, grids)];
}

/** Every object as a point; a rectangle drawn over them, or its four numbers, selects some. */
function brush(report, settings, set) {
  const all = objectsOf(report);
  const head = Math.min(Number(settings.get("head") ?? 0) || 0, report.series.length - 1);
  const ranges = { score: settings.get("bscore") ?? "", iou: settings.get("biou") ?? "" };
  const [xs, ys] = [all.numbers(all.iou, head), all.numbers(all.score, head)];
  const there = (report.only?.objects ?? all.table.all()).filter((object) => Number.isFinite(xs[object]) && Number.isFinite(ys[object]));
  if (!there.length) return null;
  const into = chart({ x: { ...UNIT, label: all.iou === "regressed_iou" ? "Regressed IoU of the object" : "Best IoU of a detection" }, y: { ...UNIT, label: "Score of the object" }, width: 560, height: 340, title: `${report.only ? `Objects ${report.only.seenAs}` : "Every object that has both"}, ${report.series[head].label}`, describe: "Score against IoU of every object; the fields beside it select some." });
  points(into, there.map((object) => xs[object]), there.map((object) => ys[object]), report.series[head].colour, { size: 3, alpha: there.length > 5000 ? 0.15 : 0.5 });
  const frame = s("rect", { class: "brush", width: 0, height: 0 });
  into.plot.append(frame);
  const place = (event) => {
    const box = into.svg.getBoundingClientRect();
    const at = (value, from, to) => Math.min(1, Math.max(0, (value - from) / (to - from)));
    return [at(((event.clientX - box.left) / box.width) * into.width, into.x(0), into.x(1)), at(((event.clientY - box.top) / box.height) * into.height, into.y(0), into.y(1))];
  };
  const show = ([x0, y0], [x1, y1]) => {
    const [left, top] = [into.x(Math.min(x0, x1)), into.y(Math.max(y0, y1))];
    for (const [name, value] of Object.entries({ x: left, y: top, width: into.x(Math.max(x0, x1)) - left, height: into.y(Math.min(y0, y1)) - top })) frame.setAttribute(name, value);
  };
  if (ranges.score || ranges.iou) {
    const [x0 = "0", x1 = "1"] = (ranges.iou || "0,1").split(",");
    const [y0 = "0", y1 = "1"] = (ranges.score || "0,1").split(",");
    show([Number(x0 || 0), Number(y0 || 0)], [Number(x1 || 1), Number(y1 || 1)]);
  }
  let start = null;
  into.svg.classList.add("brushed");
  into.svg.addEventListener("pointerdown", (event) => { start = place(event); into.svg.setPointerCapture(event.pointerId); show(start, start); });
  into.svg.addEventListener("pointermove", (event) => { if (start) show(start, place(event)); });
  into.svg.addEventListener("pointerup", (event) => {
    if (!start) return;
    const end = place(event);
    const range = (a, b) => [Math.min(a, b), Math.max(a, b)].map((value) => value.toFixed(3)).join(",");
    const empty = Math.abs(end[0] - start[0]) < 0.005 || Math.abs(end[1] - start[1]) < 0.005;
    set(empty ? { biou: "", bscore: "" } : { biou: range(start[0], end[0]), bscore: range(start[1], end[1]) }, true);
    start = null;
  });
  const wanted = { head, against: head, preset: "all", by: "", ...ranges };
  const count = select(all, wanted).length;
  return [h("h3", {}, "Objects"), h("p", { class: "about" }, "Draw a rectangle to select objects, or give its ends."),
    h("div", { class: "controls" }, choice("Head", report.series.map((one, at) => [String(at), one.label]), String(head), (value) => set({ head: value })),
      rangeField("Score", ranges.score, (value) => set({ bscore: value }, true)), rangeField("IoU", ranges.iou, (value) => set({ biou: value }, true)),
      h("button", { onclick: () => go("objects", { head, ...ranges }) }, `Open ${plural(count, "object")}`)),
    into.figure];
}

/** Differences of a correlation, paired on the same objects, by size. */
function pairs(report, sizes, from, statistic, of) {
  const table = report.tables.get("comparisons");
  if (!table?.has("statistic")) return null;
  const found = new Map();
  for (const row of table.where({ statistic, iou_low: from })) {
    const key = `${keyLabel(report, table.get(row, "a"))} less ${keyLabel(report, table.get(row, "b"))}`;
    if (!found.has(key)) found.set(key, { one: { label: key }, at: new Map() });
    found.get(key).at.set(table.get(row, "size"), row);
  }
  return found.size ? headTable(table, [...found.values()], sizes, "difference", { caption: `Difference in PCC, ${of} [95% interval]; [-]: too few images for an interval`, options: { signed: true } }) : null;
}

/** Figure 2's curves and Figure 3's correlations. */
function figures(report, settings, set) {
  const table = report.tables.get("score_by_iou");
  const pcc = report.tables.get("pcc");
  const from = Number(settings.get("from") ?? 0);
  const rows = pcc ? headRows(report, pcc, "size", { iou_low: from }) : [];
  const panel = (size) => headCurves(report, table, { size }, { x: middle(table), value: "mean", title: size === "all" ? "All sizes" : `${capital(size)} objects`, xLabel: "Proposal IoU", yLabel: "Score of the true class", xRange: UNIT, yRange: UNIT });
  const sizes = SIZES.filter((size) => rows.some(({ at }) => at.has(size)));
  return [
    pcc ? [
      h("div", { class: "controls" }, choice("Correlation over proposals of IoU", [["0", "0 to 1 (the paper)"], ["0.5", "0.5 to 1"]], String(from), (value) => set({ from: value }))),
      headTable(pcc, rows, sizes, "pcc", { caption: "PCC of score and IoU, all proposals [95% interval]" }),
      pairs(report, sizes, from, "pcc", "all proposals"),
      headTable(pcc, rows, sizes, "object_pcc", { caption: "PCC of each object's own proposals, mean of objects [95% interval]" }),
      pairs(report, sizes, from, "object_pcc", "mean of objects"),
      headDots(pcc, rows, sizes, "pcc", { title: "Pearson correlation of score and IoU", label: "PCC, all proposals" }),
    ] : null,
    table ? [legend(report.series, "bands and bars are 95% intervals"), h("div", { class: "charts" }, sizesIn(table).map(panel))] : null];
}

export const score = {
  title: "Score and IoU",
  about: "A head that ranks well gives a higher score to a box that fits its object better: its PCC, the correlation of score and IoU, is near 1. The same predefined proposals are put through every head.",
  content: (report, settings, set) => h("div", {},
    report.tables.has("pcc") ? figures(report, settings, set) : h("p", { class: "about" }, report.absent.score),
    density(report, settings, set), brush(report, settings, set)),
};
