// Every object: filters, presets, a list, and one object in detail with its picture or its outline.
import { chart, legend, marker } from "../charts.js";
import { choice, h, s } from "../dom.js";
import { estimate } from "../format.js";
import { VirtualList, order } from "../table.js";

const PRESETS = {
  all: { title: "all", by: "", test: () => true },
  misranked: { title: "well placed, badly scored", by: "score", down: false, test: (o) => o.regressed_iou >= 0.7 },
  disagree: { title: "heads disagree", by: "gap", down: true, test: (o) => Number.isFinite(o.gap) },
  unplaced: { title: "well scored, badly placed", by: "regressed_iou", down: false, test: (o) => o.score >= 0.5 },
};

const memory = { list: null, rows: [], pick: null };

/** One entry an object: its columns once, and by head those of each head. */
export function objectsOf(report) {
  if (report.objects) return report.objects;
  const table = report.tables.get("objects");
  const byId = new Map();
  const keys = report.series.map((one) => `${one.detector}/${one.head}`);
  const read = Object.fromEntries([...table.columns.keys()].map((name) => [name, table.reader(name)]));
  for (let row = 0; row < table.rows; row += 1) {
    const id = read.object_id(row);
    if (!byId.has(id)) {
      byId.set(id, { id, image: read.image_id(row), name: read.class_name(row), size: read.size(row), row, heads: new Array(keys.length).fill(null) });
    }
    const at = keys.indexOf(`${read.detector(row)}/${read.head(row)}`);
    if (at >= 0) byId.get(id).heads[at] = row;
  }
  report.objects = [...byId.values()];
  return report.objects;
}

function measured(report, object, head) {
  const table = report.tables.get("objects");
  const row = object.heads[head];
  const value = (name) => (row === null ? NaN : table.get(row, name));
  const scores = object.heads.filter((each) => each !== null).map((each) => table.get(each, "score")).filter(Number.isFinite);
  return { pcc: value("pcc"), score: value("score"), regressed_iou: value("regressed_iou"), fate: table.has("fate") && row !== null ? table.get(row, "fate") : "", gap: scores.length > 1 ? Math.max(...scores) - Math.min(...scores) : NaN };
}

