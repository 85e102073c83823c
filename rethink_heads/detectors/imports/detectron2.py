"""detectron2's checkpoints: a ``GeneralizedRCNN`` of a ResNet and FPN, with its own fc box head or with our heads.

Its own box head (``StandardROIHeads``) has background as its last class and box deltas for foreground classes only, or
one set of deltas for all. Our heads in detectron2 (``RethinkROIHeads``) have the names and order that they have here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rethink_heads.config import DETECTRON2, ModelConfig
from rethink_heads.detectors.imports.detectron2_config import read_settings
from rethink_heads.detectors.imports.layouts import Layout, State, fc_settings, numbers, shape
from rethink_heads.detectors.rcnn.rpn import ANCHOR_STRIDES, cell_anchors
from rethink_heads.errors import UserError
from rethink_heads.heads import BRANCHES, STRUCTURES, kind_of

BODY = "backbone.bottom_up."
RPN_HEAD = "proposal_generator.rpn_head."
ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
OWN_HEADS = "roi_heads.heads."
PREDICTOR = "roi_heads.box_predictor."
RPN = {"conv.0.0": "conv", "cls_logits": "objectness_logits", "bbox_pred": "anchor_deltas"}
# By blocks of the third stage, and whether a block is a bottleneck.
RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
}
# Our fc-head's layers as detectron2's.
STANDARD = {
    "fc6": "roi_heads.box_head.fc1",
    "fc7": "roi_heads.box_head.fc2",
    "predictor.cls_score": PREDICTOR + "cls_score",
    "predictor.bbox_pred": PREDICTOR + "bbox_pred",
}
BOX_DELTAS = 4


def recognises(state: State) -> bool:
    """Whether the names are those of a two-stage detector of detectron2."""
    return RPN_HEAD + "conv.weight" in state or RPN_HEAD + "objectness_logits.weight" in state


def settings(state: State) -> dict[str, Any]:
    """What a file's names and shapes say of its detector.

    Raises:
        UserError: they are of a detector without a counterpart here.
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
    own = any(name.startswith(OWN_HEADS) for name in state)
    found: dict[str, Any] = {
        "backbone": _backbone(state),
        "fpn_channels": channels,
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


def _own_heads(state: State, channels: int) -> dict[str, Any]:
    branches = tuple(n for n in BRANCHES if f"{OWN_HEADS}{n}.predictor.cls_score.weight" in state)
    # The last of a pair's structures trains both branches for both tasks.
    fitting = [name for name, each in STRUCTURES.items() if each.branches == branches]
    if not fitting:
        raise UserError(
            f"the checkpoint's branches under {OWN_HEADS} ({', '.join(branches) or 'none'}) are those of no head here"
        )
    predictor = f"{OWN_HEADS}{branches[0]}.predictor.cls_score.weight"
    found: dict[str, Any] = {"head": fitting[-1], "classes": shape(state, predictor)[0] - 1}
    for branch in branches:
        if kind_of(branch) == "fc":
            found |= fc_settings(state, f"{OWN_HEADS}{branch}.fc6.weight", channels)
        else:
            found |= _conv_settings(state, f"{OWN_HEADS}{branch}.blocks.")
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


def their_name(name: str, model: Mapping[str, Any]) -> str:
    """detectron2's name of a weight of ours.

    Args:
        name: in ``RCNN.state_dict``.
        model: ``standard`` of ``settings``: whether the box head is detectron2's own.
    """
    if name.startswith("backbone.body."):
        return BODY + _body_name(name.removeprefix("backbone.body."))
    if match := re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.(.+)", name):
        kind = {"inner": "lateral", "layer": "output"}[match[1]]
        return f"backbone.fpn_{kind}{int(match[2]) + 2}.{match[3]}"
    if match := re.fullmatch(r"rpn\.head\.(.+)\.(weight|bias)", name):
        return f"{RPN_HEAD}{RPN[match[1]]}.{match[2]}"
    if model["standard"]:
        layer, _, what = name.removeprefix(OWN_HEADS + "fc.").rpartition(".")
        return f"{STANDARD[layer]}.{what}"
    return name


def _body_name(name: str) -> str:
    """A ResNet's weight: the normalisation of a convolution is part of it in detectron2."""
    name = re.sub(r"layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)


def adapt(theirs: str, state: State) -> Tensor:
    """A weight of the file as ours: background before the classes, with deltas (of zero) of its own."""
    value = state[theirs]
    if theirs.startswith(PREDICTOR + "cls_score."):
        return torch.cat([value[-1:], value[:-1]])
    if theirs.startswith(PREDICTOR + "bbox_pred."):
        classes = shape(state, PREDICTOR + "cls_score.weight")[0] - 1
        if len(value) == BOX_DELTAS:
            value = value.repeat(classes, *(1,) * (value.dim() - 1))
        return torch.cat([value.new_zeros(BOX_DELTAS, *value.shape[1:]), value])
    return value


def check_anchors(state: State, model: ModelConfig) -> None:
    """Compare the anchors that older versions keep of each level with those of the settings.

    Raises:
        UserError: they differ.
    """
    levels = zip(ANCHOR_STRIDES, model.anchor_sizes, strict=True)
    for level, (stride, size) in enumerate(levels):
        theirs = state.get(f"{ANCHORS}{level}")
        ours = cell_anchors(LAYOUT.name, stride, size, model.anchor_ratios)
        if theirs is not None and not (
            theirs.shape == ours.shape and torch.allclose(theirs.to(ours), ours, atol=1e-3)
        ):
            raise UserError(
                f"the checkpoint's anchors ({ANCHORS}{level}: {theirs.tolist()}) are not those of the"
                f" settings ({ours.tolist()}): give model.anchor_sizes=[...] and model.anchor_ratios=[...]"
            )


LAYOUT = Layout(
    name="detectron2",
    conventions=DETECTRON2,
    recognises=recognises,
    settings=settings,
    their_name=their_name,
    adapt=adapt,
    check=check_anchors,
    ignored=re.compile(
        r"roi_heads\.(mask|keypoint)_\w+\..*|sem_seg_head\..*|pixel_(mean|std)|.*\.num_batches_tracked"
        r"|proposal_generator\.anchor_generator\.cell_anchors\.\d+"
    ),
    defaults={
        "sampling_ratio": 0,
        "conv_enlargement": 1.3,
        "image_mean": (103.53, 116.28, 123.675),
        "image_std": (1.0, 1.0, 1.0),
        "rpn_proposals_train": 2000,
        "rpn_proposals_test": 1000,
        "rpn_cross_boundary_anchors": True,
    },
    read_settings=read_settings,
)
