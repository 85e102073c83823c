// All objects by columns: what is filtered, sorted and shown of them, head by head.

export const FATES = {
  found: "found", outranked: "outranked", taken: "box taken by another object", cut: "cut at the limit of an image", suppressed: "suppressed by NMS",
  below_threshold: "below the score threshold", wrong_class: "wrong class", regressed_away: "regressed away", no_proposal: "no proposal",
  not_localized: "not localized", missed: "missed",
};

/** Causes of lost AP, in the order of their bits; of the background there is no object. */
export const CAUSES = {
  ranking: { title: "Ranking", colour: "#5b4bc4" },
  localization: { title: "Localization", colour: "#2f9fd0" },
  classification: { title: "Classification", colour: "#117733" },
  duplicates: { title: "Duplicates", colour: "#b79a2e" },
  background: { title: "Background", colour: "#c4566a" },
  misses: { title: "Misses", colour: "#888888" },
};

/** "localization,0.75" as a cause and the columns that tell of it; all of them without an IoU. */
function lostTo(all, text) {
  const [cause, iou] = text.split(",");
  const columns = iou ? [`causes_${Math.round(100 * iou)}`] : [...all.byHead.columns.keys()].filter((name) => name.startsWith("causes_"));
  return { bit: 2 ** Object.keys(CAUSES).indexOf(cause), columns: columns.filter((name) => all.has(name)) };
}

/** The columns of a report's objects, decoded when they are first asked for. */
export class Objects {
  constructor(report) {
    this.report = report;
    this.table = report.tables.get("objects");
    this.byHead = report.tables.get("object_heads");
    this.count = this.table.rows;
    this.heads = report.series.length;
    this.decoded = new Map();
    // Of predefined proposals where they were measured, else of final detections.
    this.score = this.has("score") ? "score" : "fate_score";
    this.iou = this.has("regressed_iou") ? "regressed_iou" : "best_iou";
    this.titles = {
      score: "Score", fate_score: "Score", regressed_iou: "IoU", pcc: "PCC", best_iou: this.has("regressed_iou") ? "Best" : "IoU", behind: "Behind", other: "Other", gap: "Gap",
    };
    this.about = {
      score: "mean score over its predefined proposals of IoU 0.7 and more", fate_score: "score of its detection, or of the best box that fits it", regressed_iou: "mean IoU of the regressed box over the same proposals",
      pcc: "correlation of score and IoU over its own proposals", best_iou: "best IoU of a detection of its class, from 0.5 on", behind: "how far the IoU of the detection with the highest score is behind the best", other: `${this.has("score") ? "score" : "best IoU"} of the other head`,
      gap: this.has("score") ? "score of the head less that of the other" : "best IoU of the head less that of the other, 0 where there is no detection",
    };
  }

  has(name) { return this.byHead.has(name); }

  get hasFates() { return this.has("fate"); }

  get hasCauses() { return this.has("causes_50"); }

  /** The columns that a list shows and sorts by. */
  get quantities() {
    const own = [this.score, this.iou, "pcc", "best_iou"].filter((name, at, all) => this.has(name) && all.indexOf(name) === at);
    return [...own, ...(this.has("best_iou") ? ["behind"] : []), ...(this.heads > 1 ? ["other", "gap"] : [])];
  }

  text(name, object) { return this.table.get(object, name); }

  /** A text of a head, as its fate. */
  said(name, head, object) { return this.byHead.get(head * this.count + object, name); }

  /** A number of every object under a head; "gap" is that of `against` less. */
  numbers(name, head, against = -1) {
    const key = `${name}/${head}/${against}`;
    if (!this.decoded.has(key)) this.decoded.set(key, this.decode(name, head, against));
    return this.decoded.get(key);
  }

  decode(name, head, against) {
    if (name === "other") return this.numbers(this.has("score") ? "score" : "best_iou", against);
    if (name === "gap") {
      // Of scores; where none were measured, of the IoU of the best detection, none being 0.
      const of = this.has("score") ? "score" : "best_iou";
      const [a, b] = [this.numbers(of, head), this.numbers(of, against)];
      const filled = (value) => (of === "best_iou" && Number.isNaN(value) ? 0 : value);
      return a.map((value, object) => filled(value) - filled(b[object]));
    }
    if (name === "behind") {
      const [best, top] = [this.numbers("best_iou", head), this.numbers("top_iou", head)];
      return best.map((value, object) => value - top[object]);
    }
    if (!this.has(name)) return new Float64Array(this.count).fill(NaN);
    return this.byHead.numbers(name, head * this.count, (head + 1) * this.count);
  }

  /** Codes of a text column, and the code of a text. */
  codes(name, head = -1) {
    const { values, strings } = (head < 0 ? this.table : this.byHead).columns.get(name);
    return { codes: head < 0 ? values : values.subarray(head * this.count, (head + 1) * this.count), strings };
  }

  /** The object of an id, -1 where there is none. */
  find(id) {
    const { values } = this.table.columns.get("object_id");
    return values.indexOf(Number(id));
  }
}

export function objectsOf(report) {
  report.objects ??= new Objects(report);
  return report.objects;
}

const placed = (all, { head }) => [all.numbers(all.score, head), all.numbers(all.iou, head)];

