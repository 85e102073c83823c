"""``rethink-heads describe``: parameters, multiply-adds and training memory of a preset's detectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rethink_heads import bounds
from rethink_heads.bounds import HEADS
from rethink_heads.console import number, print_json, print_lines, print_table, work
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.options import JsonOption, OverridesArgument, within

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.describing import Description

NAME = "describe"
EXAMPLE = "Example: rethink-heads describe coco-r50 --output tables training.batch_size=2"

# The paper's units, as we remember its 13.25 M weights of an fc-head: they are 13.25 x 2^20.
MEBI = 2**20
GIBI = 2**30

PresetArgument = Annotated[
    str,
    typer.Argument(
        metavar="PRESET|FILE",
        help="A preset, alone or with a head's name after a hyphen, as coco-r50-double-head-ext; or a YAML file.",
        show_default=False,
    ),
]
DescribedHeadsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        metavar="|".join(HEADS),
        help="Head to describe; repeat it for several. Without it: the one in the preset's name, else all.",
        show_default=False,
    ),
]
ClassesOption = Annotated[
    int | None,
    typer.Option(
        "--classes",
        metavar="N",
        callback=within(bounds.CLASSES),
        help="Foreground classes. Without it: those of the data that the preset is named after.",
        show_default=False,
    ),
]
FrameOption = Annotated[
    str | None,
    typer.Option(
        "--frame",
        metavar="HEIGHTxWIDTH",
        help="Size of a training batch in px. Without it: what holds images of sides 4:3, upright and lying.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder that gets the tables as CSV: summary, parts, memory.",
        show_default=False,
    ),
]


def command(
    preset: PresetArgument,
    overrides: OverridesArgument = None,
    head: DescribedHeadsOption = None,
    classes: ClassesOption = None,
    frame: FrameOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a preset's detectors cost, head by head: computed from shapes, nothing is trained.

    Memory is that of weights, gradients, momentum and what autograd saves in a training step with the
    preset's whole batch on one device (for one of four processes give training.batch_size=2).
    """
    rank_zero_only()
    size = _frame(frame)
    with work():
        from rethink_heads.describing import describe

        description = describe(preset, head, overrides or [], classes, size)
    frames = {
        "summary": description.summary(),
        "parts": description.parts,
        "memory": description.memory,
    }
    written = _write(frames, output) if output is not None else []
    if as_json:
        tables = {name: frame.to_dict("records") for name, frame in frames.items()}
        print_json({**_facts(description), **tables, "files": [str(path) for path in written]})
        return
    _print(description)
    print_lines(*(f"wrote {path}" for path in written))


def _frame(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and len(side) < 10 for side in sides):
        raise UserError(f"cannot read --frame {text} as HEIGHTxWIDTH in px, for example 800x1333")
    height, width = map(int, sides)
    return height, width


def _write(frames: dict[str, pd.DataFrame], output: Path) -> list[Path]:
    from rethink_heads.files import write_csv

    written = []
    for name, frame in frames.items():
        path = output / f"{name}.csv"
        write_csv(frame, path)
        written.append(path)
    return written


def _facts(description: Description) -> dict[str, object]:
    return {
        "preset": description.preset,
        "classes": description.classes,
        "images": description.images,
        "rois_per_image": description.rois_per_image,
        "frame": list(description.frame),
        "precision": description.precision,
    }


def _print(description: Description) -> None:
    height, width = description.frame
    print_lines(
        f"{description.preset}: {description.classes} classes, {description.images} images of {height} x {width}"
        f" px and {description.rois_per_image} RoIs each in a step, {description.precision}; M is 2^20",
        "",
    )
    _print_summary(description.summary())
    _print_branches(description.parts)
    _print_memory(description.memory)


def _print_summary(summary: pd.DataFrame) -> None:
    counts = ["parameters", "trained", "backbone", "fpn", "rpn", "branches", "multiply_adds"]
    memory = [name for name in summary.columns if name.startswith("memory ")]
    titles = [f"{name.removeprefix('memory ')} (GiB)" for name in memory]
    print_table(
        "Parameters (M), multiply-adds of the branches per RoI (M), training memory",
        ["head", *counts[:-1], "multiply-adds", *titles],
        [
            [
                str(row["head"]),
                *(number(row[name] / MEBI, 2) for name in counts),
                *(number(row[name] / GIBI, 2) for name in memory),
            ]
            for row in summary.to_dict("records")
        ],
    )


def _print_branches(parts: pd.DataFrame) -> None:
    """Each branch once, a second branch of a kind being as the first."""
    inside = parts[parts["multiply_adds"].notna() & ~parts["part"].str.endswith("2")]
    once = inside.drop_duplicates(["part", "block"])
    print_table(
        "Blocks of a branch (weights: without biases and normalisation)",
        ["branch", "block", "weights (M)", "parameters (M)", "multiply-adds per RoI (M)"],
        [
            [
                str(row["part"]),
                str(row["block"]),
                *(number(row[n] / MEBI) for n in ("weights", "parameters", "multiply_adds")),
            ]
            for row in once.to_dict("records")
        ],
    )


def _print_memory(memory: pd.DataFrame) -> None:
    kinds = [name for name in memory.columns if name not in ("head", "precision")]
    print_table(
        "Training memory (GiB): state, then what autograd saves in each part",
        ["head", "precision", *kinds],
        [
            [
                str(row["head"]),
                str(row["precision"]),
                *(number(row[kind] / GIBI) for kind in kinds),
            ]
            for row in memory.to_dict("records")
        ],
    )
