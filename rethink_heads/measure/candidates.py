"""What heads make of the same proposals before NMS, as it is kept: every box that a detection or an object may rest on.

A *candidate* is a proposal with a class. Kept are those whose score passes the threshold of one head at least, and
those that are of the class of an object which the proposal, or the box that a head regresses from it, overlaps by
LEAST_IOU; each with the scores and boxes of all heads. Nothing else can become a detection, or say what became of an
object.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from rethink_heads.errors import UserError
from rethink_heads.files import METADATA_KEY, read_table, reading_parquet
from rethink_heads.measure.store import Key
from rethink_heads.suppression import Suppression

CANDIDATES_NAME = "candidates.parquet"
LEAST_IOU = 0.1
CORNERS = ("x1", "y1", "x2", "y2")
DETECTORS_KEY = METADATA_KEY + b" detectors"
"""In the file's schema: the detectors' names, heads and rules, as of :func:`as_json`."""

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A detector that was asked: its name, its heads, and how it makes detections of their scores and boxes."""

    name: str
    heads: tuple[str, ...]
    rule: Suppression


@dataclass(frozen=True)
class Candidates:
    """R candidates of any number of images, by image, in each by proposal, in each by class.

    Attributes:
        sources: the detectors.
        images: (R,) image ids, ascending.
        proposals: (R,) number of the proposal in its image.
        labels: (R,) class 0..K-1, in the data's order.
        proposal_boxes: (R, 4) xyxy in px of the original image.
        ranks: by detector (R,) the proposal's place among the detector's own, best first; -1 where another proposed it.
        scores: by (detector, head) (R,) the probability of the class.
        boxes: by (detector, head) (R, 4) the box regressed for the class, clipped to the image.
        provenance: of all of it.
    """

    sources: tuple[Source, ...]
    images: Indices
    proposals: Indices
    labels: Indices
    proposal_boxes: Floats
    ranks: Mapping[str, Indices]
    scores: Mapping[Key, Floats]
    boxes: Mapping[Key, Floats]
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        heads = ", ".join(map("/".join, self.keys)) or "no head"
        images = len(np.unique(self.images))
        return f"<Candidates: {len(self.images)} in {images} images, of {heads}>"

    @property
    def keys(self) -> tuple[Key, ...]:
        """(detector, head) of all, in the order of the detectors."""
        return tuple((source.name, head) for source in self.sources for head in source.heads)

    def rule(self, detector: str) -> Suppression:
        """How a detector makes detections."""
        return next(source.rule for source in self.sources if source.name == detector)

    def check(self, key: Key) -> None:
        """Raise UserError where a head is not there."""
        if key not in self.keys:
            there = ", ".join(map("/".join, self.keys))
            raise UserError(f"no candidates of {'/'.join(key)}; there are those of {there}")

    def proposed_by(self, detector: str) -> Candidates:
        """Those of a detector's own proposals, with all heads.

        Raises:
            UserError: the detector was not asked.
        """
        if detector not in self.ranks:
            raise UserError(
                f"no proposals of {detector}; there are those of {', '.join(self.ranks)}"
            )
        own = self.ranks[detector] >= 0
        return Candidates(
            self.sources,
            self.images[own],
            self.proposals[own],
            self.labels[own],
            self.proposal_boxes[own],
            {name: values[own] for name, values in self.ranks.items()},
            {key: values[own] for key, values in self.scores.items()},
            {key: values[own] for key, values in self.boxes.items()},
            self.provenance,
        )


def as_json(sources: Sequence[Source]) -> str:
    """Detectors as DETECTORS_KEY has them."""
    return json.dumps([dataclasses.asdict(source) for source in sources])


def column_names(sources: Sequence[Source]) -> list[str]:
    """The file's columns. Detectors and heads are numbered, so that a detector of another name needs no other file."""
    heads = sum(len(source.heads) for source in sources)
    return [
        "image_id",
        "proposal",
        "label",
        *(f"proposal_{corner}" for corner in CORNERS),
        *(f"rank_{number}" for number in range(len(sources))),
        *(f"{name}_{number}" for number in range(heads) for name in ("score", *CORNERS)),
    ]


def load_candidates(folder: Path, names: Sequence[str] | None = None) -> Candidates:
    """Read what :func:`~rethink_heads.measure.candidate_runner.measure_candidates` left in ``folder``.

    Args:
        folder: where they are kept.
        names: what the detectors are called now; None: as when they were asked.

    Raises:
        UserError: there are none, or the file is damaged.
    """
    path = Path(folder) / CANDIDATES_NAME
    table, provenance = read_table(path)
    with reading_parquet(path):
        known = json.loads((pq.read_schema(path).metadata or {}).get(DETECTORS_KEY, b"[]"))
        sources = tuple(_source(each) for each in known)
    if not sources or table.column_names != column_names(sources):
        raise UserError(f"{path} holds no candidates; delete it and measure again")
    if names is not None:
        sources = tuple(
            dataclasses.replace(source, name=name)
            for source, name in zip(sources, names, strict=True)
        )

    def column(name: str) -> npt.NDArray[Any]:
        return table[name].to_numpy()

    def corners(prefix: str, suffix: str) -> Floats:
        return np.column_stack([column(f"{prefix}{corner}{suffix}") for corner in CORNERS])

    keys = [(source.name, head) for source in sources for head in source.heads]
    return Candidates(
        sources,
        column("image_id"),
        column("proposal"),
        column("label"),
        corners("proposal_", ""),
        {source.name: column(f"rank_{number}") for number, source in enumerate(sources)},
        {key: column(f"score_{number}") for number, key in enumerate(keys)},
        {key: corners("", f"_{number}") for number, key in enumerate(keys)},
        provenance,
    )


def _source(said: Mapping[str, Any]) -> Source:
    try:
        return Source(str(said["name"]), tuple(said["heads"]), Suppression(**said["rule"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no detector: {error}") from error
