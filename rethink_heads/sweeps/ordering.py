"""A published ranking of points set beside ours: which of its pairs hold, are reversed or are undecided."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from rethink_heads.report.cells import to_latex, to_markdown
from rethink_heads.sweeps.plan import Plan, Point

METRIC = "AP"
HOLDS, REVERSED, UNDECIDED = "holds", "reversed", "undecided"
ALL_SEEDS = "all"
NOTE = (
    "A number is the difference of AP in percent, better less worse by the paper's order, on the same images and draws"
    " (95% interval of a paired bootstrap over images). holds: the interval lies above zero; reversed: below zero;"
    " undecided: across it. With several seeds: mean ± standard deviation over them, and holds or reversed only where"
    " every seed says so."
)


def paper_pairs(order: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """The pairs (better, worse) of a ranking in tiers, best first; those of one tier are not ranked."""
    return [
        (better, worse)
        for upper, lower in itertools.combinations(order, 2)
        for better, worse in itertools.product(upper, lower)
    ]


def ordering_table(
    plan: Plan,
    available: Callable[[Point, int], bool],
    difference: Callable[[Point, Point, int], pd.DataFrame],
) -> pd.DataFrame:
    """Return for each pair of the paper's order what our detectors say.

    Args:
        plan: a sweep with a ``paper_order``.
        available: whether a point has been read for a seed.
        difference: rows metric, difference, difference_low, difference_high of two points of a seed (paired over
            images).

    Returns:
        Columns better, worse (labels), seed ("all": over the seeds), difference, difference_low, difference_high,
        difference_sd (over the seeds, of the rows "all") and verdict.
    """
    points = {point.label: point for point in plan.points}
    rows = []
    for better, worse in paper_pairs(plan.description.paper_order):
        sides = points[better], points[worse]
        of_pair = []
        for seed in plan.seeds:
            if all(available(point, seed) for point in sides):
                found = _of_metric(difference(*sides, seed))
                low, high = found["difference_low"], found["difference_high"]
                of_pair.append(
                    {
                        "better": better,
                        "worse": worse,
                        "seed": str(seed),
                        "difference": found["difference"],
                        "difference_low": low,
                        "difference_high": high,
                        "difference_sd": np.nan,
                        "verdict": verdict(low, high),
                    }
                )
        rows += of_pair
        if len(of_pair) > 1:
            rows.append(_over_seeds(of_pair))
    columns = ["better", "worse", "seed", "difference", "difference_low", "difference_high"]
    return pd.DataFrame(rows, columns=[*columns, "difference_sd", "verdict"])


def verdict(low: float, high: float) -> str:
    """What the interval of a difference says of the paper's order."""
    if low > 0:
        return HOLDS
    return REVERSED if high < 0 else UNDECIDED


def summary(plan: Plan, table: pd.DataFrame, ordering: pd.DataFrame) -> str:
    """The two rankings in a sentence each, and how many pairs hold."""
    titles = {point.label: point.title for point in plan.points}
    tiers = (", ".join(titles[label] for label in tier) for tier in plan.description.paper_order)
    numbers = table[table["seed"] != "mean"].groupby("point")[METRIC].mean().mul(100)
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


def markdown(plan: Plan, table: pd.DataFrame, ordering: pd.DataFrame) -> str:
    """The ordering in Markdown."""
    text = f"{summary(plan, table, ordering)} {NOTE}"
    body = to_markdown(shown_ordering(plan, ordering), digits=1, scale=100, note=text)
    return f"## {plan.description.title}: the paper's order and ours\n\n{body}"


def latex(plan: Plan, table: pd.DataFrame, ordering: pd.DataFrame) -> str:
    """The ordering in LaTeX."""
    return to_latex(
        shown_ordering(plan, ordering),
        digits=1,
        scale=100,
        note=f"{summary(plan, table, ordering)} {NOTE}",
        caption=f"{plan.description.title}: the paper's order and ours.",
        label=f"tab:{plan.description.name}-ordering",
        wide=len(plan.seeds) > 1,
    )


def _of_metric(differences: pd.DataFrame) -> dict[str, float]:
    (row,) = differences[differences["metric"] == METRIC].to_dict("records")
    return {name: float(row[name]) for name in ("difference", "difference_low", "difference_high")}


def shown_ordering(plan: Plan, ordering: pd.DataFrame) -> pd.DataFrame:
    """The ordering with a row a pair: a column a seed, the mean over seeds, and the verdict."""
    titles = {point.label: point.title for point in plan.points}
    rows = []
    for (better, worse), of_pair in ordering.groupby(["better", "worse"], sort=False):
        row: dict[str, object] = {"better": titles[str(better)], "worse": titles[str(worse)]}
        for record in of_pair.to_dict("records"):
            every = record["seed"] == ALL_SEEDS
            name = "mean" if every else f"seed {record['seed']}"
            ends = ("_sd",) if every else ("_low", "_high")
            row[name] = record["difference"]
            row |= {f"{name}{end}": record[f"difference{end}"] for end in ends}
        rows.append({**row, "verdict": of_pair["verdict"].iloc[-1]})
    frame = pd.DataFrame(rows)
    # A pair without some seed has its verdict too: the last column.
    return frame[[*(name for name in frame if name != "verdict"), "verdict"]]


def _over_seeds(rows: list[dict[str, object]]) -> dict[str, object]:
    differences = np.array([row["difference"] for row in rows], float)
    verdicts = {row["verdict"] for row in rows}
    return {
        **rows[0],
        "seed": ALL_SEEDS,
        "difference": float(differences.mean()),
        "difference_low": np.nan,
        "difference_high": np.nan,
        "difference_sd": float(differences.std(ddof=1)),
        "verdict": verdicts.pop() if len(verdicts) == 1 else UNDECIDED,
    }
