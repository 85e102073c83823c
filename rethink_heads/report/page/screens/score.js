// The paper's Figures 2 and 3: how the score follows the proposal's IoU, by object size.
import { legend } from "../charts.js";
import { choice, h } from "../dom.js";
import { SIZES } from "../format.js";
import { UNIT, capital, headCurves, headDots, headRows, headTable, middle, sizesIn } from "./common.js";

export const score = {
  title: "Score and IoU",
  about: "The same predefined proposals are put through every head: a good ranking head gives a higher score to a proposal that fits its object better.",
  needs: ["score_by_iou", "pcc"],
  content: (report, settings, set) => {
    const table = report.tables.get("score_by_iou");
    const pcc = report.tables.get("pcc");
    const from = Number(settings.get("from") ?? 0);
    const rows = pcc ? headRows(report, pcc, "size", { iou_low: from }) : [];
    const panel = (size) => headCurves(report, table, { size }, { x: middle(table), value: "mean", title: size === "all" ? "All sizes" : `${capital(size)} objects`, xLabel: "Proposal IoU", yLabel: "Score of the true class", xRange: UNIT, yRange: UNIT });
    const sizes = SIZES.filter((size) => rows.some(({ at }) => at.has(size)));
    return h("div", {},
      legend(report.series, "bands and bars are 95% intervals"),
      table ? h("div", { class: "charts" }, sizesIn(table).map(panel)) : null,
      pcc ? [
        h("div", { class: "controls" }, choice("Correlation over proposals of IoU", [["0", "0 to 1 (the paper)"], ["0.5", "0.5 to 1"]], String(from), (value) => set({ from: value }))),
        headDots(pcc, rows, sizes, "pcc", { title: "Pearson correlation of score and IoU", label: "PCC, all proposals" }),
        headTable(pcc, rows, sizes, "pcc", { caption: "PCC, all proposals [95% interval]" }),
        headTable(pcc, rows, sizes, "object_pcc", { caption: "PCC, mean of objects [95% interval]" }),
      ] : null);
  },
};
