"""Reads what ``--json`` prints."""

from __future__ import annotations

from typing import Any


def rows(result: dict[str, Any], table: str, **equal: object) -> list[dict[str, Any]]:
    """The rows of a table whose columns equal the values given."""
    found = result["tables"][table]
    return [row for row in found if all(row[name] == value for name, value in equal.items())]


def heads(result: dict[str, Any], table: str) -> list[tuple[str, str]]:
    """(detector, head) of a table's rows, each once."""
    return list(dict.fromkeys((row["detector"], row["head"]) for row in rows(result, table)))


def all_sizes(result: dict[str, Any]) -> dict[str, Any]:
    """The correlations of the only head over all sizes."""
    (row,) = rows(result, "correlations", size="all")
    return row
