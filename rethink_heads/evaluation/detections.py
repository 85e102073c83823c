"""One head's named quantities of its detections, resampled: the rows of tables and of comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    """N named quantities of one head.

    Attributes:
        resampled: (N,) of all images and of each replicate.
        keys: columns (N,) that name them, in tables and in comparisons.
        value: the column that has the estimates.
        rest: further columns of the table.
        curves: columns of further tables, by their name.
    """

    resampled: Resampled
    keys: Mapping[str, Any]
    value: str
    rest: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def rows(self, key: Key) -> pd.DataFrame:
        """A row a quantity: "detector", "head", its names, the estimate with its ends, and the rest."""
        estimate = self.resampled.estimate().columns(self.value)
        return _named(key, {**self.keys, **estimate, **self.rest})

    def curve(self, name: str, key: Key) -> pd.DataFrame:
        """A further table, with "detector" and "head"."""
        return _named(key, self.curves[name])

    def less(self, other: Quantities, a: Key, b: Key) -> pd.DataFrame:
        """A row a quantity: its names, "a", "b", and the columns of :func:`~.bootstrap.difference_columns`."""
        names = {**self.keys, "a": "/".join(a), "b": "/".join(b)}
        return pd.DataFrame({**names, **difference_columns(self.resampled, other.resampled)})


def _named(key: Key, columns: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame({"detector": key[0], "head": key[1], **columns})


Measure = Callable[[HeadDetections, GroundTruth, ImageBootstrap], Quantities]
TABLE_ARGUMENTS = """

    Of several heads: of each that found anything, in their order in the detections, with "detector" and "head" first.

    Args:
        detections: in the columns of :mod:`rethink_heads.measure.detections`, of any detectors and heads.
        dataset: what was detected on. Boxes that it leaves out as degenerate or outside are not missed.
        replicates, seed: of the bootstrap over the dataset's images.
        options: of the measure: those named above beside the head, the objects and the bootstrap.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
"""
COMPARISON_ARGUMENTS = """

    Of two heads, a and b, and their difference a - b, on the same draws of images.

    Args:
        detections, dataset, replicates, seed, options: as of ``average_precision.precision_table``.
        a, b: (detector, head).

    Returns:
        A row a quantity: its name, "a", "b" (as "detector/head"), "value_a", "value_b", "difference" (a - b),
        "difference_low", "difference_high" and "excludes_zero".

    Raises:
        UserError: no detections of a head, or detections in other images or of other classes than the dataset's.
"""


def head_table(measure: Callable[..., Quantities], curve: str = "") -> Callable[..., pd.DataFrame]:
    """The public function that makes a measure's table of all heads, or that of its curve of that name."""

    def table(
        detections: pd.DataFrame,
        dataset: CocoDataset,
        *,
        replicates: int = REPLICATES,
        seed: int = 0,
        **options: Any,
    ) -> pd.DataFrame:
        truth = GroundTruth(dataset, detections)
        bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
        frames = []
        for key in keys_of(detections):
            found = measure(truth.detections_of(detections, key), truth, bootstrap, **options)
            frames.append(found.curve(curve, key) if curve else found.rows(key))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    table.__doc__ = f"{measure.__doc__}{TABLE_ARGUMENTS}"
    return table


def head_comparison(measure: Callable[..., Quantities]) -> Callable[..., pd.DataFrame]:
    """The public function that compares two heads by a measure, on the same draws of images."""

    def compare(
        detections: pd.DataFrame,
        dataset: CocoDataset,
        a: Key,
        b: Key,
        *,
        replicates: int = REPLICATES,
        seed: int = 0,
        **options: Any,
    ) -> pd.DataFrame:
        truth = GroundTruth(dataset, detections)
        bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
        heads = [truth.detections_of(detections, key, needed=True) for key in (a, b)]
        first, second = (measure(head, truth, bootstrap, **options) for head in heads)
        return first.less(second, a, b)

    compare.__doc__ = f"{measure.__doc__}{COMPARISON_ARGUMENTS}"
    return compare


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

    A head that found nothing at all has an average precision of 0.

    Returns:
        What :func:`tables_of` gives of the measures.

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    truth = GroundTruth(dataset, detections)
    bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
    heads = {key: truth.detections_of(detections, key) for key in keys}
    # Head by head, since measures of one share an analysis.
    found = {
        key: {name: measure(head, truth, bootstrap) for name, measure in measures.items()}
        for key, head in heads.items()
    }
    return tables_of(found, pairs)


def tables_of(
    found: Mapping[Key, Mapping[str, Quantities]], pairs: Iterable[tuple[Key, Key]]
) -> dict[str, pd.DataFrame]:
    """Quantities of heads by their names as tables: of each name, and of each of its curves, the rows of all heads.

    The differences of the pairs are by name with "_comparisons".
    """
    rows: dict[str, list[pd.DataFrame]] = {}
    for key, own in found.items():
        for name, quantities in own.items():
            rows.setdefault(name, []).append(quantities.rows(key))
            for curve in quantities.curves:
                rows.setdefault(curve, []).append(quantities.curve(curve, key))
    for a, b in pairs:
        for name, quantities in found[a].items():
            differences = quantities.less(found[b][name], a, b)
            rows.setdefault(f"{name}_comparisons", []).append(differences)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in rows.items()}


def keys_of(detections: pd.DataFrame) -> list[Key]:
    """(detector, head) of all that found anything, in the order of the rows."""
    found = detections[["detector", "head"]].drop_duplicates()
    return [(str(detector), str(head)) for detector, head in found.to_numpy()]
