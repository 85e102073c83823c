"""What our heads add to detectron2's configuration, the package's own ones, and whether detectron2 is there."""

from __future__ import annotations

import difflib
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rethink_heads.bounds import HEADS, head_name
from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.detectors.checkpoints.detectron2_settings import (
    LEVEL_FROM,
    NODE,
    SIZES,
    TASK_WEIGHTS,
)
from rethink_heads.errors import UserError
from rethink_heads.structures import STRUCTURES

if TYPE_CHECKING:
    from detectron2.config import CfgNode

COMPILING = (
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)
INSTALLING = f"{COMPILING}, or put a checkout of it on PYTHONPATH, which serves without compiling"

TRACER = "torch.fx._symbolic_trace"

CONFIGS = Path(__file__).parent / "configs"
"""Folder of the package's configurations; see :func:`config_file`."""


def _is_for_users(record: logging.LogRecord) -> bool:
    """False for advice of torch's that detectron2's pooler brings about, and that its own authors alone can follow."""
    return not record.getMessage().startswith("is_fx_tracing")


def require_detectron2() -> None:
    """Import detectron2's models.
    Raises UserError where it, or a package that it needs, is not installed; the message says how to install it.
    """
    try:
        with warnings.catch_warnings():
            # Said of detectron2's own code, which whoever runs it here cannot change.
            warnings.filterwarnings(
                "ignore", message=".*torch.jit.script.*", category=FutureWarning
            )
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            import detectron2.config
            import detectron2.data
            import detectron2.modeling  # noqa: F401
        logging.getLogger(TRACER).addFilter(_is_for_users)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "detectron2"):
            raise UserError(f"detectron2 is not installed: {INSTALLING}") from error
        raise UserError(
            f"detectron2 is here, but {missing!r} that it imports is not: install that, or detectron2 with all that it"
            f" needs: {INSTALLING}"
        ) from error
    except ImportError as error:
        raise UserError(f"detectron2 cannot be imported ({error}): {INSTALLING}") from error


def add_rethink_heads_config(cfg: CfgNode) -> None:
    """Adds the node ``MODEL.RETHINK_HEADS`` and registers our heads, once; to be called before a file is merged.

    ``HEAD`` is one of :data:`rethink_heads.bounds.HEADS`; the sizes are those of ``model`` in this package's
    own settings, in capitals; a negative ``L_FC``, ``L_CONV``, ``W_FC`` or ``W_CONV`` takes the head's own task weight.
    ``ROI_LEVEL_FROM`` says which size of an enlarged RoI chooses its level: ``proposal`` in the package's
    configurations, and ``enlarged`` in what was trained before they said it. ``CLASS_NAMES`` may name the K foreground
    classes, for whoever opens the trained model.
    """
    from detectron2.config import CfgNode

    # Importing them registers them.
    from rethink_heads.detectors.detectron2 import roi_heads  # noqa: F401

    if "RETHINK_HEADS" in cfg.MODEL:
        return
    node = CfgNode()
    node.HEAD = "double"
    for name in SIZES:
        node[name.upper()] = ModelConfig.model_fields[name].default
    for name in TASK_WEIGHTS:
        node[name.upper()] = -1.0
    node[LEVEL_FROM.upper()] = ConventionsConfig.model_fields[LEVEL_FROM].default
    node.CLASS_NAMES = []
    cfg.MODEL.RETHINK_HEADS = node


def config_names() -> tuple[str, ...]:
    """Names of the package's configurations."""
    return tuple(sorted(path.name for path in CONFIGS.glob("*.yaml")))


def config_file(name: str) -> Path:
    """The configuration of that path, or else the package's own of that name, with or without ``.yaml``.
    Raises UserError where there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    names = config_names()
    for own in (name, f"{name}.yaml"):
        if own in names:
            return CONFIGS / own
    near = difflib.get_close_matches(name, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"no configuration {name!r}: {meant}give a file, or one of {', '.join(names)}")


def head_of(cfg: CfgNode) -> str:
    """Our name of the configured head. Raises UserError where it is none of ``HEADS``."""
    name = head_name(cfg.MODEL.RETHINK_HEADS.HEAD)
    if name not in STRUCTURES:
        raise UserError(f"unknown head {name!r}: set {NODE}.HEAD to one of {', '.join(HEADS)}")
    return str(name)


def model_settings(cfg: CfgNode, channels: int, resolution: int) -> ModelConfig:
    """Our settings of the heads, from our node and from detectron2's ``MODEL.ROI_BOX_HEAD``.
    Raises UserError where a value is out of its range; the sentence names the key.
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
