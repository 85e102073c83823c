"""The second stage of detectron2's detectors: what it makes of boxes, with detectron2's own modules.

Boxes are xyxy in pixels of the resized image, whose (height, width) is ``size``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformRotated
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    RROIHeads,
    StandardROIHeads,
)
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from rethink_heads.detectors.answers import check_finite
from rethink_heads.detectors.base import HeadOutput, RoIFeatures
from rethink_heads.detectors.box_heads import BoxHeadParts, parts_of, pooled_size
from rethink_heads.detectors.coordinates import ImageFeatures, Size, clip_boxes
from rethink_heads.detectors.detectron2.roi_heads import RethinkROIHeads
from rethink_heads.errors import UserError
from rethink_heads.fastpath.fc import fast_fc, is_unmodified
from rethink_heads.fastpath.heads import ClassPredictor, HeadsFastPath, single_head
from rethink_heads.fastpath.pooling import PyramidRoIs, RoIAlignRule
from rethink_heads.suppression import Suppression

Levels = dict[str, Tensor]
ROI = "box"
"""Name of the RoI features of a stage whose box head has one pooling."""
STEPS = {
    StandardROIHeads: ("forward", "_forward_box"),
    Res5ROIHeads: ("forward", "_shared_roi_transform"),
}
"""The methods of detectron2's RoI heads that lead from features to detections, which are followed here."""
ANSWERS = ("predict_probs", "predict_boxes", "inference")
"""The methods by which a box predictor of detectron2 answers for boxes."""


HALF = (torch.bfloat16, torch.float16)