/** What is looked at first: a question, its condition, also in words, and its order. */
export const PRESETS = {
  all: { title: "all", by: "", down: false },
  misranked: { title: "well placed, badly scored", rule: "IoU 0.7 or more, score below 0.6", by: "score", down: false, test: (all, at) => { const [score, iou] = placed(all, at); return (object) => iou[object] >= 0.7 && score[object] < 0.6; } },
  unplaced: { title: "well scored, badly placed", rule: "score 0.5 or more, IoU below 0.7", by: "iou", down: false, test: (all, at) => { const [score, iou] = placed(all, at); return (object) => score[object] >= 0.5 && iou[object] < 0.7; } },
  disagree: { title: "heads disagree", rule: "a gap of 0.1 or more", by: "gap", down: true, needs: (all) => all.heads > 1, test: (all, at) => { const gap = all.numbers("gap", at.head, at.against); return (object) => Math.abs(gap[object]) >= 0.1; } },
  misordered: { title: "best box not the best score", rule: "behind by 0.05 or more", by: "behind", down: true, needs: (all) => all.has("best_iou"), test: (all, at) => { const behind = all.numbers("behind", at.head); return (object) => behind[object] >= 0.05; } },
  lost: { title: "lost by this head, found by the other", rule: "by their fates", by: "", down: false, needs: (all) => all.heads > 1 && all.hasFates, test: (all, at) => {
    const [own, other] = [all.codes("fate", at.head), all.codes("fate", at.against)];
    const found = own.strings.indexOf("found");
    return (object) => own.codes[object] !== found && other.codes[object] === found;
  } },
};

/** Ends of a range as in the address, "0.2,0.5"; nothing for what is not numbers. */
export function ends(text) {
  const parts = (text ?? "").split(",").map((part) => (part === "" ? NaN : Number(part)));
  return [Number.isFinite(parts[0]) ? parts[0] : -Infinity, Number.isFinite(parts[1]) ? parts[1] : Infinity];
}

/** Objects that pass all filters and are of the chosen cell, in order. `wanted`: head, against, preset, class, size, fate, lost, score, iou, gap, by, down. */
export function select(all, wanted) {
  const tests = [];
  const among = ({ codes, strings }, texts) => {
    const allowed = new Set(texts.map((text) => strings.indexOf(text)));
    tests.push((object) => allowed.has(codes[object]));
  };
  const within = (values, [low, high]) => { if (low > -Infinity || high < Infinity) tests.push((object) => values[object] >= low && values[object] <= high); };
  const only = all.report.only?.mask;
  if (only) tests.push((object) => only[object] === 1);
  if (wanted.class) among(all.codes("class_name"), [wanted.class]);
  if (wanted.size) among(all.codes("size"), [wanted.size]);
  if (wanted.fate && all.hasFates) among(all.codes("fate", wanted.head), wanted.fate.split(","));
  if (wanted.lost && all.hasCauses) {
    const { bit, columns } = lostTo(all, wanted.lost);
    const sets = columns.map((name) => all.byHead.columns.get(name).values.subarray(wanted.head * all.count, (wanted.head + 1) * all.count));
    tests.push((object) => sets.some((causes) => (causes[object] & bit) > 0));
  }
  within(all.numbers(all.score, wanted.head), ends(wanted.score));
  within(all.numbers(all.iou, wanted.head), ends(wanted.iou));
  if (wanted.gap && all.heads > 1) {
    const gap = all.numbers("gap", wanted.head, wanted.against);
    tests.push((object) => Math.abs(gap[object]) >= Number(wanted.gap));
  }
  const test = PRESETS[wanted.preset].test?.(all, wanted);
  if (test) tests.push(test);
  const found = new Uint32Array(all.count);
  let count = 0;
  for (let object = 0; object < all.count; object += 1) {
    let passes = true;
    for (let at = 0; passes && at < tests.length; at += 1) passes = tests[at](object);
    if (passes) found[count++] = object;
  }
  return inOrder(all, found.subarray(0, count), wanted);
}

/** Keys to sort by: texts by their place in the alphabet, a gap by its size. */
function keysOf(all, { by, head, against }) {
  if (by === "name") {
    const { codes, strings } = all.codes("class_name");
    const place = new Float64Array(strings.length);
    strings.map((text, code) => [text, code]).sort(([a], [b]) => (a < b ? -1 : 1)).forEach(([, code], at) => { place[code] = at; });
    return Float64Array.from(codes, (code) => place[code]);
  }
  if (by === "fate") {
    const { codes, strings } = all.codes("fate", head);
    const order = Object.keys(FATES);
    return Float64Array.from(codes, (code) => order.indexOf(strings[code]));
  }
  if (by === "gap") return all.numbers("gap", head, against).map(Math.abs);
  if (by === "other") return all.numbers("other", head, against);
  return all.numbers(by === "score" ? all.score : by === "iou" ? all.iou : by, head);
}

/** Rows by a key, what is undefined last, what is equal in the order of the file. */
function inOrder(all, rows, wanted) {
  if (!wanted.by) return rows;
  const keys = keysOf(all, wanted);
  const sign = wanted.down ? -1 : 1;
  const there = rows.filter((row) => !Number.isNaN(keys[row]));
  const found = new Uint32Array(rows.length);
  found.set(rows.filter((row) => Number.isNaN(keys[row])), there.length);
  // Keys alone are sorted at once; each row then has its place among them. Zero is added because it may be negative.
  const own = Float64Array.from(there, (row) => sign * keys[row] + 0);
  const sorted = own.slice().sort();
  const taken = new Uint32Array(there.length);
  there.forEach((row, at) => {
    let [low, high] = [0, sorted.length];
    while (low < high) {
      const half = (low + high) >> 1;
      if (sorted[half] < own[at]) low = half + 1;
      else high = half;
    }
    found[low + taken[low]++] = row;
  });
  return found;
}
