"""Other frameworks' checkpoints as detectors of ours, and detectors of ours as files of detectron2.

Of the latter a single fc-head becomes detectron2's own box head, which detectron2 reads by itself. Every other head
becomes our ``RethinkROIHeads``, which detectron2 knows after ``add_rethink_heads_config(cfg)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from rethink_heads.bounds import head_name
from rethink_heads.config import DETECTRON2, Config, ModelConfig, load_preset
from rethink_heads.detectors.answers import check_loaded
from rethink_heads.detectors.checkpoints.detectron2_settings import (
    DEPTHS,
    WEIGHTS_NAME,
    SettingsFile,
    has_standard_heads,
    write_settings,
)
from rethink_heads.detectors.checkpoints.frameworks import (
    BODY,
    BOX_DELTAS,
    LAYOUTS,
    PREDICTOR,
    detectron2_rules,
)
from rethink_heads.detectors.checkpoints.layouts import (
    Layout,
    State,
    known_class_names,
    our_state,
    their_name,
)
from rethink_heads.detectors.checkpoints.reading import read_checkpoint
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.errors import UserError
from rethink_heads.files import write_text, write_torch
from rethink_heads.settings import validate

RECIPES = {"resnet101": "coco-r101"}
USUAL_RECIPE = "coco-r50"
DOUBLE_HEADS = ("double", "double-ext", "double-reverse")
CONFIG_NAME, CLASSES_NAME = "config.yaml", "class_names.txt"
EPSILON = 1e-5
"""What detectron2's frozen normalisation adds to the variance."""
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


@dataclass(frozen=True)
class ImportedDetector:
    """A detector made from another framework's file.

    Attributes:
        detector: in evaluation mode.
        config: its settings; ``config.model.conventions`` are the framework's.
        layout: the framework.
        left_out: names of weights in the file that the detector does not need.
        extras: names of what lies beside the weights in the file.
        settings_path: the framework's configuration file that was read with it, or None.
        remarks: a sentence for each thing that the framework does otherwise and no setting here expresses.
    """

    detector: RCNN
    config: Config
    layout: str
    left_out: tuple[str, ...]
    extras: tuple[str, ...]
    settings_path: Path | None = None
    remarks: tuple[str, ...] = ()


def import_detector(
    path: Path,
    layout: str | None = None,
    backbone: str | None = None,
    head: str | None = None,
    class_names: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    settings: Path | None = None,
) -> ImportedDetector:
    """Build a detector from a checkpoint of maskrcnn-benchmark, mmdetection or detectron2.

    Args:
        path: the file.
        layout: a name of ``LAYOUTS``; None recognises it by its weights' names.
        backbone: ``resnet50`` or ``resnet101``; None reads it off the weights. Another than theirs is refused.
        head: ``double``, ``double-ext`` or ``double-reverse`` for a double head whose file does not say which losses
            trained it; None takes ``double-ext``, the authors' released models'.
        class_names: of the data that the detector was trained for, in its class order. None takes those that the file
            names, or COCO's or VOC's where it has as many.
        overrides: ``key=value`` settings, for what no file says: ``model.conventions.stride_in_1x1=false``.
        settings: detectron2's configuration of the weights (YAML). None reads a ``config.yaml`` beside the file, where
            detectron2's training puts it, if there is one.

    Raises:
        UserError: the file cannot be read, is of another layout, lacks weights or has too many (they are named), or
            something given contradicts it.
    """
    checkpoint = read_checkpoint(path)
    chosen = _layout(layout, checkpoint.state, path)
    found = chosen.settings(checkpoint.state)
    said = _settings_file(chosen, settings, path)
    if backbone is not None and backbone != found["backbone"]:
        raise UserError(
            f"{path} has the weights of {found['backbone']}, not of {backbone}: leave out --backbone"
        )
    configured = said.head if said else None
    found["head"] = _head(head or configured, found["head"], chosen, path)
    named = checkpoint.class_names or (said.class_names if said else None)
    names = _class_names(class_names, named, found["classes"], path)
    config = _config(chosen, found, said, overrides)
    chosen.check_anchors(checkpoint.state, config.model)
    with torch.random.fork_rng(devices=[]):
        detector = build_detector(config, names, pretrained=False)
    state, left_out = our_state(chosen, checkpoint.state, detector.state_dict(), found)
    detector.load_state_dict(state)
    check_loaded(detector.state_dict().items(), str(path))
    return ImportedDetector(
        detector.eval(),
        config,
        chosen.name,
        tuple(left_out),
        checkpoint.extras,
        said.path if said else None,
        said.remarks if said else (),
    )


