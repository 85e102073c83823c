// One cell of the confusion matrix, which the address keeps from screen to screen: its objects alone are listed and counted.
import { h } from "./dom.js";
import { estimate, plural } from "./format.js";
import { FATES, objectsOf } from "./objects.js";

const OF_ALL = "The tables and curves below are of all objects.";
// What is said of the objects beside what a screen shows of all.
const PARTS = { verdict: means, score: means, boxes: means, compare: means, lost: fates, stages: fates };
const NOTES = { objects: "", thresholds: "", classes: "", space: "This screen is of all objects.", methods: "This screen is of all objects." };

export const className = (report, label) => (label < 0 ? "background" : report.classes[label]);

/** The cell in the address, as "label.label of the detection.head", with its objects; null where it names none. */
export function onlyOf(report, settings) {
  const cell = settings.get("cell");
  if (!cell) return null;
  const [label, seen, head] = cell.split(".").map(Number);
  const all = objectsOf(report);
  if (!all.has("seen_label") || !(head in report.series) || !(label in report.classes) || !(seen === -1 || seen in report.classes)) return null;
  const { codes, strings } = all.codes("class_name");
  const code = strings.indexOf(report.classes[label]);
  const labels = all.numbers("seen_label", head);
  const mask = Uint8Array.from(codes, (each, object) => Number(each === code && labels[object] === seen));
  const seenAs = seen < 0 ? "missed" : `seen as ${className(report, seen)}`;
  return { label, seen, head, seenAs, title: `${className(report, label)} ${seenAs}`, mask, objects: all.table.all().filter((object) => mask[object] === 1) };
}

/** What is chosen, how to be rid of it, and what the screen has to say of it. */
export function chip(report, screen, set) {
  const { only } = report;
  if (!only) return null;
  const all = objectsOf(report);
  const clear = h("button", { onclick: () => set({ cell: "" }), "aria-label": `Clear: ${only.title}` }, "clear");
  return h("section", { class: "only", "aria-label": "Chosen objects" },
    h("p", {}, "only: ", h("b", {}, only.title), ` by ${report.series[only.head].label}, ${only.objects.length.toLocaleString("en")} of ${plural(all.count, "object")} `, clear),
    PARTS[screen] && only.objects.length ? PARTS[screen](report, all, only) : null,
    (NOTES[screen] ?? OF_ALL) ? h("p", { class: "note" }, NOTES[screen] ?? OF_ALL) : null);
}

function table(report, caption, titles, cells) {
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption }, h("table", {}, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Head"), titles.map((title) => h("th", { scope: "col", class: "number" }, title)))),
    h("tbody", {}, report.series.map((one, head) => h("tr", {}, h("th", { scope: "row" }, one.label), cells(head).map((text) => h("td", { class: "number" }, text)))))));
}

function mean(values) {
  const there = values.filter(Number.isFinite);
  return there.reduce((sum, value) => sum + value, 0) / there.length;
}

function means(report, all, { objects }) {
  const names = all.quantities.filter((name) => !["other", "gap"].includes(name));
  return table(report, `Means of ${plural(objects.length, "object")} (of all)`, names.map((name) => all.titles[name]), (head) => names.map((name) => {
    const values = all.numbers(name, head);
    return `${estimate(mean(objects.map((object) => values[object])))} (${estimate(mean(Array.from(values)))})`;
  }));
}

function fates(report, all, { objects }) {
  if (!all.hasFates) return null;
  const counts = report.series.map((_, head) => {
    const { codes, strings } = all.codes("fate", head);
    const found = new Map();
    for (const object of objects) found.set(strings[codes[object]], (found.get(strings[codes[object]]) ?? 0) + 1);
    return found;
  });
  const there = Object.keys(FATES).filter((fate) => counts.some((each) => each.has(fate)));
  return table(report, `Fates of ${plural(objects.length, "object")}`, there.map((fate) => FATES[fate]), (head) => there.map((fate) => String(counts[head].get(fate) ?? 0)));
}
