// What was found, in sentences that lead to their evidence.
import { dot, chart, legend, rangeOf } from "../charts.js";
import { h, hashOf } from "../dom.js";
import { cell, percent } from "../format.js";
import { sortable } from "../table.js";

const METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"];

function precision(report) {
  const table = report.tables.get("ap");
  if (!table) return null;
  const rows = report.series.map((one) => {
    const found = table.where({ detector: one.detector, head: one.head });
    return { one, at: Object.fromEntries(found.map((row) => [table.get(row, "metric"), row])) };
  }).filter(({ at }) => Object.keys(at).length);
  const text = (metric) => ({ at }) => (metric in at ? cell(table, at[metric], "value", percent()) : "-");
  const columns = [
    { title: "Head", text: ({ one }) => one.label },
    ...METRICS.map((metric) => ({ title: metric, text: text(metric), value: ({ at }) => table.get(at[metric], "value") })),
  ];
  const ends = ["value_low", "value_high"].flatMap((name) => table.all().map((row) => 100 * table.get(row, name)));
  const into = chart({
    x: { range: [-0.5, METRICS.length - 0.5], names: Object.fromEntries(METRICS.map((metric, at) => [at, metric])) },
    y: { range: rangeOf(ends, { zero: true }), label: "Average precision (%)" },
    describe: "Average precision of every head with 95% intervals; the numbers are in the table above.",
  });
  rows.forEach(({ one, at }, place) => METRICS.forEach((metric, x) => {
    if (!(metric in at)) return;
    const read = (name) => 100 * table.get(at[metric], name);
    dot(into, x + (place - (rows.length - 1) / 2) * Math.min(0.12, 0.8 / rows.length), read("value"), read("value_low"), read("value_high"), one);
  }));
  return [
    sortable({ caption: "Average precision in per cent [95% interval]", columns, rows }),
    legend(rows.map(({ one }) => one), "bars are 95% intervals"), into.figure,
  ];
}

export const verdict = {
  title: "Verdict",
  content: (report) => h("div", {},
    report.sentences.map(({ text, screen, settings }) => h("p", { class: "lead" }, text, " ", screen ? h("a", { href: hashOf(screen, settings ?? {}) }, "evidence") : null)),
    report.warnings.map((text) => h("p", { class: "warning" }, text)),
    precision(report)),
};