def _settings_file(layout: Layout, given: Path | None, path: Path) -> SettingsFile | None:
    """The framework's configuration file that is given, or that lies beside the weights."""
    if layout.read_settings is None:
        if given is not None:
            raise UserError(
                f"{given}: configuration files of {layout.name} are not read; give single settings as KEY=VALUE"
            )
        return None
    beside = path.parent / CONFIG_NAME
    chosen = given or (beside if beside.is_file() else None)
    said = layout.read_settings(chosen) if chosen else None
    if given is not None and said is None:
        raise UserError(f"{given} is no configuration of {layout.name}: it has no MODEL")
    return said


def _layout(name: str | None, state: State, path: Path) -> Layout:
    fitting = [layout for layout in LAYOUTS.values() if layout.recognises(state)]
    if name is None:
        if len(fitting) != 1:
            raise UserError(
                f"{path} is of none of the layouts {', '.join(LAYOUTS)}: its weights are called"
                f" {', '.join(list(state)[:5])}, ..."
            )
        return fitting[0]
    if name not in LAYOUTS:
        raise UserError(f"unknown layout {name!r}; the layouts are {', '.join(LAYOUTS)}")
    if LAYOUTS[name] not in fitting:
        seems = f"they are those of {fitting[0].name}" if fitting else "they are of no layout known"
        raise UserError(f"{path}: its weights have not the names of {name}; {seems}")
    return LAYOUTS[name]


def _head(wanted: str | None, found: str, layout: Layout, path: Path) -> str:
    if wanted is None or head_name(wanted) == found:
        return found
    # Both heads of the authors' model have both predictors; mmdetection's have one each.
    if found == "double-ext" and head_name(wanted) in DOUBLE_HEADS:
        return head_name(wanted)
    raise UserError(f"{path} is a {layout.name} detector with head {found}, not {wanted}")


def _class_names(
    given: Sequence[str] | None, said: Sequence[str] | None, count: int, path: Path
) -> Sequence[str]:
    for names, source in ((said, "the file itself"), (given, "the data")):
        if names is not None and len(names) != count:
            raise UserError(
                f"{path} has weights for {count} classes, but {source} has {len(names)};"
                " give the data that it was trained for with --data"
            )
    names = said or given or known_class_names(count)
    if names is None:
        raise UserError(
            f"{path} has weights for {count} classes and no names for them; give the data that it was"
            " trained for with --data"
        )
    return names


def _config(
    layout: Layout,
    found: Mapping[str, Any],
    said: SettingsFile | None,
    overrides: Sequence[str],
) -> Config:
    """The backbone's recipe on COCO, with what the file and its framework say in place of it."""
    recipe = load_preset(RECIPES.get(found["backbone"], USUAL_RECIPE), found["head"])
    values = recipe.model_dump(mode="json")
    model = {name: value for name, value in found.items() if name in ModelConfig.model_fields}
    conventions = layout.conventions.model_dump(mode="json")
    configured = dict(said.model) if said else {}
    # Nothing but the file's own weights fits its conventions.
    fixed = {
        "pretrained": False,
        "norm": "frozen",
        "conventions": conventions | dict(said.conventions if said else {}),
    }
    values["model"] |= {**layout.defaults, **configured, **model, **fixed}
    values["preset"] = f"{layout.name}-{found['backbone']}"
    where = str(said.path) if said else "the checkpoint"
    return validate(Config, values, where).with_overrides(list(overrides))


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
