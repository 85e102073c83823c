// What regression makes of boxes: the regressed IoU and its gain, and the error in centre and scale.
import { legend } from "../charts.js";
import { choice, h } from "../dom.js";
import { UNIT, headCurves, headDots, headRows, headTable, middle, sizesIn } from "./common.js";

const COMPONENTS = ["dx", "dy", "dw", "dh"];

export const boxes = {
  title: "Boxes",
  about: "The same proposals, regressed by each head: the IoU of the regressed box, and its error against the object's box (centre in object sizes, scale as the logarithm of the ratio).",
  needs: ["regressed_iou"],
  content: (report, settings, set) => {
    const table = report.tables.get("regressed_iou");
    const errors = report.tables.get("error_components");
    const size = settings.get("size") ?? "all";
    const x = middle(table);
    const common = { x, xLabel: "Proposal IoU", xRange: UNIT };
    const rows = errors ? headRows(report, errors, "component", { size }) : [];
    return h("div", {},
      h("div", { class: "controls" }, choice("Object size", sizesIn(table).map((name) => [name, name]), size, (value) => set({ size: value }))),
      legend(report.series, "bands and bars are 95% intervals"),
      h("div", { class: "charts" },
        headCurves(report, table, { size }, { ...common, value: "mean", title: `Regressed IoU, ${size} objects`, yLabel: "Regressed IoU", yRange: UNIT }),
        headCurves(report, table, { size }, { ...common, value: "gain", title: `Gain, ${size} objects`, yLabel: "Regressed less proposal IoU" }),
        errors ? headDots(errors, rows, COMPONENTS, "mae", { title: "Mean absolute error", label: "Object sizes; ln ratio", zero: true }) : null,
        errors ? headDots(errors, rows, COMPONENTS, "mean", { title: "Mean error (bias)", label: "Object sizes; ln ratio" }) : null),
      errors ? headTable(errors, rows, COMPONENTS, "mae", { caption: `Mean absolute error [95% interval], ${size} objects` }) : null);
  },
};
