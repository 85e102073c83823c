"""mmdetection's checkpoints (2.x and 3.x): ``dh-faster-rcnn_r50_fpn_1x_coco`` and a plain FPN Faster R-CNN.

Its ``DoubleConvFCBBoxHead`` classifies with the fc-head alone and regresses with the conv-head alone. Background is its
last class, and only foreground classes have box deltas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rethink_heads.config import MMDETECTION
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
from rethink_heads.errors import UserError

HEAD = "roi_head.bbox_head."
RPN = {"conv.0.0": "rpn_conv", "cls_logits": "rpn_cls", "bbox_pred": "rpn_reg"}
WIDENING = {"expand": "conv1", "project": "conv2", "shortcut": "conv_identity"}
BOTTLENECK = {"reduce": 1, "spatial": 2, "restore": 3}
PREDICTOR = {"cls_score": "fc_cls", "bbox_pred": "fc_reg"}
# The branch that mmdetection's double head does each task with.
TASKS = {"cls_score": "fc", "bbox_pred": "conv"}


def recognises(state: State) -> bool:
    """Whether the names are mmdetection's."""
    return "neck.lateral_convs.0.conv.weight" in state or HEAD + "fc_cls.weight" in state


def settings(state: State) -> dict[str, Any]:
    """What a file's names and shapes say of its detector.

    Raises:
        UserError: they are of a detector without a counterpart here.
    """
    channels = shape(state, "neck.lateral_convs.0.conv.weight")[0]
    double = HEAD + "res_block.conv1.conv.weight" in state
    fc6 = HEAD + ("fc_branch.0.weight" if double else "shared_fcs.0.weight")
    classes = shape(state, HEAD + "fc_cls.weight")[0] - 1
    deltas = shape(state, HEAD + "fc_reg.weight")[0]
    if deltas != 4 * classes:
        raise UserError(
            f"{HEAD}fc_reg has {deltas} outputs for {classes} classes; only a head with"
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
    found["conv_width"] = shape(state, HEAD + "res_block.conv2.conv.weight")[0]
    blocks = numbers(state, re.escape(HEAD) + r"conv_branch\.(\d+)\.")
    if blocks:
        found["conv_bottleneck"] = shape(state, HEAD + "conv_branch.0.conv1.weight")[0]
    return {
        **found,
        "conv_blocks": len(blocks),
        "non_local": False,
        "w_fc": 2.0,
        "w_conv": 2.0,
        "head": "double",
    }


def their_name(name: str, model: Mapping[str, Any]) -> str | None:
    """mmdetection's name of a weight of ours; None for a task that its branch does not do."""
    if match := re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.(.+)", name):
        kind = {"inner": "lateral", "layer": "fpn"}[match[1]]
        return f"neck.{kind}_convs.{match[2]}.conv.{match[3]}"
    if match := re.fullmatch(r"rpn\.head\.(.+)\.(weight|bias)", name):
        return f"rpn_head.{RPN[match[1]]}.{match[2]}"
    if match := HEAD_PATTERN.fullmatch(name):
        return _head_name(match[1], match[2], model)
    return name.replace("backbone.body.", "backbone.")


def _head_name(branch: str, name: str, model: Mapping[str, Any]) -> str | None:
    double = model["head"] != "fc"
    if match := re.fullmatch(r"predictor\.(cls_score|bbox_pred)\.(.+)", name):
        if double and TASKS[match[1]] != branch:
            return None
        return f"{HEAD}{PREDICTOR[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"fc([67])\.(.+)", name):
        layers = "fc_branch" if double else "shared_fcs"
        return f"{HEAD}{layers}.{int(match[1]) - 6}.{match[2]}"
    match = BLOCK_PATTERN.fullmatch(name)
    assert match is not None
    index = int(match[1])
    layer, which, what = match[2].split(".")
    if index == 0:
        return f"{HEAD}res_block.{WIDENING[layer]}.{'bn' if which == '1' else 'conv'}.{what}"
    part = f"{'bn' if which == '1' else 'conv'}{BOTTLENECK[layer]}"
    return f"{HEAD}conv_branch.{index - 1}.{part}.{what}"


def adapt(theirs: str, state: State) -> Tensor:
    """A weight of the file as ours: background before the classes, with deltas (of zero) of its own."""
    value = state[theirs]
    if theirs.startswith(HEAD + "fc_cls."):
        return torch.cat([value[-1:], value[:-1]])
    if theirs.startswith(HEAD + "fc_reg."):
        return torch.cat([value.new_zeros(4, *value.shape[1:]), value])
    return value


LAYOUT = Layout(
    name="mmdetection",
    conventions=MMDETECTION,
    recognises=recognises,
    settings=settings,
    their_name=their_name,
    adapt=adapt,
    # Its files keep nothing but weights.
    check=lambda state, model: None,
    ignored=re.compile(
        r"roi_head\.(mask|keypoint|semantic)\w*\..*|data_preprocessor\..*|.*\.num_batches_tracked"
    ),
    defaults={
        "sampling_ratio": 0,
        "conv_enlargement": 1.3,
        "image_mean": (123.675, 116.28, 103.53),
        "image_std": (58.395, 57.12, 57.375),
        "rpn_proposals_train": 2000,
        "rpn_proposals_test": 1000,
        "rpn_cross_boundary_anchors": True,
    },
)
