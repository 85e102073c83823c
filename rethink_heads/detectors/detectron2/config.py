"""The node that our heads add to detectron2's configuration, the package's files, and whether detectron2 is there."""

from __future__ import annotations

import difflib
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.detectors.checkpoints.detectron2_settings import (
    LEVEL_FROM,
    SIZES,
    TASK_WEIGHTS,
)
from rethink_heads.errors import UserError

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
