"""Our settings as a configuration of detectron2, and a sentence for each that it has no key for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rethink_heads.config import DETECTRON2, Config, ConventionsConfig, ModelConfig
from rethink_heads.detectors.detectron2.settings import LEVEL_FROM, SIZES, TASK_WEIGHTS

DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
"""Depth of the backbones that detectron2 has too."""
EPSILON = 1e-5
"""What detectron2's frozen normalisation adds to the variance."""

WEIGHTS_NAME = "model.pth"
"""The file of weights beside the configuration."""

BASIC_BLOCKS = ("resnet18", "resnet34")
WHITE = 255.0
STAGES = ("res2", "res3", "res4", "res5")
LEVELS = ("p2", "p3", "p4", "p5", "p6")
COLOURS = {"bgr": "BGR", "rgb": "RGB"}


def settings(config: Config, class_names: Sequence[str], norm: str) -> dict[str, Any]:
    """The configuration, as nested names and values.

    Args:
        config: the detector's settings. Those of training are left out: detectron2's own are in its terms.
        class_names: the K foreground classes.
        norm: the backbone's normalisation, ``frozen`` or ``batch``.
    """
    model, conventions = config.model, config.model.conventions
    # detectron2 is given pixels up to 255, whatever white is here.
    factor = WHITE / conventions.pixel_range
    backbone = {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "WEIGHTS": WEIGHTS_NAME,
        "MASK_ON": False,
        "PIXEL_MEAN": [factor * value for value in model.image_mean],
        "PIXEL_STD": [factor * value for value in model.image_std],
        "BACKBONE": {
            "NAME": "build_resnet_fpn_backbone",
            "FREEZE_AT": 5 - model.trainable_layers,
        },
        "RESNETS": _resnet(model, norm),
        "FPN": {"IN_FEATURES": list(STAGES), "OUT_CHANNELS": model.fpn_channels},
    }
    return {
        "VERSION": 2,
        "MODEL": {**backbone, **_proposals(model), **_box_head(config, class_names)},
        "INPUT": {
            "FORMAT": COLOURS[conventions.channel_order],
            "MIN_SIZE_TRAIN": [model.min_size],
            "MAX_SIZE_TRAIN": model.max_size,
            "MIN_SIZE_TEST": model.min_size,
            "MAX_SIZE_TEST": model.max_size,
        },
        "TEST": {"DETECTIONS_PER_IMAGE": model.detections_per_image},
    }


def _resnet(model: ModelConfig, norm: str) -> dict[str, Any]:
    return {
        "DEPTH": DEPTHS[model.backbone],
        "OUT_FEATURES": list(STAGES),
        "NORM": "FrozenBN" if norm == "frozen" else "BN",
        "STRIDE_IN_1X1": model.conventions.stride_in_1x1,
        "RES2_OUT_CHANNELS": 64 if model.backbone in BASIC_BLOCKS else 256,
    }


def _proposals(model: ModelConfig) -> dict[str, Any]:
    return {
        "ANCHOR_GENERATOR": {
            "SIZES": [[size] for size in model.anchor_sizes],
            "ASPECT_RATIOS": [[float(ratio) for ratio in model.anchor_ratios]],
        },
        "RPN": {
            "IN_FEATURES": list(LEVELS),
            "PRE_NMS_TOPK_TRAIN": model.rpn_proposals_train,
            "POST_NMS_TOPK_TRAIN": model.rpn_proposals_train,
            "PRE_NMS_TOPK_TEST": model.rpn_proposals_test,
            "POST_NMS_TOPK_TEST": model.rpn_proposals_test,
            "BOUNDARY_THRESH": -1 if model.rpn_cross_boundary_anchors else 0,
        },
    }


