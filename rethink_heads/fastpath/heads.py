"""The fast path: one class's score and box of every head for many boxes of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from rethink_heads.fastpath.conv import FastConv
from rethink_heads.fastpath.fc import FastFC
from rethink_heads.fastpath.pooling import PyramidRoIs, pool_blocks
from rethink_heads.structures import HeadConfiguration

MEBIBYTE = 2**20
COORDINATES = 4


BranchLayers: TypeAlias = FastFC | FastConv
"""A branch's layers up to its predictor."""


@dataclass(frozen=True)
class ClassPredictor:
    """Classifier and box regressor over hidden features, asked about one class.

    Attributes:
        classifier: to logits of all classes, background among them.
        regressor: to 4 deltas for each class, or for all classes alike.
        logit_shift: place of class 0 among the logits: 1 where background is first.
        delta_shift: place of class 0 among the boxes, likewise.
    """

    classifier: nn.Linear
    regressor: nn.Linear
    logit_shift: int = 1
    delta_shift: int = 1

    def score(self, hidden: Tensor, label: int) -> Tensor:
        """Probability (N, 1) of class ``label`` for hidden features (N, width)."""
        with record_function("predict"):
            # In the weights' own type: rounded logits would make steps in the scores.
            weight, bias = self.classifier.weight, self.classifier.bias
            logits = F.linear(hidden.to(weight.dtype), weight, bias)
            return logits.softmax(-1)[:, label + self.logit_shift, None]

    def deltas(self, hidden: Tensor, label: int) -> Tensor:
        """Box deltas (N, 4) of class ``label`` for hidden features (N, width)."""
        with record_function("predict"):
            weight, bias = self.regressor.weight, self.regressor.bias
            first = COORDINATES * (label + self.delta_shift)
            if len(weight) == COORDINATES:
                first = 0
            rows = slice(first, first + COORDINATES)
            return F.linear(
                hidden.to(weight.dtype), weight[rows], None if bias is None else bias[rows]
            )


@dataclass(frozen=True)
class HeadsFastPath:
    """The score and the regressed box of one class for many boxes of an image.

    Weights are copied into the order and type that they are used in: make a new one when they change.

    Attributes:
        extract: an image's features.
        to_resized: boxes (N, 4) in the image's pixels to pixels of the resized image.
        places: for RoIs that are pooled alike: where boxes (N, 4) in the resized image are pooled from, and the
            branches that are.
        predictors: classifier and box regressor by branch.
        decode: boxes (N, 4) in the image's pixels, clipped, from deltas (N, 4) and boxes (N, 4) in the resized image.
        heads: by head, the branches whose scores and whose boxes are used.
        fusion: rule for a head that fuses two classifiers.
    """

    extract: Callable[[Tensor], Any]
    to_resized: Callable[[Any, Tensor], Tensor]
    places: Sequence[tuple[Callable[[Any, Tensor], PyramidRoIs], Mapping[str, BranchLayers]]]
    predictors: Mapping[str, ClassPredictor]
    decode: Callable[[Any, Tensor, Tensor], Tensor]
    heads: Mapping[str, HeadConfiguration]
    fusion: str = "complementary"

    def __call__(
        self, features: Any, boxes: Tensor, label: int, memory_mb: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By head: scores (N,) and clipped boxes (N, 4) of class ``label`` for boxes (N, 4), in the image's pixels.

        Args:
            boxes: xyxy, on the detector's device.
            memory_mb: bound on what is held at once beside a vector a RoI and branch, in MiB.
        """
        resized = self.to_resized(features, boxes)
        hidden: dict[str, Tensor] = {}
        for place, branches in self.places:
            hidden |= hidden_features(branches, place(features, resized), memory_mb)
        scores = {
            branch: self.predictors[branch].score(hidden[branch], label)
            for branch in {name for head in self.heads.values() for name in head.classifiers}
        }
        regressed = {
            branch: self.decode(
                features, self.predictors[branch].deltas(hidden[branch], label), resized
            ).float()
            for branch in {head.regressor for head in self.heads.values()}
        }
        return {
            name: (head.scores(scores, self.fusion)[:, 0].float(), regressed[head.regressor])
            for name, head in self.heads.items()
        }


def hidden_features(
    branches: Mapping[str, BranchLayers], rois: PyramidRoIs, memory_mb: int
) -> dict[str, Tensor]:
    """By branch: what its predictor takes, (N, width), of RoIs that all of the branches pool alike.
    ``memory_mb``: bound on what is held at once beside the result, in MiB.
    """
    device = rois.rois.device
    hidden = {
        name: torch.empty((len(rois.rois), each.width), dtype=each.hidden_dtype, device=device)
        for name, each in branches.items()
    }
    for dtype in dict.fromkeys(each.pooled_dtype for each in branches.values()):
        for positions, level in rois.by_level(dtype):
            left = memory_mb * MEBIBYTE - level.region.numel() * dtype.itemsize
            by_blocks = {}
            for name, layers in branches.items():
                if layers.pooled_dtype != dtype:
                    continue
                whole = layers.from_level(level, left)
                if whole is None:
                    by_blocks[name] = layers
                else:
                    hidden[name][positions] = whole
            if by_blocks:
                most = min(layers.batch_size(device, left) for layers in by_blocks.values())
                for part, pooled in pool_blocks(level, most):
                    for name, layers in by_blocks.items():
                        hidden[name][positions[part]] = layers.from_features(pooled)
    return hidden


def single_head(
    name: str,
    layers: BranchLayers,
    predictor: ClassPredictor,
    extract: Callable[[Tensor], Any],
    to_resized: Callable[[Any, Tensor], Tensor],
    place: Callable[[Any, Tensor], PyramidRoIs],
    decode: Callable[[Any, Tensor, Tensor], Tensor],
) -> HeadsFastPath:
    """The fast path of a detector with one branch."""
    return HeadsFastPath(
        extract,
        to_resized,
        [(place, {name: layers})],
        {name: predictor},
        decode,
        {name: HeadConfiguration((name,), name)},
    )
