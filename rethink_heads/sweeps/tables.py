"""The table that a sweep ends in: average precision of each point, by seed and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rethink_heads.evaluation.average_precision import AP_NAMES
from rethink_heads.report.cells import HIGH, LOW, SPREAD, to_latex, to_markdown
from rethink_heads.sweeps.plan import Plan
from rethink_heads.sweeps.precision import Read, Size

MEAN = "mean"
MILLION = 1e6
FORMATS = {"parameters": ".2f", "head_parameters": ".2f"}
NAMES = {
    "title": "point",
    "parameters": "weights, M",
    "head_parameters": "of heads, M",
}


def sweep_table(
    plan: Plan,
    reads: Mapping[str, Read],
    sizes: Mapping[str, Size],
    precisions: Mapping[tuple[str, int], pd.DataFrame],
) -> pd.DataFrame:
    """Return the sweep's table.

    Args:
        plan: the sweep.
        reads, sizes: by point's label.
        precisions: by point's label and seed, rows metric, value, low, high; those that are missing have no row.

    Returns:
        A row a point and seed, and one a point with ``seed`` "mean" where the sweep has several seeds: point, title, a
        column an axis, head, reading, fusion, parameters, head_parameters, seed, and by metric (AP, AP50, ..., in 0..1)
        its value, ``_low`` and ``_high`` (95% interval over images, of rows of a seed) and ``_sd`` (standard deviation
        over seeds, of the mean's rows).
    """
    rows = []
    for point in plan.points:
        read, size = reads[point.label], sizes[point.label]
        columns = {
            "point": point.label,
            "title": point.title,
            **point.values,
            "head": point.head,
            "reading": read.reading,
            "fusion": read.fusion,
            "parameters": size.parameters,
            "head_parameters": size.head_parameters,
        }
        by_seed = [
            {**columns, "seed": str(seed), **_of_seed(precisions[point.label, seed])}
            for seed in plan.seeds
            if (point.label, seed) in precisions
        ]
        rows += by_seed
        if len(plan.seeds) > 1 and by_seed:
            rows.append({**columns, "seed": MEAN, **_over_seeds(by_seed)})
    frame = pd.DataFrame(rows)
    return frame if len(frame) else pd.DataFrame(columns=["point", "seed", *AP_NAMES])


def shown_table(plan: Plan, table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the table that are worth reading: those that tell the points apart."""
    axes = [name for name in dict.fromkeys(_axes(plan)) if name in table]
    shown = pd.DataFrame(index=table.index)
    for name in axes or ["title"]:
        shown[name] = table[name]
    if "reading" not in axes and (table["reading"] != table["head"]).any():
        shown["reading"] = table["reading"]
    for name in FORMATS:
        shown[name] = table[name] / MILLION
    shown["seed"] = table["seed"]
    estimates = [name for name in map(str, table) if name.partition("_")[0] in AP_NAMES]
    return shown.join(table[estimates])


def column_names(plan: Plan) -> dict[str, str]:
    """Headers of the shown columns."""
    return {**NAMES, **{name: name.rpartition(".")[2] for name in _axes(plan)}}


def note(plan: Plan, table: pd.DataFrame, images: int, data: str) -> str:
    """What the numbers are of, and what the intervals do and do not speak of."""
    missing = [
        f"{point.label} (seed {seed})"
        for point in plan.points
        for seed in plan.seeds
        if not ((table["point"] == point.label) & (table["seed"] == str(seed))).any()
    ]
    trainings = {point.training for point in plan.points}
    several = len(plan.seeds) > 1
    parts = [
        f"AP in percent on {images} images of {data}.",
        "In brackets: 95% interval from a bootstrap over these images, of that one trained detector; it says how far"
        " other images would move the number, and nothing of how far another training would.",
        "Rows 'mean': mean over the seeds ± standard deviation over them, the spread of"
        f" {len(plan.seeds)} trainings."
        if several
        else "One training a point: the spread of trainings is not known.",
    ]
    if len(trainings) == 1 and len(plan.points) > 1:
        parts.append("All points of a seed are read from one trained detector.")
    if missing:
        parts.append(f"Missing: {', '.join(missing)}.")
    return " ".join(parts)


def markdown(plan: Plan, table: pd.DataFrame, text: str) -> str:
    """The table in Markdown, in percent, under the sweep's title."""
    body = to_markdown(
        shown_table(plan, table),
        names=column_names(plan),
        digits=1,
        scale=100,
        formats=FORMATS,
        note=text,
    )
    return f"## {plan.description.title}\n\n{body}"


def latex(plan: Plan, table: pd.DataFrame, text: str) -> str:
    """The table in LaTeX, in percent, over the width of a page."""
    shown = shown_table(plan, table).assign(point_of_row=table["point"])
    groups = shown.pop("point_of_row").tolist()
    return to_latex(
        shown,
        names=column_names(plan),
        digits=1,
        scale=100,
        formats=FORMATS,
        note=text,
        caption=f"{plan.description.title}.",
        label=f"tab:{plan.description.name}",
        groups=groups,
        wide=True,
    )


def _axes(plan: Plan) -> list[str]:
    return [name for point in plan.points for name in point.values]


def _of_seed(precision: pd.DataFrame) -> dict[str, float]:
    by_metric = {record["metric"]: record for record in precision.to_dict("records")}
    row: dict[str, float] = {}
    for name in AP_NAMES:
        columns = ("value", "value_low", "value_high")
        value, low, high = (float(by_metric[name][column]) for column in columns)
        row |= {name: value, f"{name}{LOW}": low, f"{name}{HIGH}": high, f"{name}{SPREAD}": np.nan}
    return row


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    row: dict[str, float] = {}
    for name in AP_NAMES:
        values = np.array([each[name] for each in rows], float)
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
        row |= {name: float(np.mean(values)), f"{name}{LOW}": np.nan, f"{name}{HIGH}": np.nan}
        row[f"{name}{SPREAD}"] = spread
    return row
