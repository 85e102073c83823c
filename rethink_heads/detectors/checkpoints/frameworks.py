"""The three frameworks whose checkpoints become detectors here: their names of weights, and what shapes say.

maskrcnn-benchmark: the authors' Double-Head and a plain FPN Faster R-CNN. The authors'
``FPN2MLPFeatureExtractorNeighbor`` holds a residual block, then blocks of a non-local and a bottleneck part that
classification and regression share, then fc6 and fc7; ``FPNPredictorNeighbor`` holds a pair of linear layers for the
conv-head and another, with ``_fc`` at the end, for the fc-head.

mmdetection (2.x and 3.x): ``dh-faster-rcnn_r50_fpn_1x_coco`` and a plain FPN Faster R-CNN. Its ``DoubleConvFCBBoxHead``
classifies with the fc-head alone and regresses with the conv-head alone. Background is its last class, and only
foreground classes have box deltas.

detectron2: a ``GeneralizedRCNN`` of a ResNet and FPN, with its own fc box head or with our heads. Its own
(``StandardROIHeads``) has background as its last class and box deltas for foreground classes only, or one set of deltas
for all. Our heads in detectron2 (``RethinkROIHeads``) have the names and order that they have here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rethink_heads.config import DETECTRON2, MASKRCNN_BENCHMARK, MMDETECTION
from rethink_heads.detectors.checkpoints.detectron2_settings import read_settings
from rethink_heads.detectors.checkpoints.layouts import (
    Layout,
    Rules,
    State,
    backbone_of,
    fc_settings,
    numbers,
    shape,
)
from rethink_heads.errors import UserError
from rethink_heads.structures import BRANCHES, STRUCTURES, kind_of

OUR_HEADS = "roi_heads.heads."
BOX_DELTAS = 4
PROPOSALS = {"rpn_proposals_train": 2000, "rpn_proposals_test": 1000}


def _with_background_first(value: Tensor, is_classifier: bool) -> Tensor:
    """A last layer with background, or, as a box regressor, zeros for its deltas, before the foreground classes."""
    if is_classifier:
        return torch.cat([value[-1:], value[:-1]])
    return torch.cat([value.new_zeros(BOX_DELTAS, *value.shape[1:]), value])


# maskrcnn-benchmark

EXTRACTOR = "roi_heads.box.feature_extractor."
BENCHMARK_PREDICTOR = "roi_heads.box.predictor."
SHARED = EXTRACTOR + "shared_nonlocal."
# Positions of convolution (and normalisation, one further) in the sequences that hold them.
RESIDUAL = {"expand": ("bottom", 0), "project": ("bottom", 3), "shortcut": ("top", 0)}
BOTTLENECK = {"reduce": 0, "spatial": 3, "restore": 6}


def benchmark_settings(state: State) -> dict[str, Any]:
    """What a file's names and shapes say of its detector.
    Raises UserError where they are of a detector without a counterpart here.
    """
    channels = shape(state, "backbone.fpn.fpn_inner1.weight")[0]
    found: dict[str, Any] = {
        "backbone": backbone_of(state),
        "fpn_channels": channels,
        **fc_settings(state, EXTRACTOR + "fc6.weight", channels),
        "classes": shape(state, BENCHMARK_PREDICTOR + "cls_score.weight")[0] - 1,
    }
    if EXTRACTOR + "nonlocal_conv.top.0.weight" not in state:
        return {**found, "head": "fc"}
    for branch in ("cls", "reg"):
        if numbers(state, rf"{re.escape(EXTRACTOR)}{branch}_nonlocal\.(\d+)\."):
            raise UserError(
                f"the checkpoint has blocks of its own for one task ({EXTRACTOR}{branch}_nonlocal), which"
                " the conv-head here has not"
            )
    blocks = numbers(state, re.escape(SHARED) + r"(\d+)\.ffconv\.")
    attending = numbers(state, re.escape(SHARED) + r"(\d+)\.theta\.")
    if attending not in ([], blocks):
        raise UserError(
            f"the checkpoint's non-local blocks ({SHARED}{attending}) are not one before each bottleneck"
            f" ({SHARED}{blocks}), as the conv-head here has them"
        )
    found["conv_width"] = shape(state, EXTRACTOR + "nonlocal_conv.top.0.weight")[0]
    if blocks:
        found["conv_bottleneck"] = shape(state, f"{SHARED}0.ffconv.bottleneck.0.weight")[0]
    return {**found, "conv_blocks": len(blocks), "non_local": bool(attending), "head": "double-ext"}


def benchmark_rules(model: Mapping[str, Any]) -> Rules:
    """From our names to maskrcnn-benchmark's."""

    def residual(match: re.Match[str]) -> str:
        path, first = RESIDUAL[match[1]]
        return f"{EXTRACTOR}nonlocal_conv.{path}.{first + int(match[2])}."

    def block(match: re.Match[str]) -> str:
        index, layer, position = int(match[1]) - 1, match[2], match[3]
        index, is_bottleneck = divmod(index, 2) if model["non_local"] else (index, 1)
        if is_bottleneck:
            return f"{SHARED}{index}.ffconv.bottleneck.{BOTTLENECK[layer] + int(position)}."
        if layer == "out":
            return f"{SHARED}{index}.W.{'0' if position == '0' else 'bn'}."
        return f"{SHARED}{index}.{layer}." + (f"{position}." if position else "")

    # A plain Faster R-CNN's only predictor has no suffix.
    suffix = "" if model["head"] == "fc" else "_fc"
    predictor = r"predictor\.(cls_score|bbox_pred)"
    return (
        (r"backbone\.body\.(conv1|bn1)\.", r"backbone.body.stem.\1."),
        (
            r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.",
            lambda match: f"backbone.fpn.fpn_{match[1]}{int(match[2]) + 1}.",
        ),
        (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
        (rf"roi_heads\.heads\.fc\.{predictor}", rf"{BENCHMARK_PREDICTOR}\1{suffix}"),
        (rf"roi_heads\.heads\.conv\.{predictor}", rf"{BENCHMARK_PREDICTOR}\1"),
        (r"roi_heads\.heads\.fc\.", EXTRACTOR),
        (r"roi_heads\.heads\.conv\.blocks\.0\.(\w+)\.(\d+)\.", residual),
        (r"roi_heads\.heads\.conv\.blocks\.(\d+)\.([a-z_]+)\.(?:(\d+)\.)?", block),
    )


def adapt_benchmark(theirs: str, state: State) -> Tensor:
    """A weight of the file as ours.

    The convolution that ends a non-local block has a bias before its normalisation, which is the same as a mean less
    by it.
    """
    bias = theirs.replace(".W.bn.running_mean", ".W.0.bias")
    return state[theirs] - state[bias] if bias != theirs and bias in state else state[theirs]


BENCHMARK_LAYOUT = Layout(
    name="maskrcnn-benchmark",
    conventions=MASKRCNN_BENCHMARK,
    recognises=lambda state: "backbone.body.stem.conv1.weight" in state,
    settings=benchmark_settings,
    rules=benchmark_rules,
    adapt=adapt_benchmark,
    ignored=re.compile(
        r"roi_heads\.(mask|keypoint)\..*|.*\.num_batches_tracked"
        r"|rpn\.anchor_generator\.cell_anchors\.\d+"
        r"|roi_heads\.box\.feature_extractor\.shared_nonlocal\.\d+\.W\.0\.bias"
    ),
    defaults={
        "sampling_ratio": 2,
        "conv_enlargement": 1.3,
        "image_mean": (102.9801, 115.9465, 122.7717),
        "image_std": (1.0, 1.0, 1.0),
        **PROPOSALS,
    },
    anchors="rpn.anchor_generator.cell_anchors.",
    anchor_tolerance=1e-8,
)

# mmdetection

BBOX_HEAD = "roi_head.bbox_head."


def mmdetection_settings(state: State) -> dict[str, Any]:
    """What a file's names and shapes say of its detector.
    Raises UserError where they are of a detector without a counterpart here.
    """
    channels = shape(state, "neck.lateral_convs.0.conv.weight")[0]
    double = BBOX_HEAD + "res_block.conv1.conv.weight" in state
    fc6 = BBOX_HEAD + ("fc_branch.0.weight" if double else "shared_fcs.0.weight")
    classes = shape(state, BBOX_HEAD + "fc_cls.weight")[0] - 1
    deltas = shape(state, BBOX_HEAD + "fc_reg.weight")[0]
    if deltas != BOX_DELTAS * classes:
        raise UserError(
            f"{BBOX_HEAD}fc_reg has {deltas} outputs for {classes} classes; only a head with"
            " 4 deltas for each class can be imported"
        )
    found: dict[str, Any] = {
        "backbone": backbone_of(state),
        "fpn_channels": channels,
        **fc_settings(state, fc6, channels),
        "classes": classes,
    }
    if not double:
        return {**found, "head": "fc"}
    found["conv_width"] = shape(state, BBOX_HEAD + "res_block.conv2.conv.weight")[0]
    blocks = numbers(state, re.escape(BBOX_HEAD) + r"conv_branch\.(\d+)\.")
    if blocks:
        found["conv_bottleneck"] = shape(state, BBOX_HEAD + "conv_branch.0.conv1.weight")[0]
    task_weights = {"w_fc": 2.0, "w_conv": 2.0}
    return found | task_weights | {"conv_blocks": len(blocks), "non_local": False, "head": "double"}


def mmdetection_rules(model: Mapping[str, Any]) -> Rules:
    """From our names to mmdetection's, whose double head has one task for each branch."""

    def residual(match: re.Match[str]) -> str:
        layer = {"expand": "conv1", "project": "conv2", "shortcut": "conv_identity"}[match[1]]
        return f"{BBOX_HEAD}res_block.{layer}.{'bn' if match[2] == '1' else 'conv'}."

    def bottleneck(match: re.Match[str]) -> str:
        layer = ("reduce", "spatial", "restore").index(match[2]) + 1
        kind = "bn" if match[3] == "1" else "conv"
        return f"{BBOX_HEAD}conv_branch.{int(match[1]) - 1}.{kind}{layer}."

    double = model["head"] != "fc"
    hidden = BBOX_HEAD + ("fc_branch." if double else "shared_fcs.")
    return (
        (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
        (r"backbone\.body\.", "backbone."),
        (r"rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
        (r"rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
        (r"rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
        (r"roi_heads\.heads\.fc\.fc6\.", hidden + "0."),
        (r"roi_heads\.heads\.fc\.fc7\.", hidden + "1."),
        (
            r"roi_heads\.heads\.fc\.predictor\.bbox_pred\.",
            None if double else BBOX_HEAD + "fc_reg.",
        ),
        (r"roi_heads\.heads\.conv\.predictor\.cls_score\.", None),
        (r"roi_heads\.heads\.fc\.predictor\.cls_score\.", BBOX_HEAD + "fc_cls."),
        (r"roi_heads\.heads\.conv\.predictor\.bbox_pred\.", BBOX_HEAD + "fc_reg."),
        (
            r"roi_heads\.heads\.conv\.blocks\.0\.(expand|project|shortcut)\.(\d)\.",
            residual,
        ),
        (r"roi_heads\.heads\.conv\.blocks\.(\d+)\.(\w+)\.(\d)\.", bottleneck),
    )


def adapt_mmdetection(theirs: str, state: State) -> Tensor:
    """A weight of the file as ours."""
    if theirs.startswith((BBOX_HEAD + "fc_cls.", BBOX_HEAD + "fc_reg.")):
        return _with_background_first(state[theirs], ".fc_cls." in theirs)
    return state[theirs]


MMDETECTION_LAYOUT = Layout(
    name="mmdetection",
    conventions=MMDETECTION,
    recognises=lambda state: (
        "neck.lateral_convs.0.conv.weight" in state or BBOX_HEAD + "fc_cls.weight" in state
    ),
    settings=mmdetection_settings,
    rules=mmdetection_rules,
    adapt=adapt_mmdetection,
    ignored=re.compile(
        r"roi_head\.(mask|keypoint|semantic)\w*\..*|data_preprocessor\..*|.*\.num_batches_tracked"
    ),
    defaults={
        "sampling_ratio": 0,
        "conv_enlargement": 1.3,
        "image_mean": (123.675, 116.28, 103.53),
        "image_std": (58.395, 57.12, 57.375),
        "rpn_cross_boundary_anchors": True,
        **PROPOSALS,
    },
)

# detectron2

BODY = "backbone.bottom_up."
RPN_HEAD = "proposal_generator.rpn_head."
PREDICTOR = "roi_heads.box_predictor."
# By blocks of the third stage, and whether a block is a bottleneck.
RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
}


def detectron2_settings(state: State) -> dict[str, Any]:
    """What a file's names and shapes say of its detector.
    Raises UserError where they are of a detector without a counterpart here.
    """
    if "backbone.res4.0.conv1.weight" in state:
        raise UserError(
            "the checkpoint's detector has no feature pyramid (detectron2's C4); only those with FPN can be imported"
        )
    if PREDICTOR + "0.cls_score.weight" in state:
        raise UserError(
            "the checkpoint's detector is a Cascade R-CNN, whose heads have no counterpart here"
        )
    channels = shape(state, "backbone.fpn_lateral2.weight")[0]
    own = any(name.startswith(OUR_HEADS) for name in state)
    found: dict[str, Any] = {
        "backbone": _backbone(state),
        "fpn_channels": channels,
        "fpn_norm": _fpn_norm(state),
        "standard": not own,
    }
    for name, key in (("image_mean", "pixel_mean"), ("image_std", "pixel_std")):
        # Kept in the files of older versions.
        if key in state:
            found[name] = tuple(float(value) for value in state[key].flatten())
    if own:
        return found | _own_heads(state, channels)
    classes = shape(state, PREDICTOR + "cls_score.weight")[0] - 1
    deltas = shape(state, PREDICTOR + "bbox_pred.weight")[0]
    if deltas not in (BOX_DELTAS, BOX_DELTAS * classes):
        raise UserError(
            f"{PREDICTOR}bbox_pred has {deltas} outputs for {classes} classes; only a head with"
            " 4 deltas for each class, or for all of them, can be imported"
        )
    fc = fc_settings(state, "roi_heads.box_head.fc1.weight", channels)
    return {**found, **fc, "classes": classes, "head": "fc"}


def _backbone(state: State) -> str:
    blocks = len(numbers(state, rf"{re.escape(BODY)}res4\.(\d+)\.conv2\.weight"))
    bottlenecks = f"{BODY}res4.0.conv3.weight" in state
    if (blocks, bottlenecks) not in RESNETS:
        kind = "bottlenecks" if bottlenecks else "blocks"
        raise UserError(
            f"the checkpoint's backbone has {blocks} {kind} in {BODY}res4;"
            f" {', '.join(RESNETS.values())} can be imported"
        )
    return RESNETS[blocks, bottlenecks]


def _fpn_norm(state: State) -> str:
    norm = "backbone.fpn_lateral2.norm."
    if norm + "running_mean" in state:
        return "batch"
    return "group" if norm + "weight" in state else "none"


def _own_heads(state: State, channels: int) -> dict[str, Any]:
    branches = tuple(n for n in BRANCHES if f"{OUR_HEADS}{n}.predictor.cls_score.weight" in state)
    # The last of a pair's structures trains both branches for both tasks.
    fitting = [name for name, each in STRUCTURES.items() if each.branches == branches]
    if not fitting:
        raise UserError(
            f"the checkpoint's branches under {OUR_HEADS} ({', '.join(branches) or 'none'}) are those of no head here"
        )
    predictor = f"{OUR_HEADS}{branches[0]}.predictor.cls_score.weight"
    found: dict[str, Any] = {"head": fitting[-1], "classes": shape(state, predictor)[0] - 1}
    for branch in branches:
        if kind_of(branch) == "fc":
            found |= fc_settings(state, f"{OUR_HEADS}{branch}.fc6.weight", channels)
        else:
            found |= _conv_settings(state, f"{OUR_HEADS}{branch}.blocks.")
    return found


def _conv_settings(state: State, blocks: str) -> dict[str, Any]:
    bottlenecks = numbers(state, re.escape(blocks) + r"(\d+)\.reduce\.")
    found: dict[str, Any] = {
        "conv_width": shape(state, blocks + "0.project.0.weight")[0],
        "conv_blocks": len(bottlenecks),
        "non_local": bool(numbers(state, re.escape(blocks) + r"(\d+)\.theta\.")),
    }
    if bottlenecks:
        first = f"{blocks}{bottlenecks[0]}.reduce.0.weight"
        found["conv_bottleneck"] = shape(state, first)[0]
    return found


def detectron2_rules(model: Mapping[str, Any]) -> Rules:
    """From our names to detectron2's, in which a convolution's normalisation is part of it.
    ``model``: ``standard`` of ``settings``: whether the box head is detectron2's own.
    """

    def layer(match: re.Match[str]) -> str:
        stage, block, kind, number = match.groups()
        name = "shortcut" if kind == "downsample." else f"conv{number}"
        is_norm = kind == "bn" or (kind, number) == ("downsample.", "1")
        return f"{BODY}res{int(stage) + 1}.{block}.{name}." + ("norm." if is_norm else "")

    def fpn(match: re.Match[str]) -> str:
        kind = {"inner": "lateral", "layer": "output"}[match[1]]
        norm = "norm." if match[3] == "1" else ""
        return f"backbone.fpn_{kind}{int(match[2]) + 2}.{norm}"

    standard = (
        (r"roi_heads\.heads\.fc\.fc6\.", "roi_heads.box_head.fc1."),
        (r"roi_heads\.heads\.fc\.fc7\.", "roi_heads.box_head.fc2."),
        (r"roi_heads\.heads\.fc\.predictor\.", PREDICTOR),
    )
    return (
        (r"backbone\.body\.conv1\.", BODY + "stem.conv1."),
        (r"backbone\.body\.bn1\.", BODY + "stem.conv1.norm."),
        (r"backbone\.body\.layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.", layer),
        (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(\d)\.", fpn),
        (r"rpn\.head\.conv\.0\.0\.", RPN_HEAD + "conv."),
        (r"rpn\.head\.cls_logits\.", RPN_HEAD + "objectness_logits."),
        (r"rpn\.head\.bbox_pred\.", RPN_HEAD + "anchor_deltas."),
        *(standard if model["standard"] else ()),
    )


def adapt_detectron2(theirs: str, state: State) -> Tensor:
    """A weight of the file as ours."""
    value = state[theirs]
    if not theirs.startswith(PREDICTOR):
        return value
    is_classifier = theirs.startswith(PREDICTOR + "cls_score.")
    if not is_classifier and len(value) == BOX_DELTAS:
        classes = shape(state, PREDICTOR + "cls_score.weight")[0] - 1
        value = value.repeat(classes, *(1,) * (value.dim() - 1))
    return _with_background_first(value, is_classifier)


DETECTRON2_LAYOUT = Layout(
    name="detectron2",
    conventions=DETECTRON2,
    recognises=lambda state: (
        RPN_HEAD + "conv.weight" in state or RPN_HEAD + "objectness_logits.weight" in state
    ),
    settings=detectron2_settings,
    rules=detectron2_rules,
    adapt=adapt_detectron2,
    ignored=re.compile(
        r"roi_heads\.(mask|keypoint)_\w+\..*|sem_seg_head\..*|pixel_(mean|std)|.*\.num_batches_tracked"
        r"|proposal_generator\.anchor_generator\.cell_anchors\.\d+"
    ),
    defaults={
        "sampling_ratio": 0,
        "conv_enlargement": 1.3,
        "image_mean": (103.53, 116.28, 123.675),
        "image_std": (1.0, 1.0, 1.0),
        "rpn_cross_boundary_anchors": True,
        **PROPOSALS,
    },
    anchors="proposal_generator.anchor_generator.cell_anchors.",
    read_settings=read_settings,
)

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout for layout in (BENCHMARK_LAYOUT, MMDETECTION_LAYOUT, DETECTRON2_LAYOUT)
}
