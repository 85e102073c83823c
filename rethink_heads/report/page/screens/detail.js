// One object: its picture with the boxes of every head, what each head makes of it, and its fate in a sentence.
import { chart, legend, marker } from "../charts.js";
import { h, s } from "../dom.js";
import { estimate } from "../format.js";
import { FATES } from "../objects.js";

const STAGES = { proposal: { title: "best proposal", dash: "2 3" }, regressed: { title: "best regressed box", dash: "7 3" }, detection: { title: "detection", dash: null } };
const WIDTH = 380;

const two = (value) => estimate(value, undefined, undefined, { digits: 2 });

/** What became of the object under a head, in a sentence. */
function fateOf(all, head, object) {
  const read = (name) => (all.has(name) ? all.said(name, head, object) : NaN);
  const fate = read("fate");
  const score = two(read("fate_score"));
  const rank = Number.isFinite(read("rank")) ? `detection ${read("rank")} of its class by score, where precision is ${two(read("precision"))}` : "among the detections of its class";
  const other = read("suppressor_object");
  const own = all.table.get(object, "object_id");
  const whose = other >= 0 && other !== own ? `, a box that fits object ${other} better` : "";
  const sentences = {
    found: `A detection with score ${score} stands for it: ${rank}.`,
    outranked: `A detection with score ${score} fits it, but comes too late to count: ${rank}.`,
    taken: `A box with score ${score} fits it, but stands for another object.`,
    cut: `A box with score ${score} fits it, but the image has too many detections of a higher score.`,
    suppressed: `Its best box, of score ${score}, is suppressed by NMS: by one of score ${two(read("suppressor_score"))} whose IoU with this object is ${two(read("suppressor_iou"))}${whose}.`,
    below_threshold: `A box fits it, but its score of ${score} is below the detector's threshold.`,
    wrong_class: read("other_class") ? `The boxes that fit it are of another class: ${read("other_class")}, with score ${two(read("other_score"))}.` : "The boxes that fit it are of another class.",
    regressed_away: `A proposal fits it (IoU ${two(read("iou_proposals"))}), but no box does after regression (IoU ${two(read("iou_regressed"))}).`,
    no_proposal: `No proposal fits it: the best has IoU ${two(read("iou_proposals"))}.`,
    not_localized: `The best detection of its class has IoU ${two(read("iou_detections"))}, too little to stand for it.`,
    missed: "No detection of its class is near it.",
  };
  return fate ? [h("b", {}, `${FATES[fate] ?? fate}. `), sentences[fate] ?? ""] : "not known.";
}

export function detail(report, all, object) {
  const id = all.table.get(object, "object_id");
  const image = all.table.get(object, "image_id");
  const names = all.quantities.filter((name) => !["other", "gap"].includes(name));
  const summary = h("table", {}, h("caption", {}, `Object ${id}: ${all.text("class_name", object)}, ${all.text("size", object)}, image ${image} (${all.text("file_name", object)})`),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Head"), names.map((name) => h("th", { scope: "col", class: "number" }, all.titles[name])))),
    h("tbody", {}, report.series.map((one, head) => h("tr", {}, h("th", { scope: "row" }, one.label),
      names.map((name) => h("td", { class: "number" }, estimate(all.numbers(name, head)[object])))))));
  const ids = `image ${image}, object ${id}`;
  const copy = h("button", { onclick: async () => { await navigator.clipboard?.writeText(ids); copy.textContent = "Copied"; } }, "Copy image and object id");
  return h("div", { class: "detail" }, h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": `Object ${id}` }, summary),
    picture(report, all, object, id),
    all.hasFates ? h("ul", { class: "fates" }, report.series.map((one, head) => h("li", {}, `${one.label}: `, fateOf(all, head, object)))) : null,
    proposals(report, id), copy);
}

