// Where average precision is lost: shares by cause, oracles, and the exchange rate of the ranking.
import { bar, chart, legend } from "../charts.js";
import { choice, go, h, s } from "../dom.js";
import { percent } from "../format.js";
import { CAUSES, objectsOf } from "../objects.js";
import { headCurves, headDots, headRows, headTable } from "./common.js";

const names = Object.fromEntries(Object.entries(CAUSES).map(([name, { title }]) => [name, title]));

/** One head's AP and lost shares as a stacked bar: the mean first, then each IoU threshold. */
function stacks(report, one) {
  const table = report.tables.get("lost_by_threshold");
  const mean = report.tables.get("lost_precision");
  const own = { detector: one.detector, head: one.head };
  const ious = table.distinct("iou", table.where(own)).sort((a, b) => a - b);
  const bars = [["mean", mean, mean.where(own)], ...ious.map((iou) => [iou.toFixed(2), table, table.where({ ...own, iou })])];
  const into = chart({
    x: { range: [-0.6, bars.length - 0.2], names: Object.fromEntries(bars.map(([name], at) => [at + (at ? 0.3 : 0), name === "mean" ? name : name.slice(1)])), label: "IoU threshold" },
    y: { range: [0, 100], label: "Average precision (%)" }, title: one.label, live: true,
    describe: `AP and its lost shares by cause of ${one.label}, the mean and each IoU threshold; the mean's numbers are in the table.`,
  });
  const thickness = (into.x(1) - into.x(0)) * 0.86;
  bars.forEach(([name, frame, rows], at) => {
    const shares = rows.map((row) => [frame.get(row, "cause"), 100 * frame.get(row, "share")]);
    let end = 100 - shares.reduce((sum, [, share]) => sum + share, 0);
    const place = at + (at ? 0.3 : 0);
    bar(into, { place, from: 0, to: end, thickness, colour: "var(--line)", level: false, title: `AP at ${name}: ${end.toFixed(1)}` });
    for (const [cause, share] of shares) {
      const { title, colour } = CAUSES[cause];
      // Of the background there are no objects.
      const opens = objectsOf(report).hasCauses && cause !== "background";
      const onclick = opens ? () => go("objects", { lost: name === "mean" ? cause : `${cause},${name}`, head: report.series.indexOf(one) }) : null;
      bar(into, { place, from: end, to: end + Math.max(0, share), thickness, colour, level: false, title: `${title} at ${name}: ${share.toFixed(1)} points`, onclick });
      // A letter beside the colour, where there is room for one.
      if (share > 3.6) into.plot.append(s("text", { x: into.x(place), y: into.y(end + share / 2), class: "initial", "aria-hidden": "true" }, title[0]));
      end += Math.max(0, share);
    }
  });
  return into.figure;
}

export const lost = {
  title: "Lost AP",
  about: "What AP lacks to 100%, divided among causes: a share is what fixing one cause gains, averaged over the orders of fixing them all (weighted Shapley values, see Methods), so that the shares add up. A bar opens its objects: those with a detection that has the fault at this IoU threshold (the mean: at any), those that are missed, and of the ranking those whose detection comes after a false one.",
  needs: ["lost_precision"],
  content: (report, settings, set) => {
    const table = report.tables.get("lost_precision");
    const causes = Object.keys(CAUSES);
    const rows = headRows(report, table, "cause");
    const swatch = ([, { title, colour }]) => h("li", {}, h("span", { class: "swatch", style: { background: colour } }), `${title} (${title[0]})`);
    const rate = report.tables.get("exchange_rate");
    // Of a single class the shares are those of all.
    const byClass = report.tables.get("lost_by_class")?.distinct("label").length > 1 ? report.tables.get("lost_by_class") : null;
    const chosen = settings.get("class") ?? "";
    const label = report.classes.indexOf(chosen);
    const classRows = byClass && label >= 0 ? headRows(report, byClass, "cause", { label }) : [];
    return h("div", {},
      h("ul", { class: "legend" }, h("li", {}, h("span", { class: "swatch", style: { background: "var(--line)" } }), "AP"), Object.entries(CAUSES).map(swatch)),
      report.tables.has("lost_by_threshold") ? h("div", { class: "charts" }, rows.map(({ one }) => stacks(report, one))) : null,
      headTable(table, rows, causes, "share", { caption: "Share of the loss in points of AP [95% interval]", options: percent(), names }),
      headTable(table, rows, causes, "oracle", { caption: "AP in per cent with this cause alone fixed [95% interval]; with the ranking fixed, detections are in the order of their true IoU", options: percent(), names: { ...names, ranking: "Ranking (by true IoU)" } }),
      byClass ? h("div", { class: "controls" }, choice("Class", [["", "all"], ...report.classes.map((name) => [name, name])], chosen, (value) => set({ class: value }))) : null,
      classRows.length ? headTable(byClass, classRows, causes, "share", { caption: `Share of the loss of ${chosen} in points of its AP [95% interval]`, options: percent(), names }) : null,
      legend(rows.map(({ one }) => one), "bars and bands are 95% intervals"),
      h("div", { class: "charts" },
        headDots(table, rows, causes, "share", { title: "Shares of the loss", label: "Points of AP", scale: 100, zero: true, names, width: 560 }),
        rate ? headCurves(report, rate, {}, { x: (row) => rate.get(row, "step"), value: "ap", scale: 100, title: "What a better ranking would buy", xLabel: "From the detector's ranking (0) to that of the true IoU (1)", yLabel: "Average precision (%)", xRange: { range: [0, 1] } }) : null));
  },
};
