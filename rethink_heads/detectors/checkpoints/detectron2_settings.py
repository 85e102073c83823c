"""detectron2's configuration files (YAML), read and written without detectron2: what a detector here depends on.

A key that a file does not have takes detectron2's own default. Files of ``configs/`` and the ``config.yaml`` that a
training writes beside its weights are both read.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink_heads.bounds import HEADS, head_name
from rethink_heads.config import Config
from rethink_heads.errors import UserError
from rethink_heads.files import expand_home
from rethink_heads.settings import read_yaml

NODE = "MODEL.RETHINK_HEADS"
SIZES = (
    "fc_width",
    "conv_width",
    "conv_bottleneck",
    "conv_blocks",
    "non_local",
    "non_local_groups",
    "conv_enlargement",
    "canonical_size",
    "fusion",
)
"""Fields of :class:`rethink_heads.config.ModelConfig` that the node has, in capitals."""
LEVEL_FROM = "roi_level_from"
"""The one of :class:`rethink_heads.config.ConventionsConfig`: all others are detectron2's own."""
TASK_WEIGHTS = ("l_fc", "l_conv", "w_fc", "w_conv")
"""Those that it has as numbers, of which a negative one means the structure's own."""

BASE = "_BASE_"
LEVELS = 5
# Our setting, detectron2's key and its default.
SETTINGS: Sequence[tuple[str, str, Any]] = (
    ("image_mean", "MODEL.PIXEL_MEAN", (103.53, 116.28, 123.675)),
    ("image_std", "MODEL.PIXEL_STD", (1.0, 1.0, 1.0)),
    ("min_size", "INPUT.MIN_SIZE_TEST", 800),
    ("max_size", "INPUT.MAX_SIZE_TEST", 1333),
    ("anchor_sizes", "MODEL.ANCHOR_GENERATOR.SIZES", ((32, 64, 128, 256, 512),)),
    ("anchor_ratios", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", ((0.5, 1.0, 2.0),)),
    ("rpn_proposals_train", "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 12000),
    ("rpn_proposals_test", "MODEL.RPN.POST_NMS_TOPK_TEST", 1000),
    ("roi_resolution", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
    ("sampling_ratio", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0),
    ("smooth_l1_beta", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", 0.0),
    ("rois_per_image", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 512),
    ("positive_fraction", "MODEL.ROI_HEADS.POSITIVE_FRACTION", 0.25),
    ("score_threshold", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05),
    ("nms_threshold", "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5),
    ("detections_per_image", "TEST.DETECTIONS_PER_IMAGE", 100),
)
# Keys without a setting here, with what is done here. But for the levels, this is detectron2's default too: its default
# for these is that of a model without a feature pyramid, which the weights are known not to be.
_FIXED: Mapping[str, Any] = {
    "MODEL.RPN.IN_FEATURES": ("p2", "p3", "p4", "p5", "p6"),
    "MODEL.ROI_HEADS.IN_FEATURES": ("p2", "p3", "p4", "p5"),
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.FPN.FUSE_TYPE": "sum",
    "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.RPN.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False,
}
POOLERS = {"ROIAlignV2": True, "ROIAlign": False}
COLOURS = {"BGR": "bgr", "RGB": "rgb"}
DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
"""Depth of the backbones that detectron2 has too."""
BASIC_BLOCKS = ("resnet18", "resnet34")
STAGES = ("res2", "res3", "res4", "res5")
WEIGHTS_NAME = "model.pth"
"""The file of weights beside the configuration."""
WHITE = 255.0
FPN_NORMS = {"none": "", "group": "GN", "batch": "BN"}
"""detectron2's names of ``model.fpn_norm``."""
CANONICAL_SIZE = 224
"""That of detectron2's own pooler, which no key changes."""


@dataclass(frozen=True)
class SettingsFile:
    """What a framework's own configuration file says of a detector.

    Attributes:
        path: the file.
        model: ``model.*`` settings, ``conventions`` aside.
        conventions: those that are not the framework's usual ones.
        head: the structure, where the file says it.
        class_names: the foreground classes, where it names them.
        remarks: a sentence for each setting that has no counterpart here.
    """

    path: Path
    model: Mapping[str, Any]
    conventions: Mapping[str, Any]
    head: str | None
    class_names: tuple[str, ...] | None
    remarks: tuple[str, ...]


def read_settings(path: Path) -> SettingsFile | None:
    """What a configuration file says; None for a YAML file that is no configuration of detectron2.
    Raises UserError where the file cannot be read, or sets something to what no detector here has.
    """
    values = _with_base(Path(path), ())
    if not isinstance(values.get("MODEL"), Mapping):
        return None
    for key, usual in _FIXED.items():
        found = _get(values, key, usual)
        if found != usual:
            raise UserError(
                f"{path} sets {key} to {found}; a detector here has {usual}, so that it cannot be imported"
            )
    head = None
    if _get(values, "MODEL.ROI_HEADS.NAME", None) == "RethinkROIHeads":
        head = head_name(str(_get(values, f"{NODE}.HEAD", "double")))
        if head not in HEADS:
            raise UserError(f"{path} sets {NODE}.HEAD to {head}; the heads are {', '.join(HEADS)}")
    names = tuple(str(name) for name in _get(values, f"{NODE}.CLASS_NAMES", ()))
    before = _get(values, "MODEL.RPN.PRE_NMS_TOPK_TEST", 6000)
    after = _get(values, "MODEL.RPN.POST_NMS_TOPK_TEST", 1000)
    remark = (
        f"detectron2 keeps {before} proposals of a level before NMS and {after} of an image after it; here both are"
        f" {after} (model.rpn_proposals_test)"
    )
    return SettingsFile(
        Path(path),
        _model(values, path),
        _conventions(values, path),
        head,
        names or None,
        (remark,) if before != after else (),
    )


def _with_base(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file's values over those of the file that it names as its base."""
    values = read_yaml(path, "configuration")
    if not isinstance(values, dict):
        raise UserError(f"{path} is no configuration: expected names and values in YAML")
    if path.resolve() in above:
        raise UserError(f"{path} is its own {BASE}: give a configuration that ends somewhere")
    base = values.pop(BASE, None)
    if base is None:
        return values
    below = _with_base(path.parent / expand_home(str(base)), (*above, path.resolve()))
    return _merged(below, values)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(known, value) if both else value  # type: ignore[arg-type]
    return merged


def _get(values: Mapping[str, Any], key: str, usual: Any) -> Any:
    """The value of a dotted key, lists and sequences written as text as tuples; ``usual`` where there is none."""
    node: Any = values
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return usual
        node = node[part]
    if isinstance(node, str) and node.startswith(("(", "[")):
        # YAML has no tuples; detectron2 writes them as Python does.
        try:
            node = ast.literal_eval(node)
        except (ValueError, SyntaxError) as error:
            raise UserError(f"the configuration's {key} is no list: {node!r}") from error
    return _tuples(node)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def _model(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    model = {name: _get(values, key, usual) for name, key, usual in SETTINGS}
    # One size for each level, from detectron2's list of lists.
    sizes = model["anchor_sizes"]
    levels = sizes if isinstance(sizes, tuple) else ()
    if len(levels) != LEVELS or any(not isinstance(e, tuple) or len(e) != 1 for e in levels):
        raise UserError(
            f"{path} sets MODEL.ANCHOR_GENERATOR.SIZES to {sizes}; a detector here has one size for each of"
            f" {LEVELS} levels"
        )
    model["anchor_sizes"] = [level[0] for level in levels]
    ratios = set(model["anchor_ratios"])
    if len(ratios) != 1:
        raise UserError(
            f"{path} has other anchor ratios on each level; a detector here has one list for all"
        )
    model["anchor_ratios"] = list(ratios.pop())
    model["trainable_layers"] = 5 - _get(values, "MODEL.BACKBONE.FREEZE_AT", 2)
    for name in (*SIZES, *TASK_WEIGHTS):
        value = _get(values, f"{NODE}.{name.upper()}", None)
        if value is not None:
            model[name] = None if name in TASK_WEIGHTS and value < 0 else value
    model["rpn_cross_boundary_anchors"] = _get(values, "MODEL.RPN.BOUNDARY_THRESH", -1) != 0
    return model


def _conventions(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    colours = _get(values, "INPUT.FORMAT", "BGR")
    pooler = _get(values, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV2")
    for key, found, known in (
        ("INPUT.FORMAT", colours, COLOURS),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", pooler, POOLERS),
    ):
        if found not in known:
            raise UserError(f"{path} sets {key} to {found}; a detector here has {', '.join(known)}")
    level_from = _get(values, f"{NODE}.{LEVEL_FROM.upper()}", None)
    least = float(_get(values, "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0))
    return {
        "channel_order": COLOURS[colours],
        "stride_in_1x1": _get(values, "MODEL.RESNETS.STRIDE_IN_1X1", True),
        "roi_align_aligned": POOLERS[pooler],
        **({"least_proposal_side": least} if least > 0 else {}),
        **({LEVEL_FROM: level_from} if level_from is not None else {}),
    }


def has_standard_heads(config: Config) -> bool:
    """Whether detectron2's own box head and pooler are all that a detector needs."""
    return config.head == "fc" and config.model.canonical_size == CANONICAL_SIZE


def write_settings(config: Config, class_names: Sequence[str], norm: str) -> dict[str, Any]:
    """Return a detector's configuration in detectron2, as nested names and values.

    Args:
        config: the detector's settings. Those of training are left out: detectron2's own are in its terms.
        norm: the backbone's normalisation, ``frozen`` or ``batch``.
    """
    model, conventions = config.model, config.model.conventions
    values: dict[str, Any] = {}
    for name, key, usual in SETTINGS:
        value = getattr(model, name)
        # detectron2 takes no whole number for a fraction.
        values[key] = float(value) if isinstance(usual, float) else value
    # detectron2 is given pixels up to 255, whatever white is here.
    factor = WHITE / conventions.pixel_range
    standard = has_standard_heads(config)
    values |= {
        "VERSION": 2,
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.WEIGHTS": WEIGHTS_NAME,
        "MODEL.MASK_ON": False,
        "MODEL.PIXEL_MEAN": [factor * value for value in model.image_mean],
        "MODEL.PIXEL_STD": [factor * value for value in model.image_std],
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 5 - model.trainable_layers,
        "MODEL.RESNETS.DEPTH": DEPTHS[model.backbone],
        "MODEL.RESNETS.OUT_FEATURES": list(STAGES),
        "MODEL.RESNETS.NORM": "FrozenBN" if norm == "frozen" else "BN",
        "MODEL.RESNETS.STRIDE_IN_1X1": conventions.stride_in_1x1,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if model.backbone in BASIC_BLOCKS else 256,
        "MODEL.FPN.IN_FEATURES": list(STAGES),
        "MODEL.FPN.OUT_CHANNELS": model.fpn_channels,
        "MODEL.FPN.NORM": FPN_NORMS[model.fpn_norm],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[size] for size in model.anchor_sizes],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[float(ratio) for ratio in model.anchor_ratios]],
        "MODEL.RPN.IN_FEATURES": list(_FIXED["MODEL.RPN.IN_FEATURES"]),
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": model.rpn_proposals_train,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": model.rpn_proposals_test,
        "MODEL.RPN.BOUNDARY_THRESH": -1 if model.rpn_cross_boundary_anchors else 0,
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads" if standard else "RethinkROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": list(_FIXED["MODEL.ROI_HEADS.IN_FEATURES"]),
        "MODEL.ROI_HEADS.NUM_CLASSES": len(class_names),
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _key_of(POOLERS, conventions.roi_align_aligned),
        "INPUT.FORMAT": _key_of(COLOURS, conventions.channel_order),
        "INPUT.MIN_SIZE_TRAIN": [model.min_size],
        "INPUT.MAX_SIZE_TRAIN": model.max_size,
    }
    if standard:
        fc = {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "FC_DIM": model.fc_width}
        values |= {f"MODEL.ROI_BOX_HEAD.{name}": value for name, value in fc.items()}
    else:
        own = {"HEAD": config.head, **{name.upper(): getattr(model, name) for name in SIZES}}
        for name in TASK_WEIGHTS:
            # A negative number is the structure's own.
            value = getattr(model, name)
            own[name.upper()] = -1.0 if value is None else float(value)
        own |= {LEVEL_FROM.upper(): conventions.roi_level_from, "CLASS_NAMES": list(class_names)}
        values |= {f"{NODE}.{name}": value for name, value in own.items()}
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *places, last = key.split(".")
        node = nested
        for place in places:
            node = node.setdefault(place, {})
        node[last] = list(value) if isinstance(value, tuple) else value
    return nested


def _key_of(table: Mapping[str, Any], value: Any) -> str:
    return next(key for key, each in table.items() if each == value)
