"""Another framework's checkpoint file in, a detector of ours and its settings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rethink_heads.bounds import head_name
from rethink_heads.config import Config, ModelConfig, load_preset
from rethink_heads.detectors.answers import check_loaded
from rethink_heads.detectors.checkpoints.detectron2_settings import SettingsFile
from rethink_heads.detectors.checkpoints.frameworks import LAYOUTS
from rethink_heads.detectors.checkpoints.layouts import Layout, State, known_class_names, our_state
from rethink_heads.detectors.checkpoints.reading import read_checkpoint
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.errors import UserError
from rethink_heads.settings import validate

RECIPES = {"resnet101": "coco-r101"}
USUAL_RECIPE = "coco-r50"
DOUBLE_HEADS = ("double", "double-ext", "double-reverse")
SETTINGS_NAME = "config.yaml"


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
    beside = path.parent / SETTINGS_NAME
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
