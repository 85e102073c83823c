"""Our detectors as files of detectron2.

A single fc-head becomes detectron2's own box head, which detectron2 reads by itself. Every other head becomes our
``RethinkROIHeads``, which detectron2 knows after ``add_rethink_heads_config(cfg)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from rethink_heads.config import DETECTRON2, Config
from rethink_heads.detectors.checkpoints.detectron2_settings import (
    DEPTHS,
    WEIGHTS_NAME,
    has_standard_heads,
    write_settings,
)
from rethink_heads.detectors.checkpoints.frameworks import (
    BODY,
    BOX_DELTAS,
    PREDICTOR,
    detectron2_rules,
)
from rethink_heads.detectors.checkpoints.layouts import their_name
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.errors import UserError
from rethink_heads.files import write_text, write_torch

CONFIG_NAME = "config.yaml"
CLASSES_NAME = "class_names.txt"
EPSILON = 1e-5
"""What detectron2's frozen normalisation adds to the variance."""


@dataclass(frozen=True)
class ExportedDetector:
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
        """Names of the files that ``write`` writes, of weights, configuration and class names."""
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


def to_detectron2(detector: RCNN, config: Config) -> ExportedDetector:
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
    rules = detectron2_rules({"standard": has_standard_heads(config)})
    state: dict[str, Tensor] = {}
    for name, value in detector.state_dict().items():
        theirs = their_name(name, rules) or name
        value = value.detach().cpu()
        # detectron2's box head has background last, and without deltas.
        if theirs.startswith(PREDICTOR + "cls_score."):
            value = torch.cat([value[1:], value[:1]])
        elif theirs.startswith(PREDICTOR + "bbox_pred."):
            value = value[BOX_DELTAS:]
        state[theirs] = value.clone()
    epsilon = model.conventions.frozen_norm_epsilon
    if detector.norm == "frozen" and epsilon != EPSILON:
        # What detectron2 adds to the backbone's variances beyond this is taken from them.
        for name in state:
            if name.startswith(BODY) and name.endswith(".running_var"):
                state[name] = (state[name].double() + epsilon - EPSILON).float()
    names = detector.class_names
    return ExportedDetector(
        state, write_settings(config, names, detector.norm), names, differences(config)
    )


def differences(config: Config) -> tuple[str, ...]:
    """A sentence for everything that detectron2 does otherwise with the same weights, and no key of it changes."""
    ours, theirs = config.model.conventions, DETECTRON2
    told: Sequence[tuple[bool, str]] = (
        (
            ours.interpolation != theirs.interpolation,
            "images: detectron2 resizes 8-bit pixels with Pillow and rounds them; this detector "
            + _RESIZING[ours.interpolation],
        ),
        (
            ours.size_rule != theirs.size_rule,
            "images: detectron2 rounds a resized side to the nearest pixel, so that it may be one pixel longer than"
            f" by {ours.size_rule}'s rule, which this detector has",
        ),
        (
            ours.pad_multiple != 32,
            f"images: detectron2 pads to multiples of 32 pixels, this detector to {ours.pad_multiple}",
        ),
        (ours.anchors in _ANCHORS, "anchors: " + _ANCHORS.get(ours.anchors, "")),
        (
            ours.box_ends == "pixel",
            "boxes: detectron2's end at edges, this detector's at the index of their last pixel; its RoIs, deltas and"
            " detections are off by up to a pixel there",
        ),
        (
            ours.delta_limits != "growth",
            "boxes: detectron2 limits how much a delta enlarges a box, not how much it shrinks it as well",
        ),
        (
            ours.roi_level_rule != theirs.roi_level_rule,
            "RoIs: one whose size is within a millionth of where the levels change may be pooled from the other"
            " level in detectron2",
        ),
        (
            ours.least_proposal_side > theirs.least_proposal_side
            or ours.least_detection_side != theirs.least_detection_side,
            f"boxes: detectron2 drops those without width or height; this detector drops proposals under"
            f" {ours.least_proposal_side:g} and detections under {ours.least_detection_side:g} pixels",
        ),
        (
            ours.proposal_order != theirs.proposal_order,
            "proposals: detectron2 ranks them by logits, this detector by probabilities, of which equal ones may"
            " change places",
        ),
        (
            ours.frozen_norm_epsilon != EPSILON,
            f"normalisation: detectron2 adds {EPSILON:g} to the variance, this detector {ours.frozen_norm_epsilon:g};"
            " the frozen variances in the file are less by the difference, which gives the same features",
        ),
    )
    return tuple(sentence for differs, sentence in told if differs)


_RESIZING = {
    "float": "resizes float values without rounding",
    "opencv": "resizes them as OpenCV does",
    "pillow": "does the same",
}
_ANCHORS = {
    "torchvision": "detectron2's are not rounded to whole pixels, and the cells of P6 are 64 pixels apart whatever"
    " the image's size; this detector has torchvision's, which lie up to half a pixel from them",
    "maskrcnn-benchmark": "detectron2's are not rounded and lie about a cell's corner; this detector has"
    " maskrcnn-benchmark's, about a cell's middle",
}
