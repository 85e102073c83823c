// Numbers as the tables on the terminal print them, and a record of all that are shown.

// Decimals by which a number that lies in the middle is told.
const BEYOND = 50;

export const SIZES = ["small", "medium", "large", "all"];

/** A number with so many decimals; of what lies between two in the middle the even one, as Python rounds. */
function fixed(number, decimals) {
  const rest = Math.abs(number * 10 ** decimals) % 1;
  // All its decimals are written only where it is near the middle.
  if (Math.abs(rest - 0.5) > 1e-6) return number.toFixed(decimals);
  const exact = number.toFixed(decimals + BEYOND);
  const [shorter, after] = [exact.slice(0, -BEYOND).replace(/\.$/, ""), exact.slice(-BEYOND)];
  return /^50*$/.test(after) && Number(shorter.at(-1)) % 2 === 0 ? shorter : number.toFixed(decimals);
}

/** "0.312 [0.290, 0.334]"; a dash where it is undefined, "[-]" where there is no interval. */
export function estimate(value, low, high, { digits = 3, scale = 1, signed = false, bare = false } = {}) {
  if (!Number.isFinite(value)) return "-";
  const size = Math.abs(scale * value);
  // What is not zero is not shown as zero; below a millionth it is rounding.
  const decimals = size >= 1e-6 && size < 0.5 * 10 ** -digits ? 1 - Math.floor(Math.log10(size)) : digits;
  const text = (number) => {
    const shown = fixed(scale * number, decimals);
    return signed && scale * number > 0 ? `+${shown}` : shown;
  };
  if (bare || low === undefined) return text(value);
  return Number.isFinite(low) && Number.isFinite(high) ? `${text(value)} [${text(low)}, ${text(high)}]` : `${text(value)} [-]`;
}

export const short = (value) => String(Number(value.toPrecision(6)));

export const percent = (options) => ({ digits: 1, scale: 100, ...options });

/** Text of an estimate in a row of a table, recorded so that it can be held against the table's file. */
export function cell(table, row, column, options = {}) {
  const value = table.get(row, column);
  if (typeof value === "string") return value;
  const text = options.count ? String(value) : estimate(value, table.get(row, `${column}_low`), table.get(row, `${column}_high`), options);
  shown.push({ table: table.name, row, column, text, digits: options.digits ?? 3, scale: options.scale ?? 1, count: Boolean(options.count) });
  return text;
}

/** All that `cell` has printed since the page was opened or `shown` was emptied. */
export const shown = [];

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
