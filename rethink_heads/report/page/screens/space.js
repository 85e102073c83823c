// Spatial sensitivity: correlation of RoI positions (Figure 4), displaced boxes, zeroed positions.
import { legend } from "../charts.js";
import { choice, h } from "../dom.js";
import { estimate } from "../format.js";
import { headCurves, headRows, headTable, sizesIn } from "./common.js";

/** A grid of numbers as a picture; `diverging` is about zero, else from `low` to 1 or the largest. */
function map(title, values, side, { diverging = false, low = 0, high = 1, tiles = 0 } = {}) {
  const scale = 4;
  const there = values.filter(Number.isFinite);
  const [least, largest] = [Math.min(...there), Math.max(...there)];
  const canvas = h("canvas", { width: side * scale, height: side * scale, role: "img", "aria-label": `${title}; from ${estimate(least)} to ${estimate(largest)}`, class: "map" });
  const pen = canvas.getContext("2d");
  const most = Math.max(...there.map(Math.abs), 1e-9);
  values.forEach((value, at) => {
    // Light to dark, as the figures': blue below zero and orange above, or one hue.
    const share = diverging ? Math.abs(value) / most : Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
    const hue = diverging ? (value < 0 ? 205 : 22) : 255;
    pen.fillStyle = Number.isFinite(value) ? `hsl(${hue} 60% ${96 - 66 * share}%)` : "#888";
    pen.fillRect((at % side) * scale, Math.floor(at / side) * scale, scale, scale);
  });
  if (tiles) {
    pen.fillStyle = "#fff";
    for (let edge = tiles; edge < side; edge += tiles) {
      pen.fillRect(edge * scale, 0, 1, side * scale);
      pen.fillRect(0, edge * scale, side * scale, 1);
    }
  }
  Object.assign(canvas.style, { width: "240px", height: "240px", imageRendering: "pixelated" });
  return h("figure", {}, h("figcaption", {}, title), canvas, h("p", { class: "note" }, `from ${estimate(least)} to ${estimate(largest)}${diverging ? "; blue below zero, brown above" : ""}`));
}

function tilings(report) {
  const table = report.tables.get("correlation_maps");
  if (!table) return [];
  return headRows(report, table, "kind").flatMap(({ one, at }) => [...at.keys()].map((kind) => {
    const rows = table.where({ detector: one.detector, head: one.head, kind });
    const cells = 1 + Math.max(...rows.map((row) => table.get(row, "cell_a")));
    const side = Math.round(Math.sqrt(cells));
    const values = new Array(cells * cells).fill(NaN);
    for (const row of rows) {
      const [a, b] = [table.get(row, "cell_a"), table.get(row, "cell_b")];
      // Position (i, j) against (k, l) is in row i * side + k and column j * side + l.
      const [i, j, k, l] = [Math.floor(a / side), a % side, Math.floor(b / side), b % side];
      values[(i * side + k) * cells + j * side + l] = table.get(row, "cosine");
    }
    return map(`${one.label}, ${kind === "weight_correlation" ? "fc6 weights" : "outputs"}`, values, cells, { low: Math.min(0, ...values), tiles: side });
  }));
}

function grids(report, name, size, titles, options) {
  const table = report.tables.get(name);
  if (!table) return [];
  return headRows(report, table, "kind", { size }).flatMap(({ one, at }) => [...at.keys()].map((kind) => {
    const rows = table.where({ detector: one.detector, head: one.head, kind, size });
    const side = Math.round(Math.sqrt(rows.length));
    const values = new Array(side * side).fill(NaN);
    rows.forEach((row) => { values[table.get(row, "row") * side + table.get(row, "column")] = table.get(row, "mean"); });
    return map(`${one.label}: ${titles[kind] ?? kind}`, values, side, options);
  }));
}

export const space = {
  title: "Space",
  about: "A spatially sensitive head answers differently at different positions of the RoI: the cosine of its outputs at two positions is low, and its score falls fast when the box is shifted.",
  needs: ["correlation_maps", "spatial_correlation", "displacement", "cells"],
  content: (report, settings, set) => {
    const decay = report.tables.get("decay");
    const mean = report.tables.get("spatial_correlation");
    const size = settings.get("size") ?? "all";
    const sizes = mean ? sizesIn(mean) : ["all"];
    const maps = tilings(report);
    return h("div", {},
      maps.length ? [h("h3", {}, "Cosine of every two RoI positions (Figure 4 of Wu et al., CVPR 2020)"), h("p", { class: "about" }, "A tile is one position, a cell in it its cosine with another; dark is alike."), h("div", { class: "charts" }, maps)] : null,
      mean ? headTable(mean, headRows(report, mean, "size", { kind: "spatial_correlation" }), sizes, "mean", { caption: "Mean cosine over distinct positions [95% interval]" }) : null,
      h("div", { class: "controls" }, choice("Object size", sizes.map((name) => [name, name]), size, (value) => set({ size: value }))),
      legend(report.series, "bands are 95% intervals"),
      decay ? headCurves(report, decay, { size, kind: "spatial_correlation" }, { x: (row) => decay.get(row, "distance"), value: "mean", title: "Cosine by distance", xLabel: "Distance of two RoI positions", yLabel: "Cosine similarity" }) : null,
      h("div", { class: "charts" },
        grids(report, "displacement", size, { displacement_score: "score of a shifted box (centre: on the object)" }, {}),
        grids(report, "cells", size, { cell_score: "change of the score, a position zeroed", cell_iou: "change of the regressed IoU, a position zeroed" }, { diverging: true })));
  },
};