function detail(report, object) {
  const table = report.tables.get("objects");
  const rows = report.series.flatMap((one, at) => (object.heads[at] === null ? [] : [{ one, row: object.heads[at] }]));
  const text = (row, name) => (table.has(name) ? estimate(table.get(row, name)) : "-");
  const summary = h("table", {}, h("caption", {}, `Object ${object.id}: ${object.name}, ${object.size}, image ${object.image}`),
    h("thead", {}, h("tr", {}, ["Head", "PCC", "Score", "Regressed IoU", "Fate"].map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, rows.map(({ one, row }) => h("tr", {}, h("th", { scope: "row" }, one.label),
      ["pcc", "score", "regressed_iou"].map((name) => h("td", { class: "number" }, text(row, name))), h("td", {}, table.has("fate") ? table.get(row, "fate") : "-")))));
  const copy = h("button", { onclick: () => navigator.clipboard?.writeText(`image ${object.image}, object ${object.id}`) }, "Copy ids");
  return h("div", {}, h("div", { class: "wide" }, summary), copy, picture(report, object), proposals(report, object, rows));
}

/** The crop with the boxes on it, or their outlines alone. */
function picture(report, object) {
  const boxes = report.tables.get("boxes");
  const rows = boxes ? boxes.where({ object_id: object.id }) : [];
  const table = report.tables.get("objects");
  const number = table.has("crop") ? table.get(object.row, "crop") : -1;
  const frame = ["crop_x", "crop_y", "crop_w", "crop_h"].map((name) => table.get(object.row, name));
  const own = ["x", "y", "w", "h"].map((name) => table.get(object.row, name));
  if (!own.every(Number.isFinite)) return null;
  const around = frame.every(Number.isFinite) ? frame : [own[0] - own[2] / 2, own[1] - own[3] / 2, own[2] * 2, own[3] * 2];
  const url = report.crop(number);
  const outline = (box, colour, dash, title) => s("rect", { x: box[0], y: box[1], width: box[2], height: box[3], stroke: colour, "stroke-dasharray": dash }, s("title", {}, title));
  const drawn = rows.map((row) => {
    const one = report.series.find((each) => each.detector === boxes.get(row, "detector") && each.head === boxes.get(row, "head"));
    const box = ["x", "y", "w", "h"].map((name) => boxes.get(row, name));
    return outline(box, one?.colour ?? "var(--faint)", boxes.get(row, "stage") === "proposal" ? "3 2" : null, `${one?.label ?? ""} ${boxes.get(row, "stage")}`);
  });
  return h("figure", {}, h("figcaption", {}, url ? "The object, its outline and what heads make of it" : "The object's outline; its picture is not in this file"),
    s("svg", { viewBox: around.join(" "), class: "crop", width: 380, role: "img", "aria-label": `${object.name}, object ${object.id}` },
      url ? s("image", { href: url, x: around[0], y: around[1], width: around[2], height: around[3] }) : null,
      outline(own, "var(--ink)", null, "ground truth"), drawn));
}

function proposals(report, object, rows) {
  const table = report.tables.get("proposals");
  if (!table) return null;
  const into = chart({ x: { range: [0, 1], label: "Proposal IoU" }, y: { range: [0, 1], label: "Score of the true class" }, title: "Its own proposals", describe: "Score against IoU of this object's own proposals, by head." });
  let count = 0;
  for (const { one } of rows) {
    for (const row of table.where({ object_id: object.id, detector: one.detector, head: one.head })) {
      into.plot.append(marker({ ...one, hollow: true }, into.x(table.get(row, "iou")), into.y(table.get(row, "score")), 2.2));
      count += 1;
    }
  }
  return count ? [legend(rows.map(({ one }) => one)), into.figure] : null;
}

export const objects = {
  title: "Objects",
  about: "Choose a question, then step through the objects with j and k.",
  needs: ["objects"],
  content: (report, settings, set) => {
    const all = objectsOf(report);
    const head = Math.min(Number(settings.get("head") ?? 0), report.series.length - 1);
    const preset = PRESETS[settings.get("preset")] ? settings.get("preset") : "all";
    const chosenClass = settings.get("class") ?? "";
    const size = settings.get("size") ?? "";
    const by = settings.get("by") || PRESETS[preset].by || "id";
    const down = (settings.get("down") ?? String(Number(PRESETS[preset].down ?? false))) === "1";
    const entries = all.filter((object) => (!chosenClass || object.name === chosenClass) && (!size || object.size === size))
      .map((object) => ({ ...object, object, ...measured(report, object, head) })).filter(PRESETS[preset].test);
    const sorted = order(entries, (entry) => entry[by], down);
    const place = h("div", { "aria-live": "polite" });
    const list = new VirtualList({
      label: "Objects",
      draw: (entry, at) => [h("span", {}, `${at + 1}.`), h("span", { class: "grow" }, `${entry.name}, ${entry.size}, object ${entry.id}`), h("span", {}, `score ${estimate(entry.score, undefined, undefined, { digits: 2 })}`), h("span", {}, `IoU ${estimate(entry.regressed_iou, undefined, undefined, { digits: 2 })}`), h("span", {}, `PCC ${estimate(entry.pcc, undefined, undefined, { digits: 2 })}`)],
      onpick: (entry) => set({ object: entry.id }, true),
    });
    const wanted = settings.get("object");
    memory.list = list;
    memory.show = (id) => {
      const at = sorted.findIndex((entry) => String(entry.id) === String(id));
      const object = at >= 0 ? sorted[at].object : all.find((each) => String(each.id) === String(id));
      place.replaceChildren(object ? detail(report, object) : h("p", { class: "about" }, "Choose an object in the list."));
      return at;
    };
    const classes = [...new Set(all.map((object) => object.name))].sort();
    const sorts = { id: "id", pcc: "PCC", score: "score", regressed_iou: "regressed IoU", gap: "gap of the heads' scores", name: "class" };
    const controls = h("div", { class: "controls" },
      choice("Show", Object.entries(PRESETS).map(([name, { title }]) => [name, title]), preset, (value) => set({ preset: value, by: "", down: "" })),
      choice("Head", report.series.map((one, at) => [String(at), one.label]), String(head), (value) => set({ head: value })),
      choice("Class", [["", "all"], ...classes.map((name) => [name, name])], chosenClass, (value) => set({ class: value })),
      choice("Size", [["", "all"], ["small", "small"], ["medium", "medium"], ["large", "large"]], size, (value) => set({ size: value })),
      choice("Sort by", Object.entries(sorts), by, (value) => set({ by: value })),
      h("button", { "aria-pressed": String(down), onclick: () => set({ down: down ? "0" : "1" }) }, down ? "largest first" : "smallest first"),
      h("span", { class: "note", id: "count" }, `${sorted.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} objects`));
    const at = memory.show(wanted);
    list.show(sorted, at);
    memory.rows = sorted;
    return h("div", {}, controls, h("div", { class: "explorer" }, list.element, place));
  },
  move: (report, settings) => {
    const last = memory.settings;
    const now = new URLSearchParams(settings);
    const object = now.get("object");
    now.delete("object");
    memory.settings = now.toString();
    if (last !== memory.settings || !memory.list) return false;
    memory.show(object);
    return true;
  },
  key: (event) => {
    if (event.key === "j") memory.list?.pick(memory.list.chosen + 1);
    if (event.key === "k") memory.list?.pick(Math.max(0, memory.list.chosen - 1));
  },
};
