"""Our node of a detectron2 configuration, and the configurations that come with the package."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.detectors.detectron2.settings import LEVEL_FROM, SIZES, TASK_WEIGHTS
from rethink_heads.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

CONFIGS = Path(__file__).parent / "configs"
"""Folder of the package's configurations; see :func:`config_file`."""


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
    from rethink_heads.detectors.detectron2 import box_heads, roi_heads  # noqa: F401

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

    Raises:
        UserError: there is neither.
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
