"""Our detector's heads on many proposals of one object, by :mod:`rethink_heads.probing`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rethink_heads.detectors.folding import folded
from rethink_heads.detectors.frames import ImageFeatures, clip_to_frame
from rethink_heads.detectors.pooling import STRIDES
from rethink_heads.heads import READINGS, ConvHead, FCHead
from rethink_heads.probing.axis import RoIAlignRule
from rethink_heads.probing.conv import ConvProbe
from rethink_heads.probing.embedding import BranchProbe, PyramidRoIs, embed
from rethink_heads.probing.fc import FCProbe
from rethink_heads.probing.predictor import ClassPredictor

if TYPE_CHECKING:
    from rethink_heads.detectors.rcnn import RCNN


class RCNNProber:
    """The score and the regressed box of one class for many boxes of an image.

    The detector's weights are copied into the order and type that they are used in: make a new one when they change.

    Args:
        detector: in evaluation mode.
        dtype: of the branches' arithmetic; predictors and boxes stay in float32.
    """

    def __init__(self, detector: RCNN, dtype: torch.dtype) -> None:
        self.detector = detector
        self.roi_heads = detector.roi_heads
        pooler = self.roi_heads.box_roi_pool
        self.rule = RoIAlignRule(
            pooler.resolution, pooler.sampling_ratio, pooler.conventions.roi_align_aligned
        )
        self.probes: dict[str, BranchProbe] = {}
        self.predictors: dict[str, ClassPredictor] = {}
        for name in detector.branches:
            branch = self.roi_heads.heads.branch(name)
            self.probes[name] = _probe(branch, pooler.resolution, dtype)
            self.predictors[name] = ClassPredictor(
                branch.predictor.cls_score, branch.predictor.bbox_pred
            )

    @cached_property
    def backbone(self) -> nn.Module:
        """A quicker copy of the detector's backbone."""
        return folded(self.detector.backbone)

    def extract(self, image: Tensor) -> ImageFeatures:
        """Features of a uint8 RGB image (3, H, W), equal to the detector's up to rounding."""
        return self.detector.extract(image, self.backbone)

    def __call__(
        self, features: ImageFeatures, boxes: Tensor, label: int, memory_mb: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By head: scores (N,) and clipped boxes (N, 4) of class ``label`` for boxes (N, 4), in the image's pixels.

        Args:
            features: of the image.
            boxes: xyxy, on the detector's device.
            label: class index, 0..K-1.
            memory_mb: bound on what is held at once beside a vector a RoI and branch, in MiB.
        """
        resized = features.into_frame(boxes)
        embedded = self._embedded(features, resized, memory_mb)
        readings = [READINGS[name] for name in self.detector.heads]
        scores = {
            branch: self.predictors[branch].score(embedded[branch], label)
            for branch in {name for reading in readings for name in reading.classifiers}
        }
        regressed = {
            branch: self._regressed(features, resized, branch, embedded[branch], label)
            for branch in {reading.regressor for reading in readings}
        }
        return {
            name: (
                READINGS[name].scores(scores, self.roi_heads.fusion)[:, 0],
                regressed[READINGS[name].regressor],
            )
            for name in self.detector.heads
        }

    def _embedded(
        self, features: ImageFeatures, resized: Tensor, memory_mb: int
    ) -> dict[str, Tensor]:
        """By branch: vectors (N, width). Branches that pool the same RoIs do it together."""
        alike: dict[float, list[str]] = {}
        for branch in self.probes:
            alike.setdefault(self.roi_heads.enlargement.get(branch, 1.0), []).append(branch)
        found: dict[str, Tensor] = {}
        pooler = self.roi_heads.box_roi_pool
        for factor, branches in alike.items():
            corners, levels = pooler.place(resized, factor)
            rois = PyramidRoIs(
                [features.pyramid[name][0] for name in STRIDES],
                [1 / stride for stride in STRIDES.values()],
                corners,
                levels,
                self.rule,
            )
            found |= embed({name: self.probes[name] for name in branches}, rois, memory_mb)
        return found

    def _regressed(
        self, features: ImageFeatures, resized: Tensor, branch: str, hidden: Tensor, label: int
    ) -> Tensor:
        deltas = self.predictors[branch].deltas(hidden, label)
        decoded = self.roi_heads.box_coder.decode(deltas, [resized]).reshape(len(resized), 4)
        clipped = clip_to_frame(decoded, features.size, self.detector.box_ends)
        return features.out_of_frame(clipped)


def _probe(branch: FCHead | ConvHead, resolution: int, dtype: torch.dtype) -> BranchProbe:
    if isinstance(branch, FCHead):
        return FCProbe([branch.fc6, branch.fc7], branch.channels, resolution, dtype)
    return ConvProbe(branch, resolution, dtype)
