// The page's data: a JSON header, then typed columns, gzipped and in base64. Nothing is ever read as markup.
import { gunzip } from "./inflate.js";

const TYPES = {
  f8: Float64Array, f4: Float32Array, i4: Int32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array,
};

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text.trim());
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

async function unzip(bytes) {
  if (typeof DecompressionStream === "undefined") return gunzip(bytes);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A table by columns: numbers as typed arrays, texts as codes into a list. */
export class Table {
  constructor(name, spec, buffer, base) {
    this.name = name;
    this.rows = spec.rows;
    this.columns = new Map();
    this.spec = spec.columns;
    this.readers = new Map();
    for (const column of spec.columns) {
      const values = new TYPES[column.type](buffer, base + column.offset, spec.rows);
      this.columns.set(column.name, { ...column, values });
    }
  }

  has(name) { return this.columns.has(name); }

  /** Function of the row that gives the value: a number, a text, or true and false. */
  reader(name) {
    if (!this.readers.has(name)) this.readers.set(name, this.readerOf(name));
    return this.readers.get(name);
  }

  readerOf(name) {
    const column = this.columns.get(name);
    if (!column) return () => undefined;
    const { values, strings, scale, low, absent, truth } = column;
    if (strings) return (row) => strings[values[row]];
    if (truth) return (row) => values[row] === 1;
    if (scale !== undefined) return (row) => (values[row] === absent ? NaN : low + scale * values[row]);
    return (row) => values[row];
  }

  get(row, name) { return this.reader(name)(row); }

  /** The rows, in order, whose columns have these values; texts are compared by their codes. */
  where(wanted) {
    const tests = Object.entries(wanted).map(([name, value]) => {
      const { values, strings } = this.columns.get(name) ?? {};
      if (strings) return [(row) => values[row], strings.indexOf(value)];
      return [this.reader(name), value];
    });
    const found = [];
    for (let row = 0; row < this.rows; row += 1) {
      let all = true;
      for (let at = 0; all && at < tests.length; at += 1) all = tests[at][0](row) === tests[at][1];
      if (all) found.push(row);
    }
    return found;
  }

  /** Numbers of some rows. */
  numbersAt(name, rows) {
    const read = this.reader(name);
    const found = new Float64Array(rows.length);
    for (let at = 0; at < rows.length; at += 1) found[at] = read(rows[at]);
    return found;
  }

  /** Numbers of the rows from `first` to before `last`. */
  numbers(name, first = 0, last = this.rows) {
    const read = this.reader(name);
    const found = new Float64Array(last - first);
    for (let row = first; row < last; row += 1) found[row - first] = read(row);
    return found;
  }

  /** Different values of a column, in the order that they are first met. */
  distinct(name, rows = this.all()) {
    const read = this.reader(name);
    return [...new Set(rows.map(read))];
  }

  all() { return Array.from({ length: this.rows }, (_, row) => row); }

  record(row) {
    return Object.fromEntries([...this.columns.keys()].map((name) => [name, this.get(row, name)]));
  }

  csv() {
    const readers = [...this.columns.keys()].map((name) => this.reader(name));
    const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const cell = (value) => {
      if (typeof value === "boolean") return value ? "True" : "False";
      return typeof value === "number" && Number.isNaN(value) ? "" : quoted(String(value));
    };
    const lines = [[...this.columns.keys()].map(quoted).join(",")];
    for (let row = 0; row < this.rows; row += 1) lines.push(readers.map((read) => cell(read(row))).join(","));
    return `${lines.join("\n")}\n`;
  }
}

/** The header and the tables of the page. */
export async function readData(element) {
  const bytes = await unzip(bytesOf(element.textContent));
  element.textContent = "";
  const length = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  // Columns begin at multiples of eight bytes.
  const base = bytes.byteOffset + Math.ceil((4 + length) / 8) * 8;
  const tables = new Map();
  for (const [name, spec] of Object.entries(header.tables)) tables.set(name, new Table(name, spec, bytes.buffer, base));
  return { ...header, tables };
}

/** Function of an object's crop number that gives the URL of its picture, made when it is first asked for. */
export function readCrops(element, ends) {
  if (!element || !ends.length) return () => null;
  let bytes = null;
  const urls = new Map();
  return (number) => {
    if (number < 0 || number >= ends.length) return null;
    if (bytes === null) {
      bytes = bytesOf(element.textContent);
      element.textContent = "";
    }
    if (!urls.has(number)) {
      const picture = bytes.subarray(number ? ends[number - 1] : 0, ends[number]);
      urls.set(number, URL.createObjectURL(new Blob([picture], { type: "image/jpeg" })));
    }
    return urls.get(number);
  };
}
