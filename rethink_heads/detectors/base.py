"""What the analyses need of a detector, whichever framework it comes from.

A *branch* is a head's module, on RoI features of its own: ``fc`` or ``conv``. A *head*, as the analyses name it, gives
one score and one box per class for a RoI: a branch by itself, or, for a Double-Head, the scores of one branch with the
boxes of the other (see :data:`rethink_heads.heads.HEAD_CONFIGURATIONS`).

:class:`Detector` is all that a detector must have: names, and three methods (``notebooks/your_own_detector`` writes one
in about 40 lines). Each further method opens analyses, see :data:`CAPABILITIES`; a detector without one goes without
these, with a sentence. Images are uint8 RGB (3, H, W), boxes xyxy in pixels of the original image, everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from rethink_heads.suppression import Suppression

Features = Any
"""An image's features as a detector keeps them: opaque to the analyses, computed once an image."""

RoIFeatures: TypeAlias = dict[str, Tensor]
"""Pooled features of N boxes, (N, C, S, S), by any name: our detectors pool for each branch. Empty where a detector
cannot show them: then no position of them can be zeroed, and ``predict`` answers from the boxes alone."""


@dataclass(frozen=True)
class HeadOutput:
    """Scores and boxes of one head for N boxes.

    Attributes:
        scores: (N, K) probabilities of the foreground classes, in the detector's order.
        boxes: (N, K, 4) boxes regressed for each class, clipped to the image.
    """

    scores: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Detections:
    """Final detections of one image after NMS, best first: boxes (M, 4), probabilities (M,), class indices (M,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(Protocol):
    """The analyses' view of a two-stage detector."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K foreground classes in the order of the scores."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the detector's heads; ``fc`` and ``conv`` have their colours in every figure."""
        ...

    @property
    def device(self) -> torch.device:
        """Where images and boxes are to be put."""
        ...

    def extract(self, image: Tensor) -> Features:
        """Features of an image."""
        ...

    def pool(self, features: Features, boxes: Tensor) -> RoIFeatures:
        """RoI features of boxes (N, 4), each branch with its own RoI enlargement."""
        ...

    def predict(
        self, features: Features, roi_features: RoIFeatures, boxes: Tensor
    ) -> dict[str, HeadOutput]:
        """By head: what the detector itself would give for boxes (N, 4) with these, perhaps changed, RoI features."""
        ...


@runtime_checkable
class SupportsPropose(Protocol):
    """A detector that shows its own proposals."""

    def propose(self, image: Tensor) -> tuple[Features, Tensor]:
        """Features of an image, and the detector's own proposals (M, 4), best first."""
        ...


@runtime_checkable
class SupportsDetect(Protocol):
    """A detector that shows its final detections."""

    def detect(self, image: Tensor) -> dict[str, Detections]:
        """By head: final detections in an image."""
        ...


@runtime_checkable
class SupportsOutputMaps(Protocol):
    """A detector that shows what its branches make of each RoI position."""

    def output_maps(self, roi_features: RoIFeatures) -> dict[str, Tensor]:
        """By branch that has one: the output map (N, C, S, S); an fc-head's is rebuilt from its first layer."""
        ...


@runtime_checkable
class SupportsWeightMaps(Protocol):
    """A detector that has weights for each RoI position."""

    def weight_maps(self) -> dict[str, Tensor]:
        """By branch with a fully connected first layer: its weights by RoI position, (weights, S, S)."""
        ...


@runtime_checkable
class SupportsSuppression(Protocol):
    """A detector that says how it makes detections of scores and boxes; of others torchvision's rule is taken."""

    @property
    def suppression(self) -> Suppression:
        """The threshold of score, NMS by class and the cut to the best."""
        ...


class FastPath(Protocol):
    """A detector's heads on one class of many boxes at once; see :class:`SupportsFastPath`."""

    def extract(self, image: Tensor) -> Features:
        """Features of an image, equal to the detector's up to rounding."""
        ...

    def __call__(
        self, features: Features, boxes: Tensor, label: int, memory_mb: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By head: scores (N,) and boxes (N, 4) of class ``label`` for boxes (N, 4).

        ``memory_mb`` bounds, in MiB, what is held at once beside some vectors a box.
        """
        ...


@runtime_checkable
class SupportsFastPath(Protocol):
    """A detector with a quicker way than ``pool`` and ``predict`` to one class's scores and boxes."""

    def fast_path(self, dtype: torch.dtype) -> FastPath | None:
        """Make one with the weights as they are now, whose heads compute in ``dtype``; None: not for these heads."""
        ...


CAPABILITIES: Mapping[str, tuple[type, str]] = {
    "propose": (SupportsPropose, "the correlation on its own proposals (--stage rpn)"),
    "detect": (
        SupportsDetect,
        "the correlation on final detections (--stage detections), AP, TIDE's errors and calibration",
    ),
    "output_maps": (SupportsOutputMaps, "the spatial correlation of output maps"),
    "weight_maps": (SupportsWeightMaps, "the spatial correlation of the first layer's weights"),
}
"""By method: the Protocol that has it, and the analyses that need it."""


def supports(detector: object, method: str) -> bool:
    """Whether a detector has one of the methods of :data:`CAPABILITIES`."""
    return isinstance(detector, CAPABILITIES[method][0])


def missing(method: str) -> str:
    """The sentence for a detector without one of the methods of :data:`CAPABILITIES`."""
    return f"it has no `{method}`, so it goes without {CAPABILITIES[method][1]}"
