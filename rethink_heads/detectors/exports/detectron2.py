"""Our detectors as files of detectron2.

A single fc-head becomes detectron2's own box head, which detectron2 reads by itself. Every other head becomes our
``RethinkROIHeads``, which detectron2 knows after ``add_rethink_heads_config(cfg)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from rethink_heads.config import Config
from rethink_heads.detectors.exports.detectron2_config import (
    DEPTHS,
    EPSILON,
    WEIGHTS_NAME,
    differences,
    settings,
)
from rethink_heads.detectors.imports.detectron2 import BODY, BOX_DELTAS, PREDICTOR, their_name
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.errors import UserError
from rethink_heads.files import write_text, write_torch

CONFIG_NAME = "config.yaml"
CLASSES_NAME = "class_names.txt"


@dataclass(frozen=True)
class Exported:
    """A detector in detectron2's terms.

    Attributes:
        state: weights by detectron2's names.
        settings: its configuration, nested.
        class_names: the K foreground classes, which no key of detectron2's configuration has.
        differences: a sentence for each thing that detectron2 does otherwise.
    """

    state: dict[str, Tensor]
    settings: Mapping[str, Any]
    class_names: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def file_names(self) -> tuple[str, str, str]:
        """What ``write`` writes: weights, configuration, class names."""
        return WEIGHTS_NAME, CONFIG_NAME, CLASSES_NAME

    @property
    def roi_heads(self) -> str:
        """detectron2's name of the second stage."""
        return str(self.settings["MODEL"]["ROI_HEADS"]["NAME"])

    def write(self, folder: Path) -> None:
        """Write ``model.pth``, ``config.yaml`` and ``class_names.txt`` (a line a class), the weights last.

        Args:
            folder: a new or empty one.

        Raises:
            UserError: it cannot be written.
        """
        folder = Path(folder)
        text = yaml.safe_dump(dict(self.settings), sort_keys=False)
        write_text(folder / CONFIG_NAME, text)
        write_text(folder / CLASSES_NAME, "".join(f"{name}\n" for name in self.class_names))
        write_torch({"model": self.state}, folder / WEIGHTS_NAME)


def to_detectron2(detector: RCNN, config: Config) -> Exported:
    """A detector as detectron2 has it: the same network on the same input, but for ``differences``.

    Box deltas of background, which mean nothing, are left out of a single fc-head: detectron2's has none.

    Args:
        detector: on any device.
        config: its settings.

    Raises:
        UserError: detectron2 has no such backbone.
    """
    model = config.model
    if model.backbone not in DEPTHS:
        raise UserError(
            f"detectron2 has no backbone {model.backbone!r}, so this detector cannot be one of its:"
            f" those with {', '.join(DEPTHS)} can"
        )
    standard = config.head == "fc"
    state: dict[str, Tensor] = {}
    for name, value in detector.state_dict().items():
        theirs = their_name(name, {"standard": standard})
        state[theirs] = _adapted(theirs, value.detach().cpu()).clone()
    if detector.norm == "frozen":
        _with_epsilon(state, model.conventions.frozen_norm_epsilon)
    names = detector.class_names
    return Exported(state, settings(config, names, detector.norm), names, differences(config))


def _adapted(theirs: str, value: Tensor) -> Tensor:
    """A weight of ours as detectron2's box head has it: background last, and without deltas."""
    if theirs.startswith(PREDICTOR + "cls_score."):
        return torch.cat([value[1:], value[:1]])
    if theirs.startswith(PREDICTOR + "bbox_pred."):
        return value[BOX_DELTAS:]
    return value


def _with_epsilon(state: dict[str, Tensor], epsilon: float) -> None:
    """Takes from the backbone's variances what detectron2 adds to them beyond ``epsilon``."""
    for name in state:
        if epsilon != EPSILON and name.startswith(BODY) and name.endswith(".running_var"):
            state[name] = (state[name].double() + epsilon - EPSILON).float()
