// Every object: a question to begin with, filters, a list in any order, and one object in detail.
import { choice, h, rangeField } from "../dom.js";
import { CAUSES, FATES, PRESETS, objectsOf, select } from "../objects.js";
import { VirtualList } from "../table.js";
import { detail } from "./detail.js";

const memory = { list: null, show: null, settings: "" };

const withoutObject = (settings) => {
  const rest = new URLSearchParams(settings);
  rest.delete("object");
  return rest.toString();
};

// What is of two heads.
const AGAINST = ["other", "gap"];

const short = (value, signed) => (Number.isNaN(value) ? "-" : `${signed && value > 0 ? "+" : ""}${value.toFixed(2)}`);

/** The filters and the order that the address names. */
export function wantedOf(report, settings) {
  const all = objectsOf(report);
  const at = (name, otherwise) => Math.min(Math.max(0, Number(settings.get(name) ?? otherwise) || 0), report.series.length - 1);
  const head = at("head", 0);
  const against = at("against", Number(head === 0));
  const named = settings.get("preset");
  const preset = Object.hasOwn(PRESETS, named ?? "") && (PRESETS[named].needs?.(all) ?? true) ? named : "all";
  const by = settings.get("by") ?? PRESETS[preset].by;
  const texts = Object.fromEntries(["class", "size", "fate", "lost", "score", "iou", "gap"].map((name) => [name, settings.get(name) ?? ""]));
  return { ...texts, head, against: against === head ? Number(head === 0) : against, preset, by: ["name", "fate", "score", "iou", ...all.quantities].includes(by) ? by : "", down: (settings.get("down") ?? String(Number(PRESETS[preset].down))) === "1" };
}

/** On a telephone a list has the score, the IoU and the gap. */
const lookOf = (all, name) => ([all.score, all.iou, "gap"].includes(name) ? "number" : "number rest");

/** Heads of the list's columns: each sorts by itself, first from the largest, then the other way. */
function columnHeads(all, wanted, set) {
  const columns = [["name", "Object", "grow"], ...all.quantities.map((name) => [name, all.titles[name], lookOf(all, name)]), ...(all.hasFates ? [["fate", "Fate", "fate"]] : [])];
  const own = wanted.by === "score" ? all.score : wanted.by === "iou" ? all.iou : wanted.by;
  return h("div", { class: "row heads" }, h("span", { class: "place" }, "#"), columns.map(([name, title, look]) => {
    const chosen = own === name;
    const mark = chosen ? (wanted.down ? " ▼" : " ▲") : "";
    return h("span", { class: look }, h("button", { class: "sort", "aria-pressed": String(chosen), title: all.about[name], "aria-label": `Sort by ${title}${chosen ? (wanted.down ? ", now largest first" : ", now smallest first") : ""}`, onclick: () => set({ by: name, down: chosen && wanted.down ? "0" : "1" }) }, title, mark));
  }));
}

function controls(report, all, wanted, set, count) {
  const classes = [...all.codes("class_name").strings].sort();
  const heads = report.series.map((one, at) => [String(at), one.label]);
  const presets = Object.entries(PRESETS).filter(([, { needs }]) => needs?.(all) ?? true).map(([name, { title }]) => [name, title]);
  const fates = all.hasFates ? Object.entries(FATES).filter(([name]) => all.codes("fate", wanted.head).strings.includes(name)) : [];
  const several = wanted.fate.includes(",") ? [[wanted.fate, wanted.fate.split(",").map((name) => FATES[name] ?? name).join(" or ")]] : [];
  const causes = Object.keys(CAUSES).filter((name) => name !== "background").map((name) => [name, name]);
  if (wanted.lost.includes(",")) causes.unshift([wanted.lost, wanted.lost.replace(",", " at IoU ")]);
  const { rule } = PRESETS[wanted.preset];
  return h("div", { class: "controls" },
    choice("Show", presets, wanted.preset, (value) => set({ preset: value, by: "", down: "" })),
    choice("Head", heads, String(wanted.head), (value) => set({ head: value })),
    heads.length > 1 ? choice("Against", heads.filter((_, at) => at !== wanted.head), String(wanted.against), (value) => set({ against: value })) : null,
    choice("Class", [["", "all"], ...classes.map((name) => [name, name])], wanted.class, (value) => set({ class: value })),
    choice("Size", [["", "all"], ["small", "small"], ["medium", "medium"], ["large", "large"]], wanted.size, (value) => set({ size: value })),
    fates.length ? choice("Fate", [["", "all"], ...several, ...fates], wanted.fate, (value) => set({ fate: value })) : null,
    all.hasCauses ? choice("AP lost to", [["", "all"], ...causes], wanted.lost, (value) => set({ lost: value })) : null,
    rangeField("Score", wanted.score, (value) => set({ score: value })),
    rangeField("IoU", wanted.iou, (value) => set({ iou: value })),
    heads.length > 1 ? rangeField("Gap at least", wanted.gap, (value) => set({ gap: value }), true) : null,
    h("span", { class: "note", id: "count", role: "status" }, `${count.toLocaleString("en")} of ${all.count.toLocaleString("en")} objects${rule ? `: ${rule}` : ""}`),
    h("button", { onclick: () => set({ preset: "", class: "", size: "", fate: "", lost: "", score: "", iou: "", gap: "", by: "", down: "", object: "", cell: "", head: "", against: "" }) }, "Clear"));
}