/** Where the picture comes from: a crop in this file, the image beside it, or none. */
function source(report, all, object, own) {
  const frame = ["crop_x", "crop_y", "crop_w", "crop_h"].map((name) => all.table.get(object, name));
  const url = report.crop(all.table.get(object, "crop"));
  if (url) return { around: frame, shown: { href: url, x: frame[0], y: frame[1], width: frame[2], height: frame[3] } };
  const margin = Math.max(own[2], own[3]) / 2;
  const around = [own[0] - margin, own[1] - margin, own[2] + 2 * margin, own[3] + 2 * margin];
  const images = report.tables.get("images");
  if (!images) return { around, shown: null };
  const [row] = images.where({ image_id: all.table.get(object, "image_id") });
  return { around, shown: { href: report.images + images.get(row, "address"), x: 0, y: 0, width: images.get(row, "width"), height: images.get(row, "height") } };
}

/** The picture with the boxes on it, or their outlines alone; and the boxes in a table. */
function picture(report, all, object, id) {
  const own = ["x", "y", "w", "h"].map((name) => all.table.get(object, name));
  const boxes = report.tables.get("boxes");
  const rows = boxes ? boxes.where({ object_id: id }) : [];
  const { around, shown } = source(report, all, object, own);
  const unit = around[2] / WIDTH;
  const outline = (box, colour, dash, title, hidden) => s("g", {},
    s("rect", { x: box[0], y: box[1], width: box[2], height: box[3], class: "under" }),
    s("rect", { x: box[0], y: box[1], width: box[2], height: box[3], stroke: colour, "stroke-dasharray": dash, class: hidden ?? null }, s("title", {}, title)));
  const found = rows.map((row) => ({ row, one: report.series.find((each) => each.detector === boxes.get(row, "detector") && each.head === boxes.get(row, "head")) })).filter(({ one }) => one);
  const drawn = found.map(({ row, one }) => {
    const box = ["x", "y", "w", "h"].map((name) => boxes.get(row, name));
    const { title, dash } = STAGES[boxes.get(row, "stage")];
    const group = outline(box, one.colour, dash, `${one.label}, ${title}: ${boxes.get(row, "class_name")}, score ${two(boxes.get(row, "score"))}, IoU ${two(boxes.get(row, "iou"))}`);
    group.append(marker(one, box[0], box[1], 5 * unit));
    return group;
  });
  const what = shown ? "The object (black) and the boxes of the heads" : "Outlines alone: this object's picture is not in the file";
  const lines = h("p", { class: "note" }, "Lines: detections; dashed: the best regressed box of its class; dotted: the best proposal.");
  const figure = h("figure", {}, h("figcaption", {}, what),
    s("svg", { viewBox: around.join(" "), class: "crop", width: WIDTH, role: "img", "aria-label": `${all.text("class_name", object)}, object ${id}, with ${found.length} boxes` },
      shown ? s("image", { ...shown, preserveAspectRatio: "none" }) : s("rect", { x: around[0], y: around[1], width: around[2], height: around[3], class: "blank" }),
      drawn, outline(own, "#000000", null, "the object")));
  if (!found.length) return figure;
  const line = ({ row, one }) => h("tr", {}, h("th", { scope: "row" }, one.label), h("td", {}, STAGES[boxes.get(row, "stage")].title), h("td", {}, boxes.get(row, "class_name")),
    ["score", "iou"].map((name) => h("td", { class: "number" }, two(boxes.get(row, name)))));
  return [figure, lines, h("details", {}, h("summary", {}, `${found.length} boxes near it`), h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Boxes" },
    h("table", {}, h("thead", {}, h("tr", {}, ["Head", "Stage", "Class", "Score", "IoU"].map((title) => h("th", { scope: "col" }, title)))), h("tbody", {}, found.map(line)))))];
}

function proposals(report, id) {
  const table = report.tables.get("proposals");
  if (!table) return null;
  const rows = table.where({ object_id: id });
  if (!rows.length) return null;
  const into = chart({ x: { range: [0, 1], label: "Proposal IoU" }, y: { range: [0, 1], label: "Score of its class" }, title: "Its own proposals", describe: "Score against IoU of this object's own proposals, by head." });
  for (const row of rows) {
    const one = report.series.find((each) => each.detector === table.get(row, "detector") && each.head === table.get(row, "head"));
    if (one) into.plot.append(marker({ ...one, hollow: true }, into.x(table.get(row, "iou")), into.y(table.get(row, "score")), 2.2));
  }
  return [legend(report.series), into.figure];
}
