"""What describes a framework's checkpoints, and a file's weights under our names.

A table of rules renames our weights to the framework's; what does not fit is listed by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.detectors.checkpoints.detectron2_settings import SettingsFile
from rethink_heads.detectors.rcnn.rpn import ANCHOR_STRIDES, cell_anchors
from rethink_heads.errors import UserError

State = Mapping[str, Tensor]

BLOCKS_OF_LAYER3 = {6: "resnet50", 23: "resnet101"}
COUNTER = "num_batches_tracked"
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str] | None]]
"""Patterns of beginnings of our names, and what takes their place: None where a framework has no such weight."""


@dataclass(frozen=True)
class Layout:
    """One framework's checkpoints.

    Attributes:
        name: as on the command line.
        conventions: the arithmetic that belongs to the weights.
        recognises: whether a file's names are of this layout.
        settings: ``model.*`` settings that a file's names and shapes say, and ``head``.
        rules: from our names (in ``RCNN.state_dict``) to the file's, given the settings; where a framework has no such
            weight, zeros take its place.
        adapt: a weight as we want it, from its name in the file and the file's weights.
        anchors: what the names of anchors that files may keep of each level begin with; None where they keep none.
        anchor_tolerance: pixels by which these may differ from those of the settings.
        ignored: pattern of names that a file may have and we do not need.
        defaults: other ``model.*`` settings, which nothing in a file says.
        read_settings: reads the framework's configuration file; None for a file that is none. A framework whose
            files are not read here has no such function.
    """

    name: str
    conventions: ConventionsConfig
    recognises: Callable[[State], bool]
    settings: Callable[[State], dict[str, Any]]
    rules: Callable[[Mapping[str, Any]], Rules]
    adapt: Callable[[str, State], Tensor]
    ignored: re.Pattern[str]
    defaults: Mapping[str, Any]
    anchors: str | None = None
    anchor_tolerance: float = 1e-3
    read_settings: Callable[[Path], SettingsFile | None] | None = None

    def check_anchors(self, state: State, model: ModelConfig) -> None:
        """Raise UserError where the anchors that a file keeps of each level are not those of the settings."""
        if self.anchors is None:
            return
        levels = zip(ANCHOR_STRIDES, model.anchor_sizes, strict=True)
        for level, (stride, size) in enumerate(levels):
            theirs = state.get(f"{self.anchors}{level}")
            ours = cell_anchors(self.name, stride, size, model.anchor_ratios)
            if theirs is not None and not (
                theirs.shape == ours.shape
                and torch.allclose(theirs.to(ours), ours, atol=self.anchor_tolerance)
            ):
                raise UserError(
                    f"the checkpoint's anchors ({self.anchors}{level}: {theirs.tolist()}) are not those of the"
                    f" settings ({ours.tolist()}): give model.anchor_sizes=[...] and model.anchor_ratios=[...]"
                )


def their_name(name: str, rules: Rules) -> str | None:
    """A framework's name of a weight of ours; None where it has no such weight."""
    for pattern, instead in rules:
        if match := re.match(pattern, name):
            if instead is None:
                return None
            beginning = instead(match) if callable(instead) else match.expand(instead)
            return beginning + name[match.end() :]
    return name


def shape(state: State, name: str) -> tuple[int, ...]:
    """Shape of a weight that decides what the detector is.
    Raises UserError where the file has no such weight, or it is a single number.
    """
    if name not in state:
        raise UserError(f"the checkpoint lacks {name}, without which its detector is not known")
    if not state[name].dim():
        raise UserError(
            f"the checkpoint has a single number for {name}, where a matrix is expected"
        )
    return tuple(state[name].shape)


def numbers(state: State, pattern: str) -> list[int]:
    """Sorted numbers that a pattern's group takes in the names."""
    found = (re.match(pattern, name) for name in state)
    return sorted({int(match[1]) for match in found if match})


def backbone_of(state: State) -> str:
    """The ResNet of bottlenecks whose third stage has as many blocks. Raises UserError where there is none."""
    blocks = len(numbers(state, r"backbone\.(?:body\.)?layer3\.(\d+)\.conv3\.weight"))
    if blocks not in BLOCKS_OF_LAYER3:
        raise UserError(
            f"the checkpoint's backbone has {blocks} bottlenecks in layer3; ResNet-50 (6) and ResNet-101 (23)"
            " can be imported"
        )
    return BLOCKS_OF_LAYER3[blocks]


