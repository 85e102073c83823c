"""The tables of :mod:`benchmarks.speed` in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.sides import BASELINE
from benchmarks.stages import REST, STAGES, TOTAL
from benchmarks.subjects import pooled_pcc

POOLINGS = {"ours, block by block": BASELINE, "ours, all kept": "baseline, all kept"}
"""Ours, and what it is compared with."""


def whole(found: dict[str, Any]) -> str:
    """The report of all heads."""
    facts = [f"- {name}: {_code(name, text)}" for name, text in found["machine"].items()]
    rates = table(
        ["rate of this machine", "measured"],
        [[name, _round(rate)] for name, rate in found["rates"].items()],
    )
    sections = [head_section(numbers) for numbers in found["heads"]]
    return "\n\n".join(["\n".join(facts), rates, *sections])


def _code(name: str, text: str) -> str:
    return f"`{text}`" if name == "command" else text


def head_section(numbers: dict[str, Any]) -> str:
    """One head: the ratios, its pooling alone, and where the time goes."""
    rows = numbers["objects"]
    names = [name for name in rows[0]["seconds"] if name != BASELINE]
    lines = [_row(BASELINE, numbers, None)] + [_row(name, numbers, name) for name in names]
    comparison = table(
        [
            numbers["head"],
            "proposals",
            "s / object",
            "times faster (range)",
            "bound (s)",
            "share of bound",
            "own products (s)",
            "share",
            "max score diff.",
            "max box diff. (px)",
            "PCC diff.",
            "of one object",
            "peak (MiB)",
        ],
        lines,
    )
    tuned = (
        f"{numbers['head']}: {len(rows)} objects ({_sizes(rows)}); baseline in chunks of {numbers['chunk']} on"
        f" {numbers['threads']} threads{_tried(numbers)}; backbone and FPN"
        f" {_round(_median(rows, lambda row: row['backbone'][BASELINE]))} s an image, ours"
        f" {_round(_median(rows, lambda row: row['backbone']['ours']))} s (times of the objects are without it)."
    )
    return "\n\n".join(
        [f"### {numbers['head']}", tuned, comparison, _pooling(numbers), _stages(rows)]
    )


def _tried(numbers: dict[str, Any]) -> str:
    tried = len(numbers["tuning"])
    return f", the best of {tried} settings" if tried else " as asked for"


def _row(title: str, numbers: dict[str, Any], name: str | None) -> list[str]:
    rows = numbers["objects"]
    peak = numbers.get("peak", {}).get(title)
    cells = [title, f"{rows[0]['proposals']}"] + [""] * 9
    cells.insert(2, _round(_median(rows, lambda row: row["seconds"][title])))
    if name is not None:
        agreement = [row["agreement"][name] for row in rows]
        ratios = [row["seconds"][BASELINE] / row["seconds"][name] for row in rows]
        shares = [row["bounds"][name] / row["seconds"][name] for row in rows]
        own = [row["own bounds"][name] / row["seconds"][name] for row in rows]
        cells = [
            title,
            f"{agreement[0]['proposals']}",
            cells[2],
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
            _round(_median(rows, lambda row: row["bounds"][name])),
            f"{statistics.median(shares):.0%}",
            _round(_median(rows, lambda row: row["own bounds"][name])),
            f"{statistics.median(own):.0%}",
            f"{max(each['score'] for each in agreement):.1e}",
            f"{max(each['box'] for each in agreement):.1e}",
            f"{_pooled_difference(agreement):+.1e}",
            f"{max((each['pcc'] for each in agreement), key=abs):+.1e}",
        ]
    return [*cells, "" if peak is None else f"{peak:.0f}"]


def _pooled_difference(agreement: Sequence[dict[str, Any]]) -> float:
    found, expected = (pooled_pcc(each["moments"][side] for each in agreement) for side in (0, 1))
    return found - expected


def _pooling(numbers: dict[str, Any]) -> str:
    rows = numbers["objects"]
    lines = []
    for row in rows:
        pooling = row["pooling"]
        lines.append(
            [
                f"{row['size']} ({row['object']})",
                _round(pooling[BASELINE]),
                *_pooled(pooling, "ours, block by block"),
                _round(pooling["baseline, all kept"]),
                *_pooled(pooling, "ours, all kept"),
                _round(pooling["bound"]),
                f"{pooling['difference']:.1e}",
            ]
        )
    columns = ["bound (s)", "max rel. diff."]
    for name, other in reversed(POOLINGS.items()):
        columns = [f"{other} (s)", f"{name} (s)", "times faster", "share of bound", *columns]
    return table([f"pooling alone, {numbers['head']}", *columns], lines)


def _pooled(pooling: dict[str, float], name: str) -> list[str]:
    spent = pooling[name]
    share = pooling["bound"] / spent
    return [_round(spent), f"{pooling[POOLINGS[name]] / spent:.2f}", f"{share:.0%}"]


def _stages(rows: Sequence[dict[str, Any]]) -> str:
    rows = [row for row in rows if row["stages"]]
    names = list(rows[0]["stages"])
    columns = [*STAGES, REST, TOTAL]
    lines = []
    for name in names:
        spent = [row["stages"][name] for row in rows]
        lines.append(
            [name]
            + [
                _round(statistics.median(each.get(stage, 0.0) for each in spent))
                if any(stage in each for each in spent)
                else ""
                for stage in columns
            ]
        )
    return table(["where the time goes (s / object)", *columns], lines)


def _sizes(rows: Sequence[dict[str, Any]]) -> str:
    return ", ".join(row["size"] for row in rows)


def _median(rows: Iterable[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(value(row) for row in rows)


def _round(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are flush right."""
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(columns), "| " + " | ".join(rule) + " |", *map(line, rows)])
