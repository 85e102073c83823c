"""The tables that a sweep ends in: average precision of each point, and a published ranking set beside ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rethink_heads.evaluation.average_precision import AP_NAMES
from rethink_heads.report.cells import HIGH, LOW, SPREAD, to_latex, to_markdown
from rethink_heads.sweeps.description import Point
from rethink_heads.sweeps.plan import Plan

MEAN, ALL_SEEDS = "mean", "all"
MILLION = 1e6
FORMATS = {"parameters": ".2f", "head_parameters": ".2f"}
NAMES = {
    "title": "point",
    "parameters": "weights, M",
    "head_parameters": "of heads, M",
}
HOLDS, REVERSED, UNDECIDED = "holds", "reversed", "undecided"
ORDERING_NOTE = (
    "A number is the difference of AP in percent, better less worse by the paper's order, on the same images and draws"
    " (95% interval of a paired bootstrap over images). holds: the interval lies above zero; reversed: below zero;"
    " undecided: across it. With several seeds: mean ± standard deviation over them, and holds or reversed only where"
    " every seed says so."
)


@dataclass(frozen=True)
class Size:
    """Numbers of trainable and frozen weights: of the detector, and of its heads alone."""

    parameters: int
    head_parameters: int


@dataclass(frozen=True)
class Read:
    """How a point's detector is read: a reading that its training makes meaningful, and a fusion rule."""

    reading: str
    fusion: str


def sweep_table(
    plan: Plan,
    reads: Mapping[str, Read],
    sizes: Mapping[str, Size],
    precisions: Mapping[tuple[str, int], pd.DataFrame],
) -> pd.DataFrame:
    """Return the sweep's table.

    Args:
        reads, sizes: by point's label.
        precisions: by point's label and seed, rows metric, value, value_low, value_high; those that are missing have
            no row.

    Returns:
        A row a point and seed, and one a point with ``seed`` "mean" where the sweep has several seeds: point, title, a
        column an axis, head, reading, fusion, parameters, head_parameters, seed, and by metric (AP, AP50, ..., in 0..1)
        its value, ``_low`` and ``_high`` (95% interval over images, of rows of a seed) and ``_sd`` (standard deviation
        over seeds, of the mean's rows).
    """
    rows: list[dict[str, Any]] = []
    for point in plan.points:
        read, size = reads[point.label], sizes[point.label]
        columns: dict[str, Any] = {
            "point": point.label,
            "title": point.title,
            **point.values,
            "head": point.head,
            **vars(read),
            **vars(size),
        }
        by_seed = []
        for seed in plan.seeds:
            if (point.label, seed) in precisions:
                row = {**columns, "seed": str(seed)}
                for name in AP_NAMES:
                    row |= _estimate(name, *_ends(precisions[point.label, seed], name, "value"))
                by_seed.append(row)
        rows += by_seed
        if len(plan.seeds) > 1 and by_seed:
            rows.append({**columns, "seed": MEAN, **_over_seeds(by_seed, AP_NAMES)})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["point", "seed", *AP_NAMES])


def _estimate(
    name: str, value: float, low: float = np.nan, high: float = np.nan, spread: float = np.nan
) -> dict[str, float]:
    return {name: value, f"{name}{LOW}": low, f"{name}{HIGH}": high, f"{name}{SPREAD}": spread}