def fc_settings(state: State, fc6: str, channels: int) -> dict[str, Any]:
    """Width of the fc-head and resolution of its RoI features, from its first layer."""
    width, *rest = shape(state, fc6)
    inputs = math.prod(rest)
    resolution = round((inputs / channels) ** 0.5)
    if resolution**2 * channels != inputs:
        raise UserError(
            f"{fc6} has {inputs} inputs, which are no square of RoI positions of {channels} channels"
        )
    return {"fc_width": width, "roi_resolution": resolution}


def known_class_names(count: int) -> Sequence[str] | None:
    """COCO's 80 or VOC's 20 names in the order of their category ids, by their number; None for another number."""
    # torchvision's lists: COCO's has gaps at the ids that no image has, and both begin with background.
    from torchvision.models._meta import _COCO_CATEGORIES, _VOC_CATEGORIES

    for categories in (_COCO_CATEGORIES, _VOC_CATEGORIES):
        names = [name for name in categories if name not in ("__background__", "N/A")]
        if len(names) == count:
            return tuple(names)
    return None


def names_for(
    count: int | None, candidates: Iterable[Sequence[str]], order: str
) -> tuple[str, ...]:
    """The first list of class names of the right length.
    Raises UserError where there is none; ``order`` says in which order names are to be given.
    """
    for names in candidates:
        if len(names) == count:
            return tuple(names)
    said = "the" if count is None else f"the {count}"
    raise UserError(
        f"nothing says what {said} classes of the detector are called: give their names, {order}, as --class-names"
        " (class_names in Python)"
    )


def our_state(
    layout: Layout, state: State, ours: State, model: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a file as a state dict of ours, of the shapes in that of the detector, ``ours``.
    Raises UserError where the file lacks weights, has some that nothing here corresponds to, or has
    them in other shapes.

    Returns:
        The state dict, complete, and the names of what the file has and we do not need.
    """
    renamed: dict[str, Tensor] = {}
    used: set[str] = set()
    missing, misshapen = [], []
    rules = layout.rules(model)
    for name, wanted in ours.items():
        theirs = their_name(name, rules)
        # Files older than the counter have none, and nothing depends on it.
        if theirs is None or (theirs not in state and name.endswith(COUNTER)):
            renamed[name] = torch.zeros_like(wanted)
        elif theirs not in state:
            missing.append(theirs)
        else:
            used.add(theirs)
            value = layout.adapt(theirs, state)
            renamed[name] = value.to(wanted.dtype)
            if value.shape != wanted.shape:
                misshapen.append(f"{theirs} {tuple(value.shape)} for {tuple(wanted.shape)}")
    beside = [name for name in state if name not in used]
    ignored = [name for name in beside if layout.ignored.fullmatch(name)]
    unknown = [name for name in beside if not layout.ignored.fullmatch(name)]
    complaints = [
        f"{sentence}: {', '.join(names)}"
        for sentence, names in (
            (f"it lacks {_weights(missing)}", missing),
            (f"nothing here corresponds to {_weights(unknown)} of it", unknown),
            (f"{_weights(misshapen)} of it have another shape", misshapen),
        )
        if names
    ]
    if complaints:
        raise UserError(
            f"the checkpoint is no {layout.name} detector that can be imported: {'; '.join(complaints)}"
        )
    return renamed, ignored


def _weights(names: Sequence[str]) -> str:
    return "1 weight" if len(names) == 1 else f"{len(names)} weights"


def in_groups(names: Iterable[str]) -> list[str]:
    """Names counted by their first two parts, for a warning: ``roi_heads.mask.* (12)``; counters by what they are."""
    counts: dict[str, int] = {}
    for name in names:
        pieces = name.split(".")
        group = f"*.{COUNTER}" if pieces[-1] == COUNTER else ".".join(pieces[:2]) + ".*"
        counts[group] = counts.get(group, 0) + 1
    return [f"{group} ({count})" for group, count in counts.items()]
