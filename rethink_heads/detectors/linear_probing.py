"""Other frameworks' fc-heads on many proposals of one object: linear layers, one pooling and one predictor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rethink_heads.detectors.frames import ImageFeatures
from rethink_heads.probing.embedding import PyramidRoIs, embed
from rethink_heads.probing.fc import FCProbe
from rethink_heads.probing.predictor import ClassPredictor

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass(frozen=True)
class LinearProber:
    """The score and the regressed box of one class for many boxes of an image; a ``Prober``.

    Attributes:
        head: the name of the reading.
        probe: the layers before the predictor.
        predictor: classifier and box regressor.
        into_frame: boxes (N, 4) in the image's pixels to the detector's frame.
        place: RoIs of boxes (N, 4) in the frame, on the levels that the detector pools them from.
        decode: boxes (N, 4) in the image's pixels from deltas (N, 4) and boxes (N, 4) in the frame.
    """

    head: str
    probe: FCProbe
    predictor: ClassPredictor
    into_frame: Callable[[ImageFeatures, Tensor], Tensor]
    place: Callable[[ImageFeatures, Tensor], PyramidRoIs]
    decode: Callable[[ImageFeatures, Tensor, Tensor], Tensor]

    def __call__(
        self, features: ImageFeatures, boxes: Tensor, label: int, memory_mb: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By head: scores (N,) and clipped boxes (N, 4) of class ``label`` for boxes (N, 4), in the image's pixels.

        Args:
            features: of the image.
            boxes: xyxy, on the detector's device.
            label: class index, 0..K-1.
            memory_mb: bound on what is held at once beside a vector a RoI, in MiB.
        """
        framed = self.into_frame(features, boxes)
        rois = self.place(features, framed)
        hidden = embed({self.head: self.probe}, rois, memory_mb)[self.head]
        scores = self.predictor.score(hidden, label)[:, 0]
        regressed = self.decode(features, self.predictor.deltas(hidden, label), framed)
        return {self.head: (scores.float(), regressed.float())}


def probe_of(
    layers: Sequence[nn.Linear], cells: Sequence[int], dtype: torch.dtype
) -> FCProbe | None:
    """Linear layers, each with a ReLU after it, on flattened RoI features; None where their sizes do not fit.

    Args:
        layers: from the first one on, one or more.
        cells: of the RoI features along y and x.
        dtype: of the arithmetic.
    """
    rows, columns = cells
    first = layers[0]
    square = rows == columns and first.in_features % (rows * columns) == 0
    if not square or len({layer.out_features for layer in layers}) > 1:
        return None
    return FCProbe(layers, first.in_features // (rows * columns), rows, dtype)


def is_just(module: Any, kind: type) -> bool:
    """Whether a module is of a class itself, whose forward pass nothing has changed or listens to."""
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and not any(getattr(module, name, None) for name in HOOKS)
    )