def _over_seeds(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Mean and standard deviation over the rows of seeds."""
    found: dict[str, float] = {}
    for name in names:
        values = pd.Series([row[name] for row in rows], dtype=float)
        found |= _estimate(name, values.mean(skipna=False), spread=values.std(skipna=False))
    return found


def _ends(frame: pd.DataFrame, metric: str, name: str) -> list[float]:
    """The estimate ``name`` of a metric, and the ends of its interval."""
    row = frame[frame["metric"] == metric]
    return [float(row[f"{name}{end}"].iloc[0]) for end in ("", LOW, HIGH)]


def ordering_table(
    plan: Plan,
    available: Callable[[Point, int], bool],
    difference: Callable[[Point, Point, int], pd.DataFrame],
) -> pd.DataFrame:
    """Return for each pair of the paper's order what our detectors say.

    Args:
        plan: a sweep with a ``paper_order``; points of one tier are not ranked among themselves.
        available: whether a point has been read for a seed.
        difference: rows metric, difference, difference_low, difference_high of two points of a seed (paired over
            images).

    Returns:
        Columns better, worse (labels), seed ("all": over the seeds), difference, difference_low, difference_high,
        difference_sd (over the seeds, of the rows "all") and verdict.
    """
    points = {point.label: point for point in plan.points}
    columns = ["better", "worse", "seed", *_estimate("difference", 0), "verdict"]
    rows: list[dict[str, Any]] = []
    pairs = (
        pair
        for tiers in itertools.combinations(plan.description.paper_order, 2)
        for pair in itertools.product(*tiers)
    )
    for pair in pairs:
        names = dict(zip(("better", "worse"), pair, strict=True))
        better, worse = (points[label] for label in pair)
        by_seed: list[dict[str, Any]] = []
        for seed in plan.seeds:
            if available(better, seed) and available(worse, seed):
                value, low, high = _ends(difference(better, worse, seed), "AP", "difference")
                verdict = HOLDS if low > 0 else REVERSED if high < 0 else UNDECIDED
                estimate = _estimate("difference", value, low, high)
                by_seed.append({**names, "seed": str(seed), **estimate, "verdict": verdict})
        rows += by_seed
        if len(by_seed) > 1:
            estimate = _over_seeds(by_seed, ["difference"])
            verdicts = {row["verdict"] for row in by_seed}
            verdict = verdicts.pop() if len(verdicts) == 1 else UNDECIDED
            rows.append({**names, "seed": ALL_SEEDS, **estimate, "verdict": verdict})
    return pd.DataFrame(rows, columns=columns)


def write_up(
    plan: Plan, table: pd.DataFrame, ordering: pd.DataFrame, images: int, data: str
) -> dict[str, str]:
    """The tables in Markdown and LaTeX, in percent, by file name."""
    description = plan.description
    axes = list(dict.fromkeys(name for point in plan.points for name in point.values))
    settings: dict[str, Any] = {
        "names": {**NAMES, **{name: name.rpartition(".")[2] for name in axes}},
        "digits": 1,
        "scale": 100,
        "formats": FORMATS,
        "note": _note(plan, table, images, data),
    }
    texts = _texts(
        "table",
        description.title,
        _shown_table(table, [name for name in axes if name in table]),
        settings,
        label=f"tab:{description.name}",
        groups=table["point"].tolist(),
        wide=True,
    )
    if len(ordering):
        note = f"{_ordering_summary(plan, table, ordering)} {ORDERING_NOTE}"
        texts |= _texts(
            "ordering",
            f"{description.title}: the paper's order and ours",
            _shown_ordering(plan, ordering),
            {"digits": 1, "scale": 100, "note": note},
            label=f"tab:{description.name}-ordering",
            wide=len(plan.seeds) > 1,
        )
    return texts


def _texts(
    name: str, title: str, cells: pd.DataFrame, settings: Mapping[str, Any], **latex: Any
) -> dict[str, str]:
    """A table in Markdown and in LaTeX, by file name."""
    return {
        f"{name}.md": f"## {title}\n\n{to_markdown(cells, **settings)}",
        f"{name}.tex": to_latex(cells, caption=f"{title}.", **settings, **latex),
    }


def _shown_table(table: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """The columns of the table that are worth reading: those that tell the points apart."""
    columns = list(axes) or ["title"]
    if "reading" not in axes and (table["reading"] != table["head"]).any():
        columns.append("reading")
    estimates = [name for name in map(str, table) if name.partition("_")[0] in AP_NAMES]
    shown = table[[*columns, *FORMATS, "seed", *estimates]]
    return shown.assign(**{name: table[name] / MILLION for name in FORMATS})


def _note(plan: Plan, table: pd.DataFrame, images: int, data: str) -> str:
    """What the numbers are of, and what the intervals do and do not speak of."""
    rows = set(zip(table["point"], table["seed"], strict=True))
    missing = [
        f"{point.label} (seed {seed})"
        for point in plan.points
        for seed in plan.seeds
        if (point.label, str(seed)) not in rows
    ]
    parts = [
        f"AP in percent on {images} images of {data}.",
        "In brackets: 95% interval from a bootstrap over these images, of that one trained detector; it says how far"
        " other images would move the number, and nothing of how far another training would.",
        "Rows 'mean': mean over the seeds ± standard deviation over them, the spread of"
        f" {len(plan.seeds)} trainings."
        if len(plan.seeds) > 1
        else "One training a point: the spread of trainings is not known.",
    ]
    if len({point.training for point in plan.points}) == 1 and len(plan.points) > 1:
        parts.append("All points of a seed are read from one trained detector.")
    if missing:
        parts.append(f"Missing: {', '.join(missing)}.")
    return " ".join(parts)


def _shown_ordering(plan: Plan, ordering: pd.DataFrame) -> pd.DataFrame:
    """The ordering with a row a pair: a column a seed, the mean over seeds, and the verdict."""
    titles = {point.label: point.title for point in plan.points}
    rows = []
    for (better, worse), records in ordering.groupby(["better", "worse"], sort=False):
        row: dict[str, object] = {"better": titles[str(better)], "worse": titles[str(worse)]}
        for record in records.to_dict("records"):
            every = record["seed"] == ALL_SEEDS
            name = "mean" if every else f"seed {record['seed']}"
            ends = ("", SPREAD) if every else ("", LOW, HIGH)
            row |= {f"{name}{end}": record[f"difference{end}"] for end in ends}
        rows.append({**row, "verdict": records["verdict"].iloc[-1]})
    frame = pd.DataFrame(rows)
    # A pair without some seed has its verdict too: the last column.
    return frame[[*(name for name in frame if name != "verdict"), "verdict"]]


def _ordering_summary(plan: Plan, table: pd.DataFrame, ordering: pd.DataFrame) -> str:
    """The two rankings in a sentence each, and how many pairs hold."""
    titles = {point.label: point.title for point in plan.points}
    tiers = (", ".join(titles[label] for label in tier) for tier in plan.description.paper_order)
    numbers = table[table["seed"] != MEAN].groupby("point")["AP"].mean().mul(100)
    ours = " > ".join(
        f"{titles[str(label)]} ({value:.1f})"
        for label, value in numbers.sort_values(ascending=False, kind="stable").items()
    )
    last = ordering.groupby(["better", "worse"], sort=False)["verdict"].last()
    counts = ", ".join(f"{(last == word).sum()} {word}" for word in (HOLDS, REVERSED, UNDECIDED))
    note = f" ({plan.description.paper_note})" if plan.description.paper_note else ""
    return (
        f"The paper: {' > '.join(tiers)}{note}. Ours, by mean AP: {ours}."
        f" Of {len(last)} pairs: {counts}."
    )
