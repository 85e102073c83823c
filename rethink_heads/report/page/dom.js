// Elements, and the state of the page in the address's hash. Text from data is only ever text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** An HTML element; texts among the children become text nodes. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** A text whose intervals in brackets are not broken. */
export const unbroken = (text) => text.split(/(\[[^\]]*\],?)/).map((part) => (part.startsWith("[") ? h("span", { class: "ends" }, part) : part));

/** What the hash says: the screen, and the settings of its controls. */
export function readState() {
  const [screen, query] = location.hash.slice(1).split("?");
  return { screen: decodeURIComponent(screen || ""), settings: new URLSearchParams(query ?? "") };
}

/** The hash of a screen with settings, those that are empty left out; the chosen cell is kept unless they name another. */
export function hashOf(screen, settings) {
  const kept = { cell: readState().settings.get("cell"), ...settings };
  const query = new URLSearchParams(Object.entries(kept).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return `#${encodeURIComponent(screen)}${[...query].length ? `?${query}` : ""}`;
}

/** Go to a screen; ``quiet`` keeps the browser's history short while a control moves. */
export function go(screen, settings = {}, quiet = false) {
  const hash = hashOf(screen, settings);
  if (hash === location.hash) return;
  // At once, so that the next key already finds the new screen: the browser itself tells of a new hash later.
  history[quiet ? "replaceState" : "pushState"](null, "", hash);
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

/** Offer a text as a file. */
export function download(name, text, type = "text/csv") {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

let fields = 0;

/** A select with its label. */
export function choice(label, values, chosen, onchoice) {
  fields += 1;
  const id = `field-${fields}`;
  const options = values.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  return h("span", { class: "field" }, h("label", { for: id }, label),
    h("select", { id, onchange: (event) => onchoice(event.target.value) }, options));
}

/** Two numbers, from and to, as "0.2,0.5" in the address; or one. */
export function rangeField(label, text, onrange, single = false) {
  const [low = "", high = ""] = text.split(",");
  const number = (value, name) => h("input", { type: "number", step: "any", value, "aria-label": `${label}${name}`, onchange: () => onrange(said()) });
  const inputs = single ? [number(low, "")] : [number(low, " from"), number(high, " to")];
  const said = () => (inputs.every((input) => input.value === "") ? "" : inputs.map((input) => input.value).join(","));
  return h("span", { class: "field", role: "group", "aria-label": label }, h("span", {}, label), h("span", { class: "range" }, inputs));
}
