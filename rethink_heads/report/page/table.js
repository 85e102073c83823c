// Tables of cells, sorted by a click on a column's head, and the virtual list of many rows.
import { h, unbroken } from "./dom.js";

/**
 * A table; columns are {title, text(row), value(row), about}; `rows` are what the functions take.
 * The order is kept in `state` ({by, down}) by the caller's `onsort`.
 */
export function sortable({ caption, columns, rows, sort = { by: -1, down: true }, onsort = null, onpick = null }) {
  const ordered = sort.by < 0 ? rows : order(rows, columns[sort.by].value ?? columns[sort.by].text, sort.down);
  const heads = columns.map((column, at) => {
    const turned = at === sort.by ? (sort.down ? "descending" : "ascending") : null;
    const press = () => onsort?.({ by: at, down: at === sort.by ? !sort.down : true });
    const mark = turned === "descending" ? " ▼" : turned === "ascending" ? " ▲" : "";
    const inner = onsort ? h("button", { class: "sort", onclick: press, title: column.about }, column.title, mark) : column.title;
    return h("th", { scope: "col", "aria-sort": turned, class: column.value ? "number" : null }, inner);
  });
  const body = ordered.map((row) => h("tr", {}, columns.map((column, at) => {
    const text = unbroken(column.text(row));
    const content = at === 0 && onpick ? h("button", { class: "cell", onclick: () => onpick(row) }, text) : text;
    return at === 0 ? h("th", { scope: "row" }, content) : h("td", { class: column.value ? "number" : null }, content);
  })));
  const table = h("table", { class: columns.length > 8 ? "many" : null }, caption ? h("caption", {}, caption) : null, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, body));
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption ?? "table" }, table);
}

/** Rows by a value, what is undefined last. */
export function order(rows, value, down) {
  const keyed = rows.map((row) => [row, value(row)]);
  const absent = (key) => key === undefined || key === null || (typeof key === "number" && Number.isNaN(key));
  keyed.sort(([, a], [, b]) => {
    if (absent(a) || absent(b)) return Number(absent(a)) - Number(absent(b));
    const sign = a < b ? -1 : a > b ? 1 : 0;
    return down ? -sign : sign;
  });
  return keyed.map(([row]) => row);
}

const ROW_HEIGHT = 34;

/** A list of which only the rows in view are elements; `draw(row, at)` gives the content of one. */
export class VirtualList {
  constructor({ label, draw, onpick }) {
    this.draw = draw;
    this.onpick = onpick;
    this.rows = [];
    this.chosen = -1;
    this.space = h("div", { class: "space" });
    this.element = h("div", { class: "list", tabindex: 0, role: "listbox", "aria-label": label, onscroll: () => this.paint(), onkeydown: (event) => this.key(event) }, this.space);
    new ResizeObserver(() => this.paint()).observe(this.element);
  }

  show(rows, chosen = -1) {
    this.rows = rows;
    this.chosen = chosen;
    this.space.style.height = `${rows.length * ROW_HEIGHT}px`;
    this.element.scrollTop = chosen < 0 ? 0 : Math.max(0, chosen * ROW_HEIGHT - this.element.clientHeight / 2);
    this.paint();
  }

  paint() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW_HEIGHT) - 4);
    const last = Math.min(this.rows.length, first + Math.ceil((this.element.clientHeight || 400) / ROW_HEIGHT) + 8);
    const rows = [];
    for (let at = first; at < last; at += 1) {
      const selected = at === this.chosen;
      rows.push(h("div", { class: selected ? "row chosen" : "row", role: "option", id: `row-${at}`, "aria-selected": String(selected), style: { top: `${at * ROW_HEIGHT}px` }, onclick: () => this.pick(at) }, this.draw(this.rows[at], at)));
    }
    this.space.replaceChildren(...rows);
    if (this.chosen >= 0) this.element.setAttribute("aria-activedescendant", `row-${this.chosen}`);
  }

  pick(at) {
    if (at < 0 || at >= this.rows.length) return;
    this.chosen = at;
    const top = at * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + ROW_HEIGHT > scrollTop + clientHeight) this.element.scrollTop = top + ROW_HEIGHT - clientHeight;
    this.paint();
    this.onpick(this.rows[at], at);
  }

  key(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.pick(Math.min(this.rows.length - 1, Math.max(0, this.chosen + steps[event.key])));
  }
}
