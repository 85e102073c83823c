"""One head's named quantities of its detections, resampled: the rows of tables and of comparisons."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.matching import GroundTruth, HeadDetections
from rethink_heads.machine import at_once
from rethink_heads.measure.store import Key
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    BootstrapEstimate,
    ImageBootstrap,
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

    resampled: BootstrapEstimate
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
_DATA = """\
    detections: in the columns of :mod:`rethink_heads.measure.detections`, of any detectors and heads.
    dataset: what was detected on. Boxes that it leaves out as degenerate or outside are not missed.
"""
_BOOTSTRAP = """\
    replicates, seed: of the bootstrap over the dataset's images.
"""
_TABLE_ARGUMENTS = """\
    Of each head that found anything, in their order in the detections, with "detector" and "head" first.
"""
_COMPARISON_ARGUMENTS = """\
    The columns that name what is compared, "a", "b" (as "detector/head"), "value_a", "value_b", "difference" (a - b),
    "difference_low", "difference_high" and "excludes_zero", on the same draws of images.
"""
_COMPARED = "Compared"
_RAISES = """\
    UserError: {}detections in other images or of other classes than the dataset's.
"""


def head_table(
    name: str, measure: Callable[..., Quantities], curve: str = ""
) -> Callable[..., pd.DataFrame]:
    """The public function of that name, which makes a measure's table of all heads, or that of one of its curves."""

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

    _describe(table, name, measure, curve, _DATA, _TABLE_ARGUMENTS, _RAISES.format(""))
    return table


def head_comparison(name: str, measure: Callable[..., Quantities]) -> Callable[..., pd.DataFrame]:
    """The public function of that name, which compares two heads by a measure, on the same draws of images."""

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

    arguments = f"{_DATA}    a, b: (detector, head).\n"
    raises = _RAISES.format("no detections of a head, or ")
    _describe(compare, name, measure, _COMPARED, arguments, _COMPARISON_ARGUMENTS, raises)
    return compare


def _describe(
    function: Callable[..., pd.DataFrame],
    name: str,
    measure: Callable[..., Quantities],
    part: str,
    arguments: str,
    returns: str,
    raises: str,
) -> None:
    """Give what is made of a measure its name, its signature with the measure's options, and a docstring of both.

    Of what the measure returns it says the paragraphs of its own part: of a curve the one that begins with its name,
    of a comparison the one that begins with "Compared", of a table those without such a word.
    """
    text, _, rows = inspect.cleandoc(measure.__doc__ or "").partition("Returns:\n")
    text, _, options = text.partition("Args:\n")
    arguments = f"Args:\n{arguments}{_BOOTSTRAP}{options}"
    described = [each for each in rows.split("\n\n") if _part_of(each) == part]
    parts = (text, arguments, f"Returns:\n{returns}", *described, f"Raises:\n{raises}")
    function.__doc__ = "\n\n".join(part.rstrip() for part in parts)
    function.__name__ = function.__qualname__ = name
    function.__module__ = measure.__module__
    own, measure_parameters = inspect.signature(function), inspect.signature(measure).parameters
    parameters = [each for each in own.parameters.values() if each.kind != each.VAR_KEYWORD]
    parameters += [
        each.replace(kind=each.KEYWORD_ONLY) for each in list(measure_parameters.values())[3:]
    ]
    setattr(function, "__signature__", own.replace(parameters=parameters))  # noqa: B010


def _part_of(paragraph: str) -> str:
    """The word before a paragraph's first colon, "" where it does not begin so."""
    found = re.match(r'\s*"?(\w+)"?: ', paragraph)
    return found[1] if found else ""


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

    def measured(head: HeadDetections) -> dict[str, Quantities]:
        return {name: measure(head, truth, bootstrap) for name, measure in measures.items()}

    # Head by head, since measures of one share an analysis.
    found = at_once(*(partial(measured, head) for head in heads.values()))
    return tables_of(dict(zip(heads, found, strict=True)), pairs)


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