def _box_head(config: Config, class_names: Sequence[str]) -> dict[str, Any]:
    model = config.model
    standard = config.head == "fc"
    own = {
        "HEAD": config.head,
        **{name.upper(): getattr(model, name) for name in SIZES},
        # A negative number is the structure's own.
        **{
            name.upper(): -1.0 if (value := getattr(model, name)) is None else float(value)
            for name in TASK_WEIGHTS
        },
        LEVEL_FROM.upper(): model.conventions.roi_level_from,
        "CLASS_NAMES": list(class_names),
    }
    fc = {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "FC_DIM": model.fc_width}
    return {
        "ROI_HEADS": {
            "NAME": "StandardROIHeads" if standard else "RethinkROIHeads",
            "IN_FEATURES": list(LEVELS[:4]),
            "NUM_CLASSES": len(class_names),
            "BATCH_SIZE_PER_IMAGE": model.rois_per_image,
            "POSITIVE_FRACTION": float(model.positive_fraction),
            "SCORE_THRESH_TEST": float(model.score_threshold),
            "NMS_THRESH_TEST": float(model.nms_threshold),
        },
        "ROI_BOX_HEAD": {
            **(fc if standard else {}),
            "POOLER_RESOLUTION": model.roi_resolution,
            "POOLER_SAMPLING_RATIO": model.sampling_ratio,
            "POOLER_TYPE": "ROIAlignV2" if model.conventions.roi_align_aligned else "ROIAlign",
            "SMOOTH_L1_BETA": float(model.smooth_l1_beta),
        },
        **({} if standard else {"RETHINK_HEADS": own}),
    }


def differences(config: Config) -> tuple[str, ...]:
    """A sentence for everything that detectron2 does otherwise with the same weights, and no key of it changes."""
    ours, theirs = config.model.conventions, DETECTRON2
    told: Sequence[tuple[bool, str]] = (
        (
            ours.interpolation != theirs.interpolation,
            "images: detectron2 resizes 8-bit pixels with Pillow and rounds them; this detector "
            + _RESIZING[ours.interpolation],
        ),
        (
            ours.size_rule != theirs.size_rule,
            "images: detectron2 rounds a resized side to the nearest pixel, so that it may be one pixel longer than"
            f" by {ours.size_rule}'s rule, which this detector has",
        ),
        (
            ours.pad_multiple != 32,
            f"images: detectron2 pads to multiples of 32 pixels, this detector to {ours.pad_multiple}",
        ),
        (_other_anchors(ours), "anchors: " + _ANCHORS.get(ours.anchors, "")),
        (
            ours.box_ends == "pixel",
            "boxes: detectron2's end at edges, this detector's at the index of their last pixel; its RoIs, deltas and"
            " detections are off by up to a pixel there",
        ),
        (
            ours.delta_limits != "growth",
            "boxes: detectron2 limits how much a delta enlarges a box, not how much it shrinks it as well",
        ),
        (
            ours.roi_level_rule != theirs.roi_level_rule,
            "RoIs: one whose size is within a millionth of where the levels change may be pooled from the other"
            " level in detectron2",
        ),
        (
            ours.least_proposal_side > theirs.least_proposal_side
            or ours.least_detection_side != theirs.least_detection_side,
            f"boxes: detectron2 drops those without width or height; this detector drops proposals under"
            f" {ours.least_proposal_side:g} and detections under {ours.least_detection_side:g} pixels",
        ),
        (
            ours.proposal_order != theirs.proposal_order,
            "proposals: detectron2 ranks them by logits, this detector by probabilities, of which equal ones may"
            " change places",
        ),
        (
            ours.frozen_norm_epsilon != EPSILON,
            f"normalisation: detectron2 adds {EPSILON:g} to the variance, this detector {ours.frozen_norm_epsilon:g};"
            " the frozen variances in the file are less by the difference, which gives the same features",
        ),
    )
    return tuple(sentence for differs, sentence in told if differs)


_RESIZING = {
    "float": "resizes float values without rounding",
    "opencv": "resizes them as OpenCV does",
    "pillow": "does the same",
}
_ANCHORS = {
    "torchvision": "detectron2's are not rounded to whole pixels, and the cells of P6 are 64 pixels apart whatever"
    " the image's size; this detector has torchvision's, which lie up to half a pixel from them",
    "maskrcnn-benchmark": "detectron2's are not rounded and lie about a cell's corner; this detector has"
    " maskrcnn-benchmark's, about a cell's middle",
}


def _other_anchors(conventions: ConventionsConfig) -> bool:
    return conventions.anchors in _ANCHORS
