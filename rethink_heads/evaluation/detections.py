"""One head's named quantities of its detections, resampled: the rows of tables and of comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.matching import GroundTruth, HeadDetections
from rethink_heads.measure.store import Key
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    ImageBootstrap,
    Resampled,
    difference_columns,
)


@dataclass(frozen=True)
class Quantities:
    """Named quantities of one head.

    Attributes:
        resampled: of all images and of each replicate.
        column: that has the names.
        names: of the quantities.
        value: the column that has the estimates.
        rest: further columns of the table.
        curves: columns of further tables, by their name.
        keys: further columns of the names, of comparisons, too.
    """

    resampled: Resampled
    column: str
    names: Sequence[str | int]
    value: str
    rest: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keys: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def rows(self, key: Key) -> pd.DataFrame:
        """A row a quantity: "detector", "head", the name, the estimate with its ends, and the rest."""
        names = {"detector": key[0], "head": key[1], self.column: list(self.names), **self.keys}
        estimate = self.resampled.estimate().columns(self.value)
        return pd.DataFrame({**names, **estimate, **self.rest})

    def curve(self, name: str, key: Key) -> pd.DataFrame:
        """A further table, with "detector" and "head"."""
        return pd.DataFrame({"detector": key[0], "head": key[1], **self.curves[name]})

    def less(self, other: Quantities, a: Key, b: Key) -> pd.DataFrame:
        """A row a quantity: the name, "a", "b", and the columns of :func:`~.bootstrap.difference_columns`."""
        names = {self.column: list(self.names), **self.keys, "a": "/".join(a), "b": "/".join(b)}
        return pd.DataFrame({**names, **difference_columns(self.resampled, other.resampled)})


Measure = Callable[[HeadDetections, GroundTruth, ImageBootstrap], Quantities]


def head_table(
    measure: Measure,
    detections: pd.DataFrame,
    dataset: CocoDataset,
    replicates: int,
    seed: int,
    curve: str = "",
) -> pd.DataFrame:
    """Rows of each head that found anything, in their order in the detections; or its curve of that name.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    truth = GroundTruth(dataset, detections)
    bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
    frames = []
    for key in keys_of(detections):
        found = measure(truth.detections_of(detections, key), truth, bootstrap)
        frames.append(found.curve(curve, key) if curve else found.rows(key))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@dataclass(frozen=True)
class HeadComparison:
    """The comparison of two heads by one measure, on the same draws of images.

    Attributes:
        measure: what is compared.
    """

    measure: Callable[..., Quantities]

    def __call__(
        self,
        detections: pd.DataFrame,
        dataset: CocoDataset,
        a: Key,
        b: Key,
        *,
        replicates: int = REPLICATES,
        seed: int = 0,
        **options: Any,
    ) -> pd.DataFrame:
        """Compare two heads.

        Args:
            detections, dataset, replicates, seed: as of ``average_precision.precision_table``.
            a, b: (detector, head).
            options: of the measure, such as ``iou_threshold``.

        Returns:
            A row a quantity: its name, "a", "b" (as "detector/head"), "value_a", "value_b", "difference" (a - b),
            "difference_low", "difference_high" and "excludes_zero".

        Raises:
            UserError: no detections of a head, or detections in other images or of other classes than the dataset's.
        """
        truth = GroundTruth(dataset, detections)
        bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
        heads = [truth.detections_of(detections, key, needed=True) for key in (a, b)]
        first, second = (self.measure(head, truth, bootstrap, **options) for head in heads)
        return first.less(second, a, b)


def detection_tables(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    keys: Iterable[Key],
    measures: Mapping[str, Measure],
    pairs: Iterable[tuple[Key, Key]],
    replicates: int,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """The tables of several heads, each head resampled once for its rows and for all its comparisons.

    Returns:
        By the measures' names the rows of all heads, and those of their curves; and by name with "_comparisons" the
        differences of the pairs.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    truth = GroundTruth(dataset, detections)
    bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
    rows: dict[str, list[pd.DataFrame]] = {}
    found: dict[tuple[str, Key], Quantities] = {}
    for key in keys:
        # A head that found nothing at all has no rows; its precision is 0.
        head = truth.detections_of(detections, key)
        for name, measure in measures.items():
            quantities = found[name, key] = measure(head, truth, bootstrap)
            rows.setdefault(name, []).append(quantities.rows(key))
            for curve in quantities.curves:
                rows.setdefault(curve, []).append(quantities.curve(curve, key))
    for a, b in pairs:
        for name in measures:
            differences = found[name, a].less(found[name, b], a, b)
            rows.setdefault(f"{name}_comparisons", []).append(differences)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in rows.items()}


def keys_of(detections: pd.DataFrame) -> list[Key]:
    """(detector, head) of all that found anything, in the order of the rows."""
    found = detections[["detector", "head"]].drop_duplicates()
    return [(str(detector), str(head)) for detector, head in found.to_numpy()]