class SharedPoolingStage:
    """``StandardROIHeads`` and ``Res5ROIHeads``: one box head on one pooling, one predictor."""

    def __init__(self, roi_heads: Any) -> None:
        self.roi_heads = roi_heads
        self.is_c4 = isinstance(roi_heads, Res5ROIHeads)
        body = roi_heads.res5 if self.is_c4 else roi_heads.box_head
        self.body: nn.Module = body
        self.pooler = roi_heads.pooler if self.is_c4 else roi_heads.box_pooler
        self.in_features = roi_heads.in_features if self.is_c4 else roi_heads.box_in_features
        # The predictor takes the average of res5's map, so that a C4 model has a convolutional head.
        self.parts: BoxHeadParts | None = (
            None if self.is_c4 else parts_of(body, pooled_size(self.pooler))
        )

    @property
    def heads(self) -> tuple[str, ...]:
        """One head, named by what the box head is made of."""
        return ("conv" if self.parts is None else self.parts.kind,)

    def pool(self, levels: Levels, boxes: Tensor) -> RoIFeatures:
        """RoI features (N, C, S, S) of one image's boxes (N, 4)."""
        return {ROI: pool(self.pooler, [levels[name] for name in self.in_features], boxes)}

    def fast_path(
        self, dtype: torch.dtype, extract: Callable[[Tensor], ImageFeatures]
    ) -> HeadsFastPath | None:
        """What asks detectron2's own fc-head about one class of many boxes at once; None for any other head."""
        return None if self.is_c4 else fast_path_of(self.roi_heads, self.heads[0], dtype, extract)

    def _predicted(self, roi_features: RoIFeatures) -> tuple[Tensor, Tensor]:
        # A copy, since a head may begin with a layer that works in place.
        hidden = self.body(roi_features[ROI].clone())
        predicted = self.roi_heads.box_predictor(hidden.mean(dim=(2, 3)) if self.is_c4 else hidden)
        return _out_of_half(predicted)

    def predict(
        self, roi_features: RoIFeatures, boxes: Tensor, size: Size
    ) -> dict[str, HeadOutput]:
        """Scores (N, K) and clipped boxes (N, K, 4); a class-agnostic regressor's box is every class's."""
        predictor = self.roi_heads.box_predictor
        predicted, proposals = self._predicted(roi_features), [_proposals(boxes, size)]
        # detectron2 puts background last.
        scores = predictor.predict_probs(predicted, proposals)[0][:, :-1]
        regressed = predictor.predict_boxes(predicted, proposals)[0]
        if regressed.shape[1] not in (4, 4 * scores.shape[1]):
            raise UserError(
                f"the box predictor {type(predictor).__name__} gives {regressed.shape[1]} coordinates for"
                f" {scores.shape[1]} classes: only a box of 4 for each class, or one for all, can be compared"
            )
        clipped = Boxes(regressed.reshape(-1, 4))
        clipped.clip(size)
        by_class = clipped.tensor.reshape(len(boxes), regressed.shape[1] // 4, 4)
        return {self.heads[0]: HeadOutput(scores, by_class.expand(*scores.shape, 4))}

    def detections(
        self, roi_features: RoIFeatures, boxes: Tensor, size: Size
    ) -> dict[str, Instances]:
        """The predictor's own threshold and NMS."""
        predictor = self.roi_heads.box_predictor
        predicted = self._predicted(roi_features)
        # What is not finite detectron2 leaves out without a word.
        values = predicted if isinstance(predicted, tuple) else (predicted,)
        check_finite(
            "the detector's box predictor gave logits or deltas",
            *(each for each in values if isinstance(each, Tensor)),
        )
        found, _ = predictor.inference(predicted, [_proposals(boxes, size)])
        return {self.heads[0]: found[0]}

    @property
    def suppression(self) -> Suppression:
        """The predictor's threshold, NMS and cut."""
        return _suppression(self.roi_heads.box_predictor)

    def output_maps(self, roi_features: RoIFeatures) -> dict[str, Tensor]:
        """The maps that the box head's kind has; of a C4 model, what res5 gives."""
        if self.parts is None:
            return {"conv": self.body(roi_features[ROI].clone())}
        return self.parts.output_maps(roi_features[ROI])

    def weight_maps(self) -> dict[str, Tensor]:
        """The first fully connected layer's weights by RoI position, where the box head has one."""
        return {} if self.parts is None else self.parts.weight_maps()


class RethinkStage:
    """Our heads in detectron2, each branch on its own pooling and each head's detections by detectron2's rules."""

    def __init__(self, roi_heads: RethinkROIHeads) -> None:
        self.roi_heads = roi_heads

    @property
    def heads(self) -> tuple[str, ...]:
        """Those that its training makes meaningful."""
        return self.roi_heads.head_names

    def pool(self, levels: Levels, boxes: Tensor) -> RoIFeatures:
        """By branch: RoI features (N, C, S, S) of one image's boxes (N, 4)."""
        return self.roi_heads.pool(levels, [boxes])

    def fast_path(self, dtype: torch.dtype, extract: Callable[[Tensor], ImageFeatures]) -> None:
        """None: our heads are quickest in our own detector, into which these weights can be imported."""
        return None

    def predict(
        self, roi_features: RoIFeatures, boxes: Tensor, size: Size
    ) -> dict[str, HeadOutput]:
        """By head: scores (N, K) and clipped boxes (N, K, 4)."""
        return self.roi_heads.predict(roi_features, boxes, size)

    def detections(
        self, roi_features: RoIFeatures, boxes: Tensor, size: Size
    ) -> dict[str, Instances]:
        """detectron2's threshold and NMS on each head's output."""
        outputs = self.predict(roi_features, boxes, size)
        for name, output in outputs.items():
            check_finite(f"head {name!r} gave scores or boxes", output.scores, output.boxes)
        return {name: self.roi_heads.select(output, size) for name, output in outputs.items()}

    @property
    def suppression(self) -> Suppression:
        """The RoI heads' threshold, NMS and cut."""
        return _suppression(self.roi_heads)

    def output_maps(self, roi_features: RoIFeatures) -> dict[str, Tensor]:
        """By branch: output maps, an fc-head's rebuilt from its first layer."""
        return self.roi_heads.heads.output_maps(roi_features)

    def weight_maps(self) -> dict[str, Tensor]:
        """By fc branch: its first layer's weights by RoI position."""
        return self.roi_heads.heads.weight_maps()


def _suppression(settings: Any) -> Suppression:
    """The rule of ``fast_rcnn_inference`` with these settings, which has no least side."""
    return Suppression(
        settings.test_score_thresh, settings.test_nms_thresh, settings.test_topk_per_image, 0.0
    )


def stage_of(roi_heads: nn.Module) -> SharedPoolingStage | RethinkStage:
    """The second stage of ``GeneralizedRCNN.roi_heads``.
    Raises UserError for RoI heads that do not answer for an upright box in one step from one pooling.
    """
    kind = type(roi_heads).__name__
    if isinstance(roi_heads, RROIHeads):
        raise _rotated(kind)
    if isinstance(roi_heads, RethinkROIHeads):
        _check_upright(roi_heads.box_transform)
        return RethinkStage(roi_heads)
    if isinstance(roi_heads, CascadeROIHeads):
        raise UserError(
            f"the RoI heads are {kind}, whose heads refine a box one after the other, so that no one of them says"
            " what the detector says of a given box: give a detector with StandardROIHeads or Res5ROIHeads"
        )
    for known, methods in STEPS.items():
        if isinstance(roi_heads, known):
            changed = [m for m in methods if getattr(type(roi_heads), m) is not getattr(known, m)]
            if not changed:
                _check_predictor(roi_heads.box_predictor)
                return SharedPoolingStage(roi_heads)
            raise UserError(
                f"the RoI heads are {kind}, which replaces `{changed[0]}` of {known.__name__}, so that what it says"
                " of a box is not known: put it behind rethink_heads.Detector yourself"
                " (notebooks/your_own_detector shows how)"
            )
    raise UserError(
        f"the RoI heads are {kind}, neither StandardROIHeads nor Res5ROIHeads of detectron2: put the detector behind"
        " rethink_heads.Detector yourself (notebooks/your_own_detector shows how)"
    )


def _check_predictor(predictor: nn.Module) -> None:
    missing = [name for name in ANSWERS if not callable(getattr(predictor, name, None))]
    if missing:
        raise UserError(
            f"the box predictor {type(predictor).__name__} has no `{missing[0]}`, by which detectron2's"
            " FastRCNNOutputLayers answers for given boxes: give it one, or put the detector behind"
            " rethink_heads.Detector yourself (notebooks/your_own_detector shows how)"
        )
    _check_upright(getattr(predictor, "box2box_transform", None))


def _check_upright(transform: Any) -> None:
    """Raise UserError for a transform of boxes of more or fewer than 4 coordinates."""
    weights = getattr(transform, "weights", None)
    if isinstance(transform, Box2BoxTransformRotated) or (
        weights is not None and len(weights) != 4
    ):
        raise _rotated(type(transform).__name__)


def _rotated(what: str) -> UserError:
    return UserError(
        f"the second stage has {what}, which gives rotated boxes or others of more than 4 coordinates: the analyses"
        " are of upright boxes (x1, y1, x2, y2), so give a detector of these"
    )


def _out_of_half(predicted: Any) -> Any:
    """What a predictor gives under autocast in float32: half precision rounds boxes to several pixels."""
    if isinstance(predicted, Tensor):
        return predicted.float() if predicted.dtype in HALF else predicted
    # A predictor of the user's own may give something else, which only it reads.
    return tuple(map(_out_of_half, predicted)) if type(predicted) is tuple else predicted


def _proposals(boxes: Tensor, size: Size) -> Instances:
    return Instances(size, proposal_boxes=Boxes(boxes))


def can_place(pooler: Any) -> bool:
    """Whether a pooler is detectron2's own, of RoIAlign alike on all levels, with square RoI features."""
    if not is_unmodified(pooler, ROIPooler):
        return False
    levels: list[Any] = list(pooler.level_poolers)
    return bool(
        all(is_unmodified(level, ROIAlign) for level in levels)
        and len({(level.sampling_ratio, level.aligned) for level in levels}) == 1
        and all(tuple(level.output_size) == tuple(pooler.output_size) for level in levels)
        and pooler.output_size[0] == pooler.output_size[1]
    )


def place(pooler: Any, levels: Sequence[Tensor], boxes: Tensor) -> PyramidRoIs:
    """Where a pooler that ``can_place`` pools one image's boxes (N, 4), in pixels of the resized image, from.

    Args:
        pooler: detectron2's.
        levels: the feature maps (1, C, H, W) that it is given.
        boxes: float32, as detectron2 keeps them.
    """
    chosen = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    if len(levels) > 1:
        chosen = assign_boxes_to_levels(
            [Boxes(boxes)],
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        )
    first = pooler.level_poolers[0]
    rule = RoIAlignRule(pooler.output_size[0], first.sampling_ratio, first.aligned)
    scales = [level.spatial_scale for level in pooler.level_poolers]
    return PyramidRoIs([each[0] for each in levels], scales, boxes, chosen, rule)


def pool(pooler: nn.Module, levels: list[Tensor], boxes: Tensor) -> Tensor:
    """What a pooler makes of one image's boxes (N, 4) of the resized image: RoI features (N, C, S, S)."""
    if len(levels[0]) == 1 and boxes.dtype == torch.float32 and can_place(pooler):
        return place(pooler, levels, boxes).pool()
    found: Tensor = pooler(levels, [Boxes(boxes)])
    return found


def fast_path_of(
    roi_heads: Any,
    head: str,
    dtype: torch.dtype,
    extract: Callable[[Tensor], ImageFeatures],
) -> HeadsFastPath | None:
    """The fast path of ``StandardROIHeads`` with detectron2's own pooler, ``FastRCNNConvFCHead`` and output layers.

    Returns:
        None where one of them is something else, where the box head has convolutions, and where its classes are no
        softmax.
    """
    layers = _linear_layers(roi_heads.box_head)
    predictor = roi_heads.box_predictor
    if not layers or not _is_usual(predictor) or not can_place(roi_heads.box_pooler):
        return None
    if any(each.weight.dtype != torch.float32 for each in [*layers, predictor.cls_score]):
        return None
    layers_before = fast_fc(layers, roi_heads.box_pooler.output_size, dtype)
    if layers_before is None:
        return None

    def located(features: ImageFeatures, boxes: Tensor) -> PyramidRoIs:
        levels = [features.pyramid[name] for name in roi_heads.box_in_features]
        return place(roi_heads.box_pooler, levels, boxes)

    def decode(features: ImageFeatures, deltas: Tensor, boxes: Tensor) -> Tensor:
        decoded = predictor.box2box_transform.apply_deltas(deltas, boxes)
        scaled = features.to_original(clip_boxes_to_image(decoded, features.size))
        # As detectron2 does: clipped to the resized image, scaled, and clipped again to the original.
        return clip_boxes(scaled, features.original_size, "edge")

    # detectron2 puts background last.
    class_predictor = ClassPredictor(predictor.cls_score, predictor.bbox_pred, 0, 0)
    return single_head(
        head,
        layers_before,
        class_predictor,
        extract,
        lambda features, boxes: features.to_resized(boxes).float(),
        located,
        decode,
    )


def _linear_layers(box_head: Any) -> list[nn.Linear]:
    """The layers of a ``FastRCNNConvFCHead`` that flattens, and then has linear layers with ReLU only; else none."""
    if not is_unmodified(box_head, FastRCNNConvFCHead):
        return []
    first, *others = box_head.children()
    linear, rectified = others[::2], others[1::2]
    if (
        is_unmodified(first, nn.Flatten)
        and len(linear) == len(rectified)
        and all(is_unmodified(each, nn.Linear) for each in linear)
        and all(is_unmodified(each, nn.ReLU) for each in rectified)
    ):
        return linear
    return []


def _is_usual(predictor: Any) -> bool:
    """Whether a predictor is detectron2's own, by softmax, with a box for each class or one for all."""
    if not is_unmodified(predictor, FastRCNNOutputLayers) or predictor.use_sigmoid_ce:
        return False
    last = (predictor.cls_score, predictor.bbox_pred)
    if not all(is_unmodified(layer, nn.Linear) for layer in last):
        return False
    classes = predictor.cls_score.out_features - 1
    return (
        classes == predictor.num_classes
        and predictor.bbox_pred.out_features in (4, 4 * classes)
        and type(predictor.box2box_transform) is Box2BoxTransform
    )
