// Paired differences of heads on the same images, the swap matrix, and the objects that got better and worse.
import { heatmap } from "../charts.js";
import { choice, go, h } from "../dom.js";
import { cell, estimate, percent, plural, short } from "../format.js";
import { FATES, objectsOf, select } from "../objects.js";
import { sortable } from "../table.js";
import { METRICS, keyLabel, onlyClasses } from "./common.js";

const MOST = 400;
const SUBJECTS = ["statistic", "metric", "cause", "error", "quantity", "kind", "level", "part", "class_name", "stage", "fate", "size", "iou", "step"];
const NAMES = {
  ap: "Average precision", lost_precision: "Share of the loss", oracles: "AP with a cause fixed", exchange_rate: "AP by step of the ranking", lost_by_threshold: "Share of the loss by IoU", lrp: "oLRP", by_class: "AP by class", detection_errors: "TIDE's errors", calibration: "Calibration",
  fate: "Fates", recall_ladder: "Recall by stage", stage: "Correlation by stage", rank_level: "Rank correlation", comparisons: "Predefined proposals", comparisons_sensitivity: "Spatial sensitivity",
};
const nameOf = (table) => NAMES[table.replace(/_comparisons$/, "")] ?? table;

// AP of a size is known by its name.
const SIZED = Object.fromEntries(Object.entries(METRICS).filter(([size]) => size !== "all").map(([size, metric]) => [metric, size]));

// All but correlations, scores, IoUs and box errors.
const isShare = (table) => !/^(comparisons|stage|rank_level)/.test(table.name);
const unit = (table) => (isShare(table) ? percent({ signed: true }) : { signed: true });

/** Whether a difference is that of a whole class and size (all of them where none is named): those that are read first. */
function isWhole({ table, row, label, size }, wanted) {
  // Of IoUs the first and the mean.
  const ofIou = !table.has("iou") || ["0.50", "mean"].includes(table.get(row, "iou"));
  const ofSize = (table.has("metric") && label === undefined) || [wanted.size || "all", undefined].includes(size);
  return !table.has("distance") && !table.has("step") && ofIou && ofSize && (label ?? "all") === (wanted.label || "all");
}

/** Whether a difference is of a class and of a size, where they are named. */
const isOf = ({ label, size }, wanted) => (!wanted.label || label === wanted.label) && (!wanted.size || size === wanted.size);

// What the tables call by a short name.
const WORDS = {
  d_ece: "D-ECE", laece: "LaECE", olrp: "oLRP", pcc: "PCC", object_pcc: "PCC, mean of objects", cls: "classification", loc: "localization", both: "classification and localization",
  dupe: "duplicates", bkg: "background", miss: "misses", fp: "all false positives", fn: "all false negatives", classified: "right class", after_nms: "after NMS",
  score: "mean score", score_std: "standard deviation of the score", regressed_iou: "mean IoU of the regressed box", regressed_iou_std: "standard deviation of the regressed box's IoU", gain: "IoU gained by regression",
  rms_dx: "rms error of dx", rms_dy: "rms error of dy", rms_dw: "rms error of dw", rms_dh: "rms error of dh",
};

/** A subject of a comparison in words. */
function said(name, value) {
  if (name === "step") return `${short(value)} of the way to true IoU`;
  if (name === "iou") return value === "mean" ? "mean over IoUs" : `IoU ${value}`;
  if (name === "fate") return FATES[value] ?? value;
  return typeof value === "number" ? short(value) : name === "class_name" ? value : (WORDS[value] ?? value.replaceAll("_", " "));
}

/** The comparisons of all tables but those by IoU bin, one list: each with its class and size, where it is of one. */
function differences(report) {
  const precision = report.tables.get("ap_comparisons");
  return [...report.tables.values()].filter((table) => ["a", "b", "difference"].every((name) => table.has(name)) && !table.has("bin")).flatMap((table) => {
    const subjects = SUBJECTS.filter((name) => table.has(name));
    const upper = table.has("iou_low") ? (row) => (table.get(row, "iou_low") > 0 ? `IoU from ${short(table.get(row, "iou_low"))}` : "") : () => "";
    const classes = table.name === "by_class_comparisons" ? onlyClasses(table) : new Map();
    // The ends of the ranking's steps are AP and AP with the ranking fixed, which have rows of their own.
    const rows = table.has("step") ? table.all().filter((row) => ![0, 1].includes(table.get(row, "step"))) : table.all();
    return rows.map((row) => {
      const about = [...subjects.map((name) => said(name, table.get(row, name))), upper(row)].filter((text) => text && text !== "all").join(", ") || "all";
      const [label, size] = ["class_name", "size"].map((name) => (table.has(name) ? table.get(row, name) : undefined));
      const own = { about, label, size: size ?? SIZED[table.get(row, "metric")], source: `${nameOf(table.name)}${isShare(table) ? ", %" : ""}` };
      // The AP of a size's only class is that of the size, with its interval.
      const [same] = precision && classes.get(size) === label ? precision.where({ metric: METRICS[size], a: table.get(row, "a"), b: table.get(row, "b") }) : [];
      return same === undefined || label === undefined ? { ...own, table, row } : { ...own, table: precision, row: same };
    });
  });
}

