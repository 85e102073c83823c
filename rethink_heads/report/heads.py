"""Heads side by side: those with the same numbers named together, who leads, how pairs differ; and this in sentences.

Every sentence has its numbers with their interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from rethink_heads.bounds import FILE_HEAD
from rethink_heads.report.cells import LABELS, NO_INTERVAL, UNDEFINED, estimate, text_cells

if TYPE_CHECKING:
    from rethink_heads.measure.store import Key

Row = dict[str, Any]

MOST_DIFFERENCES = 10
MOST_PAIRS_IN_COLUMNS = 3
DESCRIPTION = (
    *("kind", "quantity", "level", "stage", "size", "proposal IoU", "distance"),
    *("heads", "difference", "excludes_zero", "objects"),
)
CAUSE_SENTENCES: Mapping[str, str] = {
    "ranking": "ranking: false positives and worse boxes have higher scores than better ones",
    "localization": "localization: the object has a detection of its class that overlaps it too little",
    "classification": "classification: the object's box is there with another class",
    "duplicates": "duplicates: further detections of an object that has one",
    "background": "background: detections that no object is near",
    "misses": "misses: objects that no detection stands for",
}
"""What each cause of lost average precision is, in half a sentence."""
MOST_CAUSES = 3
FEW_IMAGES, FEW_OBJECTS, FEW_OF_CLASS = 50, 30, 5
SIZES = "Size: area of the object's box; small below 32 x 32 px, large from 96 x 96 px."


class Heads:
    """The heads of a report, of those with the same numbers one for all.

    Heads of a detector that share a classifier have the same scores, those that share a regressor the same boxes. They
    are found by their rows, which are equal.

    Args:
        keys: (detector, head), in the order in which they are shown.
        frames: results with columns "detector" and "head" that tell the heads apart; none: all differ.
    """

    def __init__(self, keys: Sequence[Key], *frames: pd.DataFrame) -> None:
        groups: dict[Key, list[Key]] = {}
        rows_by_key = {key: [rows_of(frame, key) for frame in frames] for key in keys}
        for key in keys:
            same = (
                first
                for first in groups
                if frames
                and first[0] == key[0]
                and all(
                    a.equals(b) for a, b in zip(rows_by_key[first], rows_by_key[key], strict=True)
                )
            )
            groups.setdefault(next(same, key), []).append(key)
        several = len({detector for detector, _ in keys}) > 1
        # A file has one head, which has no name of its own.
        self.names = {
            first: first[0]
            if first[1] == FILE_HEAD
            else (f"{first[0]}/" if several else "") + ", ".join(head for _, head in group)
            for first, group in groups.items()
        }
        self._first = {"/".join(key): first for first, group in groups.items() for key in group}

    def share(self, what: str) -> list[str]:
        """The line that says why heads are named together, where any are."""
        together = len(self.names) < len(self._first)
        return [
            f"Heads named together have the same {what}, so their numbers are the same."
        ] * together

    def rows(self, frame: pd.DataFrame, columns: Sequence[str], **settings: Any) -> pd.DataFrame:
        """Cells of some columns, the head's name before them; settings as of ``text_cells``."""
        shown = [rows_of(frame, key).assign(head=name) for key, name in self.names.items()]
        if not shown:
            return pd.DataFrame()
        cells = text_cells(pd.concat(shown), without=NO_INTERVAL, **settings)
        return cells[["head", *columns]]

    def columns(
        self,
        frame: pd.DataFrame,
        index: Sequence[str],
        cell: str | Callable[[Row], str],
        comparisons: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Cells with a row for each value of the index columns, a column for each head and, of few pairs, for each.
        ``cell``: of a row, or the column of an estimate.
        """
        keys = frame[list(index)].drop_duplicates()
        table = text_cells(keys)

        def add(name: str, rows: pd.DataFrame, cell: str | Callable[[Row], str]) -> None:
            write = cell if callable(cell) else partial(interval, column=cell)
            texts = dict(zip(_keys(rows, index), map(write, records(rows)), strict=True))
            table[name] = [texts.get(key, UNDEFINED) for key in _keys(keys, index)]

        for key, name in self.names.items():
            add(name, rows_of(frame, key), cell)
        if comparisons is not None:
            pairs = list(self.pairs(comparisons).groupby("heads", sort=False))
            for both, rows in pairs if len(pairs) <= MOST_PAIRS_IN_COLUMNS else ():
                add(str(both), rows, "difference")
        return table

    def pairs(self, comparisons: pd.DataFrame) -> pd.DataFrame:
        """The comparisons of heads that differ, those of the same pair once, its names in a column "heads"."""
        kept, heads = [], []
        chosen: dict[frozenset[Any], tuple[str, str]] = {}
        for a, b in zip(*(comparisons.get(end, ()) for end in "ab"), strict=True):
            pair = [self._first.get(end, end) for end in (a, b)]
            first = chosen.setdefault(frozenset(pair), (a, b))
            kept.append(pair[0] != pair[1] and first == (a, b))
            heads.append(" - ".join(str(self.names.get(end, end)) for end in pair))
        return comparisons.assign(heads=heads)[kept] if kept else comparisons.assign(heads=heads)

    def leader(
        self,
        values: pd.DataFrame,
        comparisons: pd.DataFrame | None,
        column: str,
        label: str = "",
        lowest: bool = False,
        scale: float = 1.0,
        digits: int = 3,
        **equal: Any,
    ) -> str:
        """Say which head leads, with what, and by how much before the next.

        Args:
            values: with the estimate in ``column``.
            comparisons: of pairs; None: of none.
            label: of the quantity; the column's by default.
            lowest: whether the lowest leads.
            scale, digits: by which numbers are multiplied, and their decimals.
            equal: which rows of both frames are of that quantity, one for each head and pair: see :func:`select`.
        """
        label = label or LABELS.get(column, column)
        values, pairs = (
            select(each, **{name: equal[name] for name in equal if name in each})
            for each in (values, pd.DataFrame() if comparisons is None else comparisons)
        )
        found = [
            (row[column], key, f"{name} {interval(row, column, scale=scale, digits=digits)}")
            for key, name in self.names.items()
            for row in records(rows_of(values, key))
            if math.isfinite(row[column])
        ]
        found.sort(key=lambda each: each[0], reverse=not lowest)
        if not found:
            return f"{label}: undefined."
        _, first, best = found[0]
        if len(found) == 1:
            return f"{label}: {best}."
        compared = {}
        for row in records(pairs):
            a, b = (self._first.get(row[end]) for end in "ab")
            if a == first != b:
                compared[b] = 1, row
            elif b == first != a:
                compared[a] = -1, row
        # The best that it is compared with, which need not be the next.
        place = next((n for n, (_, key, _) in enumerate(found) if key in compared), 0)
        if not place:
            return f"{label}: {best}, then {found[1][2]}; not compared."
        _, second, runner_up = found[place]
        sign, row = compared[second]
        low, high = sorted(scale * sign * row[f"difference_{end}"] for end in ("low", "high"))
        value = scale * sign * row["difference"]
        difference = estimate(value, low, high, digits=digits, without=NO_INTERVAL)
        said = f"{self.names[first]} - {self.names[second]} {difference}"
        if between := [text for _, _, text in found[1:place]]:
            said += f"; not compared with it: {', '.join(between)}"
        if row["excludes_zero"]:
            return f"{label}: {best} is ahead of {runner_up}; {said}."
        return f"{label}: no clear leader, {best}, {runner_up}; {said}."

    def differences(
        self, *comparisons: pd.DataFrame, full: bool = False, most: int = MOST_DIFFERENCES
    ) -> tuple[pd.DataFrame, list[str]]:
        """Cells of the differences of pairs, and what is said under them.

        Without ``full`` those over all sizes; of more than ``most`` those that exclude zero.
        """
        frames = [self.pairs(each) for each in comparisons if len(each)]
        if not full:
            frames = [each[each["size"] == "all"] if "size" in each else each for each in frames]
        frames = [_described(each) for each in frames if len(each)]
        if not frames:
            return pd.DataFrame(), []
        found = pd.concat(frames, ignore_index=True).fillna("")
        found = found[[name for name in DESCRIPTION if name in found and (full or name != "size")]]
        if full or len(found) <= most:
            return found, []
        decided = found[found["excludes_zero"] == "yes"]
        said = f"Of {len(found)} differences {len(decided)} exclude zero"
        if len(decided) > most:
            said += f", of which these are the first {most}"
        return decided.head(most), [f"{said}; --full prints all."]


@dataclass(frozen=True)
class Sentence:
    """A sentence with the screen of the report that shows what it rests on, and the settings of that screen."""

    text: str
    screen: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def verdict(
    tables: Mapping[str, pd.DataFrame], heads: Heads, percent: bool = False
) -> list[Sentence]:
    """The sentences that the tables allow: average precision first, then its causes, then ranking and boxes.

    Args:
        tables: frames by the names of their CSV files.
        percent: as the report's page has it: AP in per cent, beside each share what fixing its cause alone adds, and
            PCC within each object beside that of all proposals, which it may contradict.
    """
    found = []
    if len(tables.get("ap", ())):
        label, scale, digits = ("AP, %", 100.0, 1) if percent else ("AP", 1.0, 3)
        pairs = tables.get("ap_comparisons")
        text = heads.leader(
            tables["ap"], pairs, "value", label, scale=scale, digits=digits, metric="AP"
        )
        found.append(Sentence(text, "compare"))
    found += _causes(tables.get("lost_precision", pd.DataFrame()), heads, percent)
    correlations, pairs = tables.get("pcc", pd.DataFrame()), tables.get("comparisons")
    for size, statistic, label in (
        ("all", "pcc", "PCC of score and IoU" + " over all predefined proposals" * percent),
        *[("all", "object_pcc", "PCC within each object, mean of objects")] * percent,
        ("small", "pcc", "PCC" + " over all proposals" * percent + ", small objects"),
    ):
        if statistic in correlations:
            rows: Row = {"size": size, "statistic": statistic, "iou_low": 0}
            text = heads.leader(correlations, pairs, statistic, label, **rows)
            found.append(Sentence(text, "score"))
    return found


def _causes(lost: pd.DataFrame, heads: Heads, with_oracles: bool) -> list[Sentence]:
    """Each head's largest causes of lost average precision whose interval excludes zero."""
    found = []
    for key, name in heads.names.items() if len(lost) else ():
        rows = [row for row in records(rows_of(lost, key)) if row["share_low"] > 0]
        # Shares add up to what AP lacks.
        ap = 1 - rows_of(lost, key)["share"].sum()
        rows.sort(key=lambda row: -row["share"])
        texts = [
            f"{interval(row, 'share', scale=100, digits=1)} points of AP to {CAUSE_SENTENCES[row['cause']]}"
            + f" (fixing it alone would add {100 * (row['oracle'] - ap):.1f})" * with_oracles
            for row in rows[:MOST_CAUSES]
        ]
        if texts:
            found.append(Sentence(f"{name} loses {'; '.join(texts)}.", "lost"))
    return found


def warnings(images: int, sizes: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """What a reader should know before believing a number.

    Args:
        sizes: of each object, "small", "medium" or "large"; class_names: and its class.
    """
    found = []
    if images < FEW_IMAGES:
        found.append(
            f"Only {images} images: intervals are wide, and those of single classes may be missing."
        )
    for size, count in Counter(sizes).items():
        if count < FEW_OBJECTS:
            found.append(f"Only {count} {size} objects: what is said of them is uncertain.")
    pairs = Counter(zip(sizes, class_names, strict=True))
    for size in ("small", "medium", "large"):
        counts = {name: count for (each, name), count in pairs.items() if each == size}
        few = [f"{count} of {name}" for name, count in counts.items() if count < FEW_OF_CLASS]
        if few and len(counts) > 1:
            found.append(
                f"AP of {size} objects is a mean over classes, of which some have few: {_some(few)}. Each counts as"
                f" much as one of {max(counts.values()):,} objects."
            )
    found.append(
        "Intervals are over the choice of images. They do not say what another training of the same detector"
        " would give."
    )
    return found


def _some(texts: Sequence[str], most: int = 3) -> str:
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and of {more} more classes" if more > 0 else "")


def interval(row: Row, column: str, spread: str = "", scale: float = 1.0, digits: int = 3) -> str:
    """The cell of an estimate in a row, with the column of its standard deviation where one is named."""
    value, low, high = (scale * row[f"{column}{end}"] for end in ("", "_low", "_high"))
    deviation = scale * row[spread] if spread else math.nan
    return estimate(value, low, high, deviation, digits, NO_INTERVAL)


def with_count(column: str) -> Callable[[Row], str]:
    """What writes the cell of an estimate in a row, and how many things it is of."""
    return lambda row: f"{interval(row, column)} ({row['count']})"


def widen(frame: pd.DataFrame, names: str, value: str) -> pd.DataFrame:
    """A row for each head and size: the estimates that are in rows, named in a column, in columns of their own."""
    rows: dict[tuple[Any, ...], Row] = {}
    keys = [name for name in ("detector", "head", "size") if name in frame]
    for row in records(frame):
        # Other columns, as the number of images, are those of the first row.
        wide = rows.setdefault(tuple(row[key] for key in keys), dict(row))
        wide |= {f"{row[names]}{end}": row[f"{value}{end}"] for end in ("", "_low", "_high")}
    return pd.DataFrame(list(rows.values()))


def select(frame: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """The rows of a frame, which may be empty, whose columns equal the values given."""
    for name, value in equal.items() if len(frame) else ():
        frame = frame[frame[name] == value]
    return frame


def rows_of(frame: pd.DataFrame, key: Key) -> pd.DataFrame:
    """The rows of a (detector, head), without these columns."""
    rows = frame[(frame["detector"] == key[0]) & (frame["head"] == key[1])]
    return rows.drop(columns=["detector", "head"]).reset_index(drop=True)


def name_bins(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with each IoU bin as text, in a column "proposal IoU"."""
    if frame.empty:
        return frame
    ends = zip(frame["iou_low"], frame["iou_high"], strict=True)
    return frame.assign(**{"proposal IoU": [f"{low:.2f} - {high:.2f}" for low, high in ends]})


def _described(pairs: pd.DataFrame) -> pd.DataFrame:
    """Comparisons as cells, with what each is of in the first columns."""
    cells = {}
    for name in ("statistic", "metric", "error", "quantity", "kind", "level", "stage", "size"):
        if name in pairs:
            first = "quantity" if name in ("statistic", "metric", "error") else name
            cells[first] = [LABELS.get(value, value) for value in pairs[name]]
    if "bin" in pairs:
        cells["proposal IoU"] = name_bins(pairs)["proposal IoU"].tolist()
    if "distance" in pairs:
        cells["distance"] = [f"{value:.2f}" for value in pairs["distance"]]
    cells["heads"] = pairs["heads"].tolist()
    cells["difference"] = [interval(row, "difference") for row in records(pairs)]
    cells["excludes_zero"] = [
        UNDEFINED if math.isnan(row["difference_low"]) else "yes" if row["excludes_zero"] else "no"
        for row in records(pairs)
    ]
    if "objects" in pairs:
        cells["objects"] = [str(count) for count in pairs["objects"]]
    return pd.DataFrame(cells)


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _keys(frame: pd.DataFrame, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(frame[list(columns)].itertuples(index=False, name=None))
