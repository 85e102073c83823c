"""What our heads read of a detectron2 configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rethink_heads.bounds import HEADS, head_name
from rethink_heads.config import ModelConfig
from rethink_heads.errors import UserError
from rethink_heads.heads import STRUCTURES

if TYPE_CHECKING:
    from detectron2.config import CfgNode

NODE = "MODEL.RETHINK_HEADS"
SIZES = (
    "fc_width",
    "conv_width",
    "conv_bottleneck",
    "conv_blocks",
    "non_local",
    "non_local_groups",
    "conv_enlargement",
    "fusion",
)
"""Fields of :class:`rethink_heads.config.ModelConfig` that the node has, in capitals."""
LEVEL_FROM = "roi_level_from"
"""The one of :class:`rethink_heads.config.ConventionsConfig`: all others are detectron2's own."""
TASK_WEIGHTS = ("l_fc", "l_conv", "w_fc", "w_conv")
"""Those that it has as numbers, of which a negative one means the structure's own."""


def head_of(cfg: CfgNode) -> str:
    """Our name of the configured head.

    Raises:
        UserError: it is none of ``HEADS``.
    """
    name = head_name(cfg.MODEL.RETHINK_HEADS.HEAD)
    if name not in STRUCTURES:
        raise UserError(f"unknown head {name!r}: set {NODE}.HEAD to one of {', '.join(HEADS)}")
    return str(name)


def model_settings(cfg: CfgNode, channels: int, resolution: int) -> ModelConfig:
    """Our settings of the heads, from our node and from detectron2's ``MODEL.ROI_BOX_HEAD``.

    Args:
        cfg: a configuration with our node.
        channels: channels of the RoI features.
        resolution: their cells along each side.

    Raises:
        UserError: a value is out of its range; the sentence names the key.
    """
    node = cfg.MODEL.RETHINK_HEADS
    values: dict[str, Any] = {name: node[name.upper()] for name in SIZES}
    weights = {name: node[name.upper()] for name in TASK_WEIGHTS}
    values |= {name: None if weight < 0 else weight for name, weight in weights.items()}
    try:
        return ModelConfig(
            fpn_channels=channels,
            roi_resolution=resolution,
            smooth_l1_beta=cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA,
            conventions={LEVEL_FROM: node[LEVEL_FROM.upper()]},  # type: ignore[arg-type]
            **values,
        )
    except ValidationError as error:
        first = error.errors()[0]
        # Of what is nested here, the node has the last name.
        place = ".".join([NODE, *(str(part).upper() for part in first["loc"][-1:])])
        raise UserError(
            f"bad value in the configuration, {place}: {first['msg']}; change it there"
        ) from error


_FIXED: tuple[tuple[str, Any, str], ...] = (
    ("CLS_AGNOSTIC_BBOX_REG", False, "our heads regress a box for each class"),
    ("BBOX_REG_LOSS_TYPE", "smooth_l1", "our heads regress with smooth L1"),
    ("BBOX_REG_LOSS_WEIGHT", 1.0, "the losses are weighted by W_FC, W_CONV, L_FC and L_CONV"),
    ("USE_SIGMOID_CE", False, "our heads classify with softmax"),
    ("USE_FED_LOSS", False, "our heads classify with softmax"),
    ("TRAIN_ON_PRED_BOXES", False, "a double head predicts no single box to train others on"),
)


def refuse_what_heads_lack(cfg: CfgNode) -> None:
    """Raises a UserError for an option of detectron2's box head that ``RethinkROIHeads`` would have to ignore."""
    for key, value, reason in _FIXED:
        if cfg.MODEL.ROI_BOX_HEAD[key] != value:
            raise UserError(
                f"RethinkROIHeads needs MODEL.ROI_BOX_HEAD.{key} {value}, since {reason}: leave it so"
            )
