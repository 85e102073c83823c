"""A torchvision ``FasterRCNN``, ``MaskRCNN`` or ``KeypointRCNN`` as the analyses see a detector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from rethink_heads.detectors.base import Detections, HeadOutput, RoIFeatures
from rethink_heads.detectors.box_heads import DEFAULT_CELLS, parts_of
from rethink_heads.detectors.frames import ImageFeatures, clip_to_frame
from rethink_heads.errors import UserError

RULES = ("forward", "postprocess_detections")
"""Methods of torchvision's ``RoIHeads`` that ``predict`` follows."""


class TorchvisionDetector:
    """A two-stage detector of torchvision, the user's own backbone, box head, pooler and predictor included.

    Masks and keypoints play no part in the analyses and are not computed.

    Args:
        model: on its device; it is put into evaluation mode, its weights stay as they are.
        class_names: the K foreground classes: the labels from 1 on, in their order.

    Raises:
        UserError: the model has no second stage, its second stage scores or regresses by rules of its own, or the
            class names do not fit its classes in number.
    """

    def __init__(self, model: GeneralizedRCNN, class_names: Sequence[str]) -> None:
        check_two_stages(model)
        self.class_names = tuple(class_names)
        classes = class_count(model)
        if classes is not None and len(self.class_names) != classes:
            raise _misnamed(len(self.class_names), classes)
        self.model = model.eval()
        cells = getattr(model.roi_heads.box_roi_pool, "output_size", DEFAULT_CELLS)
        self._parts = parts_of(model.roi_heads.box_head, tuple(cells))

    @property
    def heads(self) -> tuple[str, ...]:
        """``fc``, ``conv``, ``conv-fc`` or ``box``, by the box head's layers."""
        return (self._parts.kind,)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def _transformed(self, image: Tensor) -> tuple[ImageList, ImageFeatures]:
        batch, _ = self.model.transform([image.to(self.device).float() / 255])
        levels = self.model.backbone(batch.tensors)
        # As GeneralizedRCNN does with a backbone that has one level.
        pyramid = {"0": levels} if isinstance(levels, Tensor) else levels
        height, width = image.shape[-2:]
        return batch, ImageFeatures(pyramid, batch.image_sizes[0], (height, width))

    def _proposed(self, batch: ImageList, features: ImageFeatures) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid")
            boxes: Tensor = self.model.rpn(batch, features.pyramid)[0][0]
        return boxes

    def _pooled(self, features: ImageFeatures, boxes: Tensor) -> Tensor:
        pooled: Tensor = self.model.roi_heads.box_roi_pool(
            features.pyramid, [boxes], [features.size]
        )
        return pooled

    def _logits_and_deltas(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K + 1) and (N, 4 (K + 1)), background first."""
        second = self.model.roi_heads
        # A copy, since a head may begin with a layer that works in place.
        logits, deltas = second.box_predictor(second.box_head(roi_features.clone()))
        outputs = len(self.class_names) + 1
        if logits.shape[-1] != outputs:
            raise _misnamed(len(self.class_names), logits.shape[-1] - 1)
        if deltas.shape[-1] != 4 * outputs:
            raise UserError(
                f"the box predictor gives {deltas.shape[-1]} box deltas for {outputs} classes with background, which"
                " torchvision cannot decode either: give a box for each class"
            )
        return logits, deltas

    def extract(self, image: Tensor) -> ImageFeatures:
        """The backbone once: features of a uint8 RGB image (3, H, W)."""
        return self._transformed(image)[1]

    def propose(self, image: Tensor) -> tuple[ImageFeatures, Tensor]:
        """Features of a uint8 RGB image (3, H, W) and the RPN's proposals (M, 4) in its pixels, best first."""
        batch, features = self._transformed(image)
        return features, features.out_of_frame(self._proposed(batch, features))

    def pool(self, features: ImageFeatures, boxes: Tensor) -> RoIFeatures:
        """RoI features (N, C, S, S) under ``box`` of boxes (N, 4) in pixels of the original image."""
        return {"box": self._pooled(features, features.into_frame(boxes))}

    def predict(
        self, features: ImageFeatures, roi_features: RoIFeatures, boxes: Tensor
    ) -> dict[str, HeadOutput]:
        """By head: scores (N, K) and clipped boxes (N, K, 4), in pixels of the original image.

        Raises:
            UserError: there are more or fewer class names than classes.
        """
        logits, deltas = self._logits_and_deltas(roi_features["box"])
        decoded = self.model.roi_heads.box_coder.decode(deltas, [features.into_frame(boxes)])
        # torchvision's coder leaves the boxes of no RoI at all without their last dimension.
        decoded = decoded.reshape(len(boxes), logits.shape[-1], 4)[:, 1:]
        clipped = clip_to_frame(decoded, features.size, "edge")
        scores = logits.softmax(-1)[:, 1:]
        return {self._parts.kind: HeadOutput(scores, features.out_of_frame(clipped))}

    def output_maps(self, roi_features: RoIFeatures) -> dict[str, Tensor]:
        """By part of the head: output maps (N, C, S, S), that of fully connected layers rebuilt from the first."""
        return self._parts.output_maps(roi_features["box"])

    def weight_maps(self) -> dict[str, Tensor]:
        """The first fully connected layer's weights by RoI cell, (weights, S, S)."""
        return self._parts.weight_maps()

    @torch.inference_mode()
    def detect(self, image: Tensor) -> dict[str, Detections]:
        """Final detections in a uint8 RGB image (3, H, W), those of the model's own forward pass."""
        batch, features = self._transformed(image)
        proposals = self._proposed(batch, features)
        logits, deltas = self._logits_and_deltas(self._pooled(features, proposals))
        boxes, scores, labels = self.model.roi_heads.postprocess_detections(
            logits, deltas, [proposals], batch.image_sizes
        )
        found = [{"boxes": boxes[0], "scores": scores[0], "labels": labels[0]}]
        found = self.model.transform.postprocess(found, batch.image_sizes, [features.original_size])
        # torchvision's label 0 is background.
        detections = Detections(found[0]["boxes"], found[0]["scores"], found[0]["labels"] - 1)
        return {self._parts.kind: detections}


def check_two_stages(model: nn.Module) -> None:
    """Raise UserError for a model that is no ``GeneralizedRCNN`` with torchvision's own RoI heads."""
    name = type(model).__name__
    if not isinstance(model, GeneralizedRCNN):
        raise UserError(
            f"a {name} is no two-stage detector of torchvision: give a FasterRCNN, MaskRCNN or KeypointRCNN, out of"
            " any wrapper"
        )
    second = model.roi_heads
    if not isinstance(second, RoIHeads):
        changed = [f"{type(second).__name__} is no RoIHeads"]
    else:
        changed = [
            f"{type(second).__name__} has a {rule} of its own"
            for rule in RULES
            if getattr(type(second), rule) is not getattr(RoIHeads, rule)
        ]
    if changed:
        raise UserError(
            f"how the second stage of this {name} comes to scores and boxes is not known, since {changed[0]}: put the"
            " model behind the Protocol of rethink_heads.detectors.base"
        )


def class_count(model: Any) -> int | None:
    """The foreground classes K of a detector, or None where its own predictor does not say them."""
    layer = getattr(model.roi_heads.box_predictor, "cls_score", None)
    outputs = getattr(layer, "out_features", None)
    return outputs - 1 if isinstance(outputs, int) else None


def _misnamed(names: int, classes: int) -> UserError:
    return UserError(
        f"{names} class names for a detector of {classes} classes: give one name for each label from 1 on, in their"
        " order (background has none)"
    )
