"""What a framework's checkpoint is called by, and what its weights' shapes say of the detector."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.errors import UserError

State = Mapping[str, Tensor]

BLOCKS_OF_LAYER3 = {6: "resnet50", 23: "resnet101"}
HEAD_PATTERN = re.compile(r"roi_heads\.heads\.(fc|conv)\.(.+)")
BLOCK_PATTERN = re.compile(r"blocks\.(\d+)\.(.+)")


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


@dataclass(frozen=True)
class Layout:
    """One framework's checkpoints.

    Attributes:
        name: as on the command line.
        conventions: the arithmetic that belongs to the weights.
        recognises: whether a file's names are of this layout.
        settings: ``model.*`` settings that a file's names and shapes say, and ``head``.
        their_name: name in the file of a weight of ours (by its name in ``RCNN.state_dict``), given the settings; None
            where the framework has no such weight and zeros take its place.
        adapt: a weight as we want it, from its name in the file and the file's weights.
        check: complains of what else in a file contradicts the settings, of which it is given ``model``.
        ignored: pattern of names that a file may have and we do not need.
        defaults: other ``model.*`` settings, which nothing in a file says.
        read_settings: reads the framework's configuration file; None for a file that is none. A framework whose
            files are not read here has no such function.
    """

    name: str
    conventions: ConventionsConfig
    recognises: Callable[[State], bool]
    settings: Callable[[State], dict[str, Any]]
    their_name: Callable[[str, Mapping[str, Any]], str | None]
    adapt: Callable[[str, State], Tensor]
    check: Callable[[State, ModelConfig], None]
    ignored: re.Pattern[str]
    defaults: Mapping[str, Any]
    read_settings: Callable[[Path], SettingsFile | None] | None = None


def shape(state: State, name: str) -> tuple[int, ...]:
    """Shape of a weight that decides what the detector is.

    Raises:
        UserError: the file has no such weight, or it is a single number.
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
    """The ResNet of bottlenecks whose third stage has as many blocks.

    Raises:
        UserError: there is none.
    """
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
            f"{fc6} has {inputs} inputs, which are no square of RoI cells of {channels} channels"
        )
    return {"fc_width": width, "roi_resolution": resolution}