function movers(report, a, b, label, size) {
  const [first, second] = [a, b].map((key) => report.series.findIndex((one) => `${one.detector}/${one.head}` === key));
  if (first < 0 || second < 0) return null;
  const all = objectsOf(report);
  const gap = all.numbers("gap", first, second);
  const chosen = select(all, { preset: "all", class: label, size, head: first, against: second });
  const moved = Array.from(chosen).filter((object) => Math.abs(gap[object]) > 0).sort((x, y) => gap[y] - gap[x]);
  const id = (object) => all.table.get(object, "object_id");
  const title = all.has("score") ? "Difference in score" : "Difference in best IoU";
  const list = (caption, rows) => sortable({ caption, rows, onpick: (object) => go("objects", { object: id(object), head: first, against: second, preset: "disagree", class: label, size }), columns: [
    { title: "Object", text: (object) => String(id(object)) }, { title: "Class", text: (object) => all.text("class_name", object) }, { title: "Size", text: (object) => all.text("size", object) },
    { title, text: (object) => estimate(gap[object], undefined, undefined, { signed: true }), value: (object) => gap[object] }] });
  return h("div", { class: "charts" }, list(`Higher with ${keyLabel(report, a)}`, moved.slice(0, 8)), list(`Higher with ${keyLabel(report, b)}`, moved.slice(-8).reverse()));
}

function swaps(report, size) {
  const table = report.tables.get("swaps");
  if (!table) return null;
  const rows = table.where({ metric: METRICS[size || "all"] });
  const names = table.distinct("scores", rows);
  const at = new Map(rows.map((row) => [`${table.get(row, "scores")} ${table.get(row, "boxes")}`, row]));
  const labels = names.map((name) => keyLabel(report, name));
  const row = (a, b) => at.get(`${names[a]} ${names[b]}`);
  return [h("h3", {}, "Scores of one head with boxes of another"), h("p", { class: "about" }, "AP in per cent of detections made of the same proposals, with a row's scores and a column's boxes; the diagonal is a head by itself on them."),
    heatmap({ rows: labels, columns: labels, rowLabel: "scores", columnLabel: "boxes", value: (a, b) => (row(a, b) === undefined ? NaN : table.get(row(a, b), "value")), text: (a, b) => (row(a, b) === undefined ? "" : cell(table, row(a, b), "value", { digits: 1, scale: 100 })) })];
}

export const compare = {
  title: "Compare",
  about: "Differences of heads on the same images; where the interval excludes zero, another choice of images would hardly turn it round. Of losses, errors, oLRP and calibration the lower number is the better one. Of many differences that are none, one in twenty excludes it all the same.",
  needs: ["comparisons", "ap_comparisons", "lost_precision_comparisons", "fate_comparisons", "swaps"],
  content: (report, settings, set) => {
    report.differences ??= differences(report);
    const all = report.differences;
    // A line each: names of detectors may hold spaces.
    const pairOf = ({ table, row }) => `${table.get(row, "a")}\n${table.get(row, "b")}`;
    const pairs = [...new Set(all.map(pairOf))];
    const pair = pairs.includes(settings.get("pair")) ? settings.get("pair") : pairs[0];
    const only = settings.get("only") ?? "whole";
    const sources = [...new Set(all.map(({ source }) => source))];
    const kind = sources.includes(settings.get("table")) ? settings.get("table") : "";
    const [label, size] = ["class", "size"].map((name) => settings.get(name) ?? "");
    const wanted = { label, size };
    const whole = (each) => isWhole(each, wanted);
    const shows = { whole, decided: ({ table, row }) => table.get(row, "excludes_zero"), all: () => true }[only] ?? whole;
    const rows = all.filter((each) => (!kind || each.source === kind) && pairOf(each) === pair && isOf(each, wanted) && shows(each));
    const [a, b] = (pair ?? "\n").split("\n");
    const columns = [
      { title: "Quantity", text: ({ about, source }) => `${source}: ${about}` },
      { title: "Difference [95% interval]", text: ({ table, row }) => cell(table, row, "difference", unit(table)), value: ({ table, row }) => table.get(row, "difference") },
      { title: "Excludes 0", text: ({ table, row }) => (table.get(row, "excludes_zero") ? "yes" : "") },
      { title: keyLabel(report, a), text: ({ table, row }) => estimate(table.get(row, "value_a"), undefined, undefined, { ...unit(table), signed: false }), value: ({ table, row }) => table.get(row, "value_a") },
      { title: keyLabel(report, b), text: ({ table, row }) => estimate(table.get(row, "value_b"), undefined, undefined, { ...unit(table), signed: false }), value: ({ table, row }) => table.get(row, "value_b") },
    ];
    const sort = { by: Number(settings.get("by") ?? -1), down: settings.get("down") !== "0" };
    return h("div", {},
      pairs.length ? h("div", { class: "controls" },
        choice("Heads", pairs.map((each) => [each, each.split("\n").map((key) => keyLabel(report, key)).join(" less ")]), pair, (value) => set({ pair: value })),
        choice("Of", [["", "all"], ...sources.map((name) => [name, name])], kind, (value) => set({ table: value })),
        choice("Class", [["", "all"], ...report.classes.map((name) => [name, name])], label, (value) => set({ class: value })),
        choice("Size", ["", "small", "medium", "large"].map((name) => [name, name || "all"]), size, (value) => set({ size: value })),
        choice("Show", [["whole", label || size ? "the chosen as a whole" : "over all sizes and classes"], ["decided", "all that exclude zero"], ["all", "all"]], only, (value) => set({ only: value })),
        h("span", { class: "note" }, `${plural(rows.length, "difference")}${rows.length > MOST ? `, the first ${MOST}: choose a class, a size or a kind for others` : ""}`)) : null,
      pairs.length ? sortable({ caption: "Paired differences", columns, rows: rows.slice(0, MOST), sort, onsort: ({ by, down }) => set({ by, down: down ? "1" : "0" }, true) }) : null,
      label ? null : swaps(report, size), pair ? [h("h3", {}, "Objects that got better and worse"), movers(report, a, b, label, size)] : null);
  },
};
