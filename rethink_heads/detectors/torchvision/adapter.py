"""A torchvision ``FasterRCNN``, ``MaskRCNN`` or ``KeypointRCNN`` as the analyses see a detector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from rethink_heads.detectors.answers import check_finite
from rethink_heads.detectors.base import Detections, HeadOutput, RoIFeatures
from rethink_heads.detectors.box_heads import parts_of, pooled_size
from rethink_heads.detectors.coordinates import ImageFeatures, clip_boxes
from rethink_heads.detectors.fingerprint import configuration_of, replaced_methods
from rethink_heads.errors import UserError
from rethink_heads.fastpath.fc import fast_fc, is_unmodified
from rethink_heads.fastpath.heads import ClassPredictor, HeadsFastPath, single_head
from rethink_heads.fastpath.pooling import PyramidRoIs, RoIAlignRule
from rethink_heads.suppression import Suppression

STEPS = ("forward", "eager_outputs")
"""Methods of torchvision's ``GeneralizedRCNN`` that the adapter takes the place of."""
RULES = ("forward", "postprocess_detections")
"""Methods of torchvision's ``RoIHeads`` that ``predict`` follows."""
PRECISIONS = (torch.float32, torch.float64)
"""Types of weights that torchvision's own forward pass takes on every device."""


class TorchvisionDetector:
    """A two-stage detector of torchvision, the user's own backbone, box head, pooler and predictor included.

    Masks and keypoints play no part in the analyses and are not computed.
    Raises UserError where the model has no second stage, it or its second stage comes to scores and boxes by rules of
    its own, its weights are neither in float32 nor in float64, or the class names do not fit its classes in number.

    Args:
        model: on its device; it is put into evaluation mode, its weights stay as they are.
        class_names: the K foreground classes: the labels from 1 on, in their order.
    """

    def __init__(self, model: GeneralizedRCNN, class_names: Sequence[str]) -> None:
        check_two_stages(model)
        self.class_names = tuple(class_names)
        classes = class_count(model)
        if classes is not None and len(self.class_names) != classes:
            raise _misnamed(len(self.class_names), classes)
        self.model = model.eval()
        self._precision = _precision_of(model)
        self._parts = parts_of(model.roi_heads.box_head, pooled_size(model.roi_heads.box_roi_pool))

    @property
    def heads(self) -> tuple[str, ...]:
        """``fc``, ``conv``, ``conv-fc`` or ``box``, by the box head's layers."""
        return (self._parts.kind,)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def suppression(self) -> Suppression:
        """How detections are made of scores and boxes."""
        second = self.model.roi_heads
        return Suppression(second.score_thresh, second.nms_thresh, second.detections_per_img)

    @property
    def configuration(self) -> str:
        """What decides scores, boxes, proposals and detections beside the weights, as a text of many lines."""
        release = torchvision.__version__.partition("+")[0]
        head = f"torchvision {release}\nclasses = {self.class_names!r}\n"
        return head + configuration_of(self.model)

    def _transformed(self, image: Tensor) -> tuple[ImageList, ImageFeatures]:
        batch, _ = self.model.transform([image.to(self.device, self._precision) / 255])
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

    def _to_resized(self, features: ImageFeatures, boxes: Tensor) -> Tensor:
        return features.to_resized(boxes.to(self._precision))

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
        # Autocast leaves them in half precision, in which a box far from the corner is rounded to several pixels.
        return logits.to(self._precision), deltas.to(self._precision)

    def extract(self, image: Tensor) -> ImageFeatures:
        """The backbone once: features of a uint8 RGB image (3, H, W)."""
        return self._transformed(image)[1]

    def propose(self, image: Tensor) -> tuple[ImageFeatures, Tensor]:
        """Features of a uint8 RGB image (3, H, W) and the RPN's proposals (M, 4) in its pixels, best first."""
        batch, features = self._transformed(image)
        return features, features.to_original(self._proposed(batch, features)).float()

    def pool(self, features: ImageFeatures, boxes: Tensor) -> RoIFeatures:
        """RoI features (N, C, S, S) under ``box`` of boxes (N, 4) in pixels of the original image."""
        framed = self._to_resized(features, boxes)
        return {"box": pool(self.model.roi_heads.box_roi_pool, features, framed)}

    def predict(
        self, features: ImageFeatures, roi_features: RoIFeatures, boxes: Tensor
    ) -> dict[str, HeadOutput]:
        """By head: scores (N, K) and clipped boxes (N, K, 4), in pixels of the original image.
        Raises UserError where there are more or fewer class names than classes.
        """
        logits, deltas = self._logits_and_deltas(roi_features["box"])
        decoded = self.model.roi_heads.box_coder.decode(deltas, [self._to_resized(features, boxes)])
        # torchvision's coder leaves the boxes of no RoI at all without their last dimension.
        decoded = decoded.reshape(len(boxes), logits.shape[-1], 4)[:, 1:]
        clipped = clip_boxes(decoded, features.size, "edge")
        scores = logits.softmax(-1)[:, 1:]
        # The analyses' boxes are in float32, whatever the weights are in.
        regressed = features.to_original(clipped).float()
        return {self._parts.kind: HeadOutput(scores.float(), regressed)}

    def fast_path(self, dtype: torch.dtype) -> HeadsFastPath | None:
        """Fast path of torchvision's ``TwoMLPHead``, ``FastRCNNPredictor`` and ``MultiScaleRoIAlign``.

        None where one of the three, or the coder of boxes, is something else. A head in float64 keeps to its own
        arithmetic.
        """
        roi_heads: Any = self.model.roi_heads
        box_head, predictor = roi_heads.box_head, roi_heads.box_predictor
        if not (
            is_unmodified(box_head, TwoMLPHead)
            and is_unmodified(predictor, FastRCNNPredictor)
            and can_place(roi_heads.box_roi_pool)
            and type(roi_heads.box_coder) is BoxCoder
        ):
            return None
        layers: list[Any] = [box_head.fc6, box_head.fc7]
        last: list[Any] = [predictor.cls_score, predictor.bbox_pred]
        if not all(is_unmodified(layer, nn.Linear) for layer in [*layers, *last]):
            return None
        outputs = len(self.class_names) + 1
        # With other numbers `predict` says what is wrong.
        if [layer.out_features for layer in last] != [outputs, 4 * outputs]:
            return None
        layers_before = fast_fc(
            layers,
            pooled_size(roi_heads.box_roi_pool),
            torch.float64 if self._precision == torch.float64 else dtype,
        )
        if layers_before is None:
            return None

        def decode(features: ImageFeatures, deltas: Tensor, boxes: Tensor) -> Tensor:
            decoded = roi_heads.box_coder.decode(deltas, [boxes]).reshape(len(boxes), 4)
            return features.to_original(clip_boxes(decoded, features.size, "edge"))

        return single_head(
            self._parts.kind,
            layers_before,
            ClassPredictor(*last),
            self.extract,
            self._to_resized,
            lambda features, boxes: place(roi_heads.box_roi_pool, features, boxes),
            decode,
        )

    def output_maps(self, roi_features: RoIFeatures) -> dict[str, Tensor]:
        """By part of the head: output maps (N, C, S, S), that of fully connected layers rebuilt from the first."""
        return self._parts.output_maps(roi_features["box"])

    def weight_maps(self) -> dict[str, Tensor]:
        """The first fully connected layer's weights by RoI position, (weights, S, S)."""
        return self._parts.weight_maps()

    @torch.inference_mode()
    def detect(self, image: Tensor) -> dict[str, Detections]:
        """Final detections in a uint8 RGB image (3, H, W), those of the model's own forward pass."""
        batch, features = self._transformed(image)
        check_finite("the detector's backbone gave features", *features.pyramid.values())
        proposals = self._proposed(batch, features)
        logits, deltas = self._logits_and_deltas(
            _pooled_by_torchvision(self.model.roi_heads.box_roi_pool, features, proposals)
        )
        check_finite("the detector's box predictor gave logits or deltas", logits, deltas)
        boxes, scores, labels = self.model.roi_heads.postprocess_detections(
            logits, deltas, [proposals], batch.image_sizes
        )
        found = [{"boxes": boxes[0], "scores": scores[0], "labels": labels[0]}]
        found = self.model.transform.postprocess(found, batch.image_sizes, [features.original_size])
        # torchvision's label 0 is background.
        kept, sure, labels = (found[0][name] for name in ("boxes", "scores", "labels"))
        detections = Detections(kept.float(), sure.float(), labels - 1)
        return {self._parts.kind: detections}