export const objects = {
  title: "Objects",
  about: "Choose a question, then step through the objects with j and k.",
  needs: ["objects"],
  content: (report, settings, set) => {
    const all = objectsOf(report);
    const wanted = wantedOf(report, settings);
    const found = select(all, wanted);
    const quantities = all.quantities.map((name) => [name, all.numbers(name, wanted.head, AGAINST.includes(name) ? wanted.against : -1)]);
    const place = h("div", {});
    const list = new VirtualList({
      label: "Objects",
      draw: (object, at) => [h("span", { class: "place" }, String(at + 1)), h("span", { class: "grow" }, `${all.text("class_name", object)}, ${all.text("size", object)}, ${all.table.get(object, "object_id")}`),
        quantities.map(([name, values]) => h("span", { class: lookOf(all, name) }, short(values[object], name === "gap"))),
        all.hasFates ? h("span", { class: "fate" }, FATES[all.said("fate", wanted.head, object)] ?? "-") : null],
      onpick: (object) => {
        set({ object: all.table.get(object, "object_id") }, true);
        // On a telephone the object is below the list.
        if (window.innerWidth <= 820) place.scrollIntoView();
      },
    });
    memory.list = list;
    memory.settings = withoutObject(settings);
    memory.show = (id) => {
      const object = id === null || id === "" ? -1 : all.find(id);
      const step = (by, title) => h("button", { onclick: () => list.pick(list.chosen + by) }, title);
      const steps = h("div", { class: "steps" }, step(-1, "previous (k)"), step(1, "next (j)"));
      place.replaceChildren(object >= 0 ? h("div", {}, steps, detail(report, all, object)) : h("p", { class: "about" }, "Choose an object in the list, or press j."));
      return object < 0 ? -1 : found.indexOf(object);
    };
    list.show(found, memory.show(settings.get("object")));
    // For tests, and for whoever looks with the browser's tools.
    report.listed = found;
    const measured = all.score === "score" ? all.numbers("score", 0).filter(Number.isFinite).length : all.count;
    const key = all.quantities.map((name) => `${all.titles[name]}: ${all.about[name]}`).join("; ");
    const heads = columnHeads(all, wanted, set);
    // As wide as the rows, which a scroll bar may make narrower.
    requestAnimationFrame(() => { heads.style.paddingRight = `${10 + list.element.offsetWidth - list.element.clientWidth - 2}px`; });
    return h("div", {}, controls(report, all, wanted, set, found.length),
      h("div", { class: "explorer" }, h("div", {}, heads, list.element, h("p", { class: "note" }, `${key}.`), measured < all.count ? h("p", { class: "note" }, `Predefined proposals were measured of ${measured.toLocaleString("en")} of the ${all.count.toLocaleString("en")} objects; the others have no ${all.titles[all.score]}, PCC or gap (-).`) : null), place));
  },
  move: (report, settings) => {
    if (!memory.list || withoutObject(settings) !== memory.settings) return false;
    const at = memory.show(settings.get("object"));
    if (at !== memory.list.chosen) memory.list.show(memory.list.rows, at);
    return true;
  },
  key: (event) => {
    if (event.key === "j") memory.list?.pick(memory.list.chosen + 1);
    if (event.key === "k") memory.list?.pick(Math.max(0, memory.list.chosen - 1));
  },
};
