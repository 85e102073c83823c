"""``rethink-heads describe``: parameters, multiply-adds and training memory of a preset's detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads import bounds
from rethink_heads.bounds import HEADS
from rethink_heads.console import redirect_stdout
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.files import write_csv
from rethink_heads.options import JsonOption, OverridesArgument, argument, value
from rethink_heads.report.output import Report

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.describing import Description

NAME = "describe"
EXAMPLE = "Example: rethink-heads describe coco-r50 --output tables training.batch_size=2"

# The paper's units: its 13.25 M weights of an fc-head (from memory, not checked against it) are 13.25 x 2^20.
MEBI = 2**20
GIBI = 2**30


@dataclass(frozen=True)
class DescribeOptions:
    """What is described, and where the tables go."""

    preset: str = argument(
        "PRESET|FILE",
        "A preset, alone or with a head's name after a hyphen, as coco-r50-double-head-ext; or a YAML file.",
    )
    overrides: OverridesArgument = None
    head: list[str] | None = value(
        "|".join(HEADS),
        "Head to describe; repeat it for several. Without it: the one in the preset's name, else all.",
    )
    classes: int | None = value(
        "N",
        "Foreground classes. Without it: those of the data that the preset is named after.",
        bounds.CLASSES,
    )
    frame: str | None = value(
        "HEIGHTxWIDTH",
        "Size of a training batch in px. Without it: what holds images of sides 4:3, upright and lying.",
    )
    output: Path | None = value(
        "DIR", "Folder that gets the tables as CSV: summary, parts, memory."
    )
    as_json: JsonOption = False


def command(options: DescribeOptions) -> None:
    """Print what a preset's detectors cost, head by head: computed from shapes, nothing is trained.

    Memory is that of weights, gradients, momentum and what autograd saves in a training step with the
    preset's whole batch on one device (for one of four processes give training.batch_size=2).
    """
    rank_zero_only()
    size = _frame(options.frame)
    with redirect_stdout():
        from rethink_heads.describing import describe

        overrides = options.overrides or []
        description = describe(options.preset, options.head, overrides, options.classes, size)
    summary, parts, memory = description.summary(), description.parts, description.memory
    frames = {"summary": summary, "parts": parts, "memory": memory}
    result = Report(NAME)
    facts = ("preset", "classes", "images", "rois_per_image", "frame", "precision")
    result.data(description=[{name: getattr(description, name) for name in facts}], **frames)
    if options.output is not None:
        for name, table in frames.items():
            result.files.append(options.output / f"{name}.csv")
            write_csv(table, result.files[-1])
    _show(result, description)
    result.lines(*(f"wrote {path}" for path in result.files))
    result.end(options.as_json)


def _frame(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and len(side) < 10 for side in sides):
        raise UserError(f"cannot read --frame {text} as HEIGHTxWIDTH in px, for example 800x1333")
    height, width = map(int, sides)
    return height, width


def _show(result: Report, description: Description) -> None:
    """Add the tables in M and GiB, as the paper has them."""
    from rethink_heads.report.cells import estimate

    def scaled(
        frame: pd.DataFrame, names: Mapping[str, str], unit: int, digits: int = 3
    ) -> dict[str, list[str]]:
        return {
            title: [estimate(value / unit, digits=digits) for value in frame[name]]
            for name, title in names.items()
        }

    height, width = description.frame
    result.lines(
        f"{description.preset}: {description.classes} classes, {description.images} images of {height} x {width}"
        f" px and {description.rois_per_image} RoIs each in a step, {description.precision}; M is 2^20",
        "",
    )
    summary, parts, memory = description.summary(), description.parts, description.memory
    counts = ["parameters", "trained", "backbone", "fpn", "rpn", "branches"]
    names = {name: name for name in counts} | {"multiply_adds": "multiply-adds"}
    sums = [name for name in map(str, summary) if name.startswith("memory ")]
    titles = {name: f"{name.removeprefix('memory ')} (GiB)" for name in sums}
    cells = scaled(summary, names, MEBI, 2) | scaled(summary, titles, GIBI, 2)
    result.table(
        "Parameters (M), multiply-adds of the branches per RoI (M), training memory",
        {"head": summary["head"], **cells},
    )
    # Each branch once, a second branch of a kind being as the first.
    inside = parts[parts["multiply_adds"].notna() & ~parts["part"].str.endswith("2")]
    once = inside.drop_duplicates(["part", "block"])
    names = {"weights": "weights (M)", "parameters": "parameters (M)"}
    names |= {"multiply_adds": "multiply-adds per RoI (M)"}
    result.table(
        "Blocks of a branch (weights: without biases and normalisation)",
        {"branch": once["part"], "block": once["block"], **scaled(once, names, MEBI)},
    )
    kinds = {name: name for name in map(str, memory) if name not in ("head", "precision")}
    result.table(
        "Training memory (GiB): state, then what autograd saves in each part",
        {"head": memory["head"], "precision": memory["precision"], **scaled(memory, kinds, GIBI)},
    )
