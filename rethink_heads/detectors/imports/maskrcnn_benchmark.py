"""maskrcnn-benchmark's checkpoints: the authors' Double-Head, and a plain FPN Faster R-CNN of the same framework.

The authors' ``FPN2MLPFeatureExtractorNeighbor`` holds a widening block, then blocks of a non-local and a bottleneck
part that classification and regression share, then fc6 and fc7; ``FPNPredictorNeighbor`` holds a pair of linear layers
for the conv-head and another, with ``_fc`` at the end, for the fc-head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rethink_heads.config import MASKRCNN_BENCHMARK, ModelConfig
from rethink_heads.detectors.imports.layouts import (
    BLOCK_PATTERN,
    HEAD_PATTERN,
    Layout,
    State,
    backbone_of,
    fc_settings,
    numbers,
    shape,
)
from rethink_heads.detectors.rcnn.rpn import ANCHOR_STRIDES, cell_anchors
from rethink_heads.errors import UserError

EXTRACTOR = "roi_heads.box.feature_extractor."
PREDICTOR = "roi_heads.box.predictor."
ANCHORS = "rpn.anchor_generator.cell_anchors."
SHARED = EXTRACTOR + "shared_nonlocal."
# Positions of convolution (and normalisation, one further) in the sequences that hold them.
WIDENING = {"expand": ("bottom", 0), "project": ("bottom", 3), "shortcut": ("top", 0)}
BOTTLENECK = {"reduce": 0, "spatial": 3, "restore": 6}


def recognises(state: State) -> bool:
    """Whether the names are maskrcnn-benchmark's."""
    return "backbone.body.stem.conv1.weight" in state


def settings(state: State) -> dict[str, Any]:
    """What a file's names and shapes say of its detector.

    Raises:
        UserError: they are of a detector without a counterpart here.
    """
    channels = shape(state, "backbone.fpn.fpn_inner1.weight")[0]
    found: dict[str, Any] = {
        "backbone": backbone_of(state),
        "fpn_channels": channels,
        **fc_settings(state, EXTRACTOR + "fc6.weight", channels),
        "classes": shape(state, PREDICTOR + "cls_score.weight")[0] - 1,
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


def their_name(name: str, model: Mapping[str, Any]) -> str | None:
    """maskrcnn-benchmark's name of a weight of ours."""
    if match := re.fullmatch(r"backbone\.body\.((?:conv1|bn1)\..+)", name):
        return f"backbone.body.stem.{match[1]}"
    if match := re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.(.+)", name):
        return f"backbone.fpn.fpn_{match[1]}{int(match[2]) + 1}.{match[3]}"
    if match := HEAD_PATTERN.fullmatch(name):
        return _head_name(match[1], match[2], model)
    return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")


def _head_name(branch: str, name: str, model: Mapping[str, Any]) -> str:
    if match := re.fullmatch(r"predictor\.(cls_score|bbox_pred)\.(.+)", name):
        # A plain Faster R-CNN's only predictor has no suffix.
        suffix = "_fc" if branch == "fc" and model["head"] != "fc" else ""
        return f"{PREDICTOR}{match[1]}{suffix}.{match[2]}"
    if branch == "fc":
        return EXTRACTOR + name
    match = BLOCK_PATTERN.fullmatch(name)
    assert match is not None
    index, part = int(match[1]), match[2]
    layer, _, rest = part.partition(".")
    if index == 0:
        path, first = WIDENING[layer]
        return f"{EXTRACTOR}nonlocal_conv.{path}.{_place(rest, first)}"
    block, second = divmod(index - 1, 2) if model["non_local"] else (index - 1, 1)
    if second:
        return f"{SHARED}{block}.ffconv.bottleneck.{_place(rest, BOTTLENECK[layer])}"
    if layer == "out":
        which, _, what = rest.partition(".")
        return f"{SHARED}{block}.W.{'0' if which == '0' else 'bn'}.{what}"
    return f"{SHARED}{block}.{part}"


def _place(rest: str, first: int) -> str:
    """``0.weight`` of a pair that begins at ``first`` in a longer sequence."""
    index, _, what = rest.partition(".")
    return f"{first + int(index)}.{what}"


def adapt(theirs: str, state: State) -> Tensor:
    """A weight of the file as ours.

    The convolution that ends a non-local block has a bias before its normalisation, which is the same as a mean less
    by it.
    """
    value = state[theirs]
    bias = theirs.replace(".W.bn.running_mean", ".W.0.bias")
    return value - state[bias] if bias != theirs and bias in state else value


def check_anchors(state: State, model: ModelConfig) -> None:
    """Compare the anchors that a file keeps of each level with those of the settings.

    Raises:
        UserError: they differ.
    """
    levels = zip(ANCHOR_STRIDES, model.anchor_sizes, strict=True)
    for level, (stride, size) in enumerate(levels):
        theirs = state.get(f"{ANCHORS}{level}")
        ours = cell_anchors(LAYOUT.name, stride, size, model.anchor_ratios)
        if theirs is not None and not (
            theirs.shape == ours.shape and torch.allclose(theirs.to(ours), ours)
        ):
            raise UserError(
                f"the checkpoint's anchors ({ANCHORS}{level}: {theirs.tolist()}) are not those of the"
                f" settings ({ours.tolist()}): give model.anchor_sizes=[...] and model.anchor_ratios=[...]"
            )


LAYOUT = Layout(
    name="maskrcnn-benchmark",
    conventions=MASKRCNN_BENCHMARK,
    recognises=recognises,
    settings=settings,
    their_name=their_name,
    adapt=adapt,
    check=check_anchors,
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
        "rpn_proposals_train": 2000,
        "rpn_proposals_test": 1000,
    },
)