def check_two_stages(model: nn.Module) -> None:
    """Raise UserError for a model that is no ``GeneralizedRCNN`` of torchvision's steps with its own RoI heads."""
    name = type(model).__name__
    if not isinstance(model, GeneralizedRCNN):
        raise UserError(
            f"a {name} is no two-stage detector of torchvision: give a FasterRCNN, MaskRCNN or KeypointRCNN, out of"
            " any wrapper"
        )
    if own := replaced_methods(model, STEPS, "torchvision"):
        raise UserError(
            f"what this {name} makes of an image is not known, since it has a {own[0]} of its own: put the model"
            " behind the Protocol of rethink_heads.detectors.base"
        )
    second = model.roi_heads
    if not isinstance(second, RoIHeads):
        changed = [f"{type(second).__name__} is no RoIHeads"]
    else:
        changed = [
            f"{type(second).__name__} has a {rule} of its own"
            for rule in replaced_methods(second, RULES, "torchvision")
        ]
    if changed:
        raise UserError(
            f"how the second stage of this {name} comes to scores and boxes is not known, since {changed[0]}: put the"
            " model behind the Protocol of rethink_heads.detectors.base"
        )


def _precision_of(model: nn.Module) -> torch.dtype:
    """The type of the weights."""
    types = {each.dtype for each in model.parameters() if each.is_floating_point()}
    if len(types) == 1 and types <= set(PRECISIONS):
        return types.pop()
    named = " and ".join(sorted(str(each).removeprefix("torch.") for each in types))
    raise UserError(
        f"the weights of this {type(model).__name__} are in {named}, which the analyses do not compute in: give the"
        " model as float32, by its method float()"
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


def can_place(pooler: nn.Module) -> bool:
    """Whether a pooler is torchvision's own, with square RoI features."""
    if not is_unmodified(pooler, MultiScaleRoIAlign):
        return False
    sides: Any = pooler.output_size
    return len(sides) == 2 and sides[0] == sides[1]


def place(pooler: Any, features: ImageFeatures, boxes: Tensor) -> PyramidRoIs:
    """Where a pooler that ``can_place`` pools boxes (N, 4), in pixels of the resized image, from."""
    forget_images(pooler)
    pooler(features.pyramid, [boxes[:0]], [features.size])
    maps = [each for name, each in features.pyramid.items() if name in pooler.featmap_names]
    levels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    if len(maps) > 1:
        levels = pooler.map_levels([boxes])
    rule = RoIAlignRule(pooler.output_size[0], pooler.sampling_ratio)
    return PyramidRoIs([each[0] for each in maps], pooler.scales, boxes, levels, rule)


def forget_images(pooler: nn.Module) -> None:
    """Let a pooler infer the levels' scales again, from the image that it is shown next.

    ``MultiScaleRoIAlign`` infers them from the first image that it sees and keeps them for all others, but those of a
    narrow image may be others: its features are rounded up to whole cells. What a box gets must not depend on which
    image came first.
    """
    for each in pooler.modules():
        # Levels that are assigned by a rule of the user's own are no inference.
        if isinstance(each, MultiScaleRoIAlign) and isinstance(each.map_levels, LevelMapper):
            each.scales = each.map_levels = None


def pool(pooler: nn.Module, features: ImageFeatures, boxes: Tensor) -> Tensor:
    """What a pooler makes of boxes (N, 4) of the resized image: RoI features (N, C, S, S)."""
    if can_place(pooler):
        return place(pooler, features, boxes).pool()
    return _pooled_by_torchvision(pooler, features, boxes)


def _pooled_by_torchvision(pooler: nn.Module, features: ImageFeatures, boxes: Tensor) -> Tensor:
    forget_images(pooler)
    pooled: Tensor = pooler(features.pyramid, [boxes], [features.size])
    return pooled
