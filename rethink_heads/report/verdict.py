"""The answer in sentences: who leads, what average precision is lost to, and what the numbers cannot say.

Every sentence has its numbers with their interval, and the screen of the report that it rests on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from rethink_heads.report.heads import Heads, records, rows_of, select

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
    found = [
        Sentence(_leader(tables, heads, "ap", "metric", "AP", "AP", percent=percent), "compare"),
        *_causes(tables, heads, percent),
        *(
            Sentence(
                _leader(tables, heads, "pcc", "size", size, label, "comparisons", value), "score"
            )
            for size, label, value in (
                ("all", "PCC of score and IoU" + " over all predefined proposals" * percent, "pcc"),
                *[("all", "PCC within each object, mean of objects", "object_pcc")] * percent,
                ("small", "PCC" + " over all proposals" * percent + ", small objects", "pcc"),
            )
        ),
    ]
    return [sentence for sentence in found if sentence.text]


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


def _leader(
    tables: Mapping[str, pd.DataFrame],
    heads: Heads,
    table: str,
    column: str,
    name: str,
    label: str,
    compared: str = "",
    value: str = "",
    percent: bool = False,
) -> str:
    """Who leads in one quantity, by how much; nothing where it was not measured. ``value``: its column."""
    values = tables.get(table, pd.DataFrame())
    if values.empty:
        return ""
    value = value or "value"
    if value not in values:
        return ""
    pairs = tables.get(compared or f"{table}_comparisons", pd.DataFrame())
    if "iou_low" in values:
        values = values[values["iou_low"] == 0]
        pairs = pairs[pairs["iou_low"] == 0] if len(pairs) else pairs
    pairs = select(
        select(pairs, statistic=value) if "statistic" in pairs else pairs, **{column: name}
    )
    scale, digits, label = (100.0, 1, f"{label}, %") if percent else (1.0, 3, label)
    rows = select(values, **{column: name})
    return heads.leader(rows, pairs, value, label, scale=scale, digits=digits)


def _causes(tables: Mapping[str, pd.DataFrame], heads: Heads, with_oracles: bool) -> list[Sentence]:
    """Each head's largest causes of lost average precision whose interval excludes zero."""
    lost = tables.get("lost_precision", pd.DataFrame())
    found = []
    for key, name in heads.names.items() if len(lost) else ():
        rows = [row for row in records(rows_of(lost, key)) if row["share_low"] > 0]
        # Shares add up to what AP lacks.
        ap = 1 - rows_of(lost, key)["share"].sum()
        rows.sort(key=lambda row: -row["share"])
        texts = [
            f"{_points(row, 'share')} to {CAUSE_SENTENCES[row['cause']]}"
            + f" (fixing it alone would add {100 * (row['oracle'] - ap):.1f})" * with_oracles
            for row in rows[:MOST_CAUSES]
        ]
        if texts:
            found.append(Sentence(f"{name} loses {'; '.join(texts)}.", "lost"))
    return found


def _some(texts: Sequence[str], most: int = 3) -> str:
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and of {more} more classes" if more > 0 else "")


def _points(row: Mapping[str, float], column: str) -> str:
    value, low, high = (100 * row[f"{column}{end}"] for end in ("", "_low", "_high"))
    ends = f" [{low:.1f}, {high:.1f}]" if math.isfinite(low) else ""
    return f"{value:.1f}{ends} points of AP"
