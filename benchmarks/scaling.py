"""How the cost of an object grows: with the objects of an image, the proposals of an object and the size of the image.

    python -m benchmarks.scaling --head fc --head conv --output benchmarks/results/scaling

Writes scaling.csv, and the figure scaling.png and .pdf: seconds an object of the baseline and of the package. The
baseline takes ``--chunk`` RoIs at once throughout, on all threads: give the one that benchmarks.speed found the best.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.baseline import some_of
from benchmarks.random_weights import HEADS, settings
from benchmarks.sides import BASELINE, Options, Sides, make_sides, on_device, ours
from benchmarks.subjects import DEFAULT_DATA, Subject
from benchmarks.timing import in_turn, seconds
from rethink_heads.files import write_csv
from rethink_heads.machine import resolve_device
from rethink_heads.measure.responses import Responder
from rethink_heads.plots.layout import save_figure
from rethink_heads.plots.style import (
    FAINT,
    HEAD_COLOURS,
    INK,
    PAGE_WIDTH,
    dress,
    head_label,
    paper_style,
)
from rethink_heads.proposals import grid

OBJECTS, PROPOSALS, SIZE = "objects", "proposals", "size"
TITLES = {
    OBJECTS: "objects of an image",
    PROPOSALS: "proposals of an object",
    SIZE: "shorter side of the image (px)",
}
PRECISIONS = ("float32", "bfloat16")
LABELS = {BASELINE: "torchvision", "float32": "ours, float32", "bfloat16": "ours, bfloat16"}
PANEL_HEIGHT = 2.0
WARM_PROPOSALS = 1024

Row = dict[str, Any]


def measure_head(
    head: str,
    options: Options,
    objects: int,
    steps: Sequence[int],
    image_sizes: Sequence[int],
) -> list[Row]:
    """Seconds an object in all three series, as rows of head, series, x, side and seconds."""
    config = settings(options.preset, head)
    sides, found = make_sides(config, options)
    subject = on_device(found[0], sides.detector.device)
    responders = _responders(sides, options)
    rows = list(_by_objects(sides, responders, subject, objects))
    for step in steps:
        few = _with_grid(subject, step)
        times = _object_seconds(sides, responders, few, options.repeats)
        rows += _rows(PROPOSALS, len(few.proposals), times)
    for size in image_sizes:
        model = config.model.model_copy(
            update={"min_size": size, "max_size": max(size, size * 1333 // 800)}
        )
        resized, _ = make_sides(config.model_copy(update={"model": model}), options)
        times = _object_seconds(resized, _responders(resized, options), subject, options.repeats)
        rows += _rows(SIZE, size, times)
    return [{"head": head, **row} for row in rows]


def _responders(sides: Sides, options: Options) -> dict[str, Responder]:
    return {each: Responder(sides.detector, options.memory_mb, each) for each in PRECISIONS}


def _with_grid(subject: Subject, steps: int) -> Subject:
    height, width = subject.image.shape[-2:]
    proposals = grid(subject.box, (height, width), steps)
    return replace(subject, proposals=proposals.boxes.to(subject.proposals), ious=proposals.ious)


def _works(
    sides: Sides, responders: Mapping[str, Responder], subject: Subject
) -> dict[str, Callable[[], object]]:
    """By side: what asks about all of a subject's proposals, its features being there."""
    with torch.inference_mode():
        features = next(iter(responders.values())).extract(subject.image)
    pyramid = sides.baseline.extract(subject.image)
    chosen = torch.arange(len(subject.proposals))
    ask_baseline = partial(
        sides.baseline.respond, pyramid, subject.proposals, subject.box, subject.label
    )
    return {
        BASELINE: ask_baseline,
        **{
            name: partial(ours, responder, features, subject, chosen)
            for name, responder in responders.items()
        },
    }


def _warm(sides: Sides, responders: Mapping[str, Responder], subject: Subject) -> None:
    """Some of the work of both sides: memory is got and kernels are made."""
    few = replace(subject, proposals=some_of(subject.proposals, WARM_PROPOSALS))
    for work in _works(sides, responders, few).values():
        work()


def _object_seconds(
    sides: Sides, responders: Mapping[str, Responder], subject: Subject, repeats: int
) -> dict[str, float]:
    works = _works(sides, responders, subject)
    _warm(sides, responders, subject)
    return in_turn(works, repeats)


def _by_objects(
    sides: Sides, responders: Mapping[str, Responder], subject: Subject, most: int
) -> Iterator[Row]:
    """Seconds an object with the image's backbone, which its objects share, for 1 to ``most`` objects."""
    works = _works(sides, responders, subject)
    _warm(sides, responders, subject)
    # The features were made just now: both backbones are warm.
    spent = {BASELINE: seconds(lambda: sides.baseline.extract(subject.image))}
    with torch.inference_mode():
        for name, responder in responders.items():
            spent[name] = seconds(partial(responder.extract, subject.image))
    for number in range(1, most + 1):
        for name, work in works.items():
            spent[name] += seconds(work)
        if number & (number - 1) == 0 or number == most:
            yield from _rows(OBJECTS, number, {name: spent[name] / number for name in spent})


def _rows(series: str, x: int, times: Mapping[str, float]) -> list[Row]:
    return [
        {"series": series, "x": x, "side": side, "seconds": value} for side, value in times.items()
    ]


def draw(frame: pd.DataFrame) -> Figure:
    """A row of panels for each head, a panel for each series, both axes logarithmic."""
    heads = list(dict.fromkeys(frame["head"]))
    with paper_style():
        figure = Figure((PAGE_WIDTH, PANEL_HEIGHT * len(heads)), layout="constrained")
        panels = figure.subplots(len(heads), len(TITLES), squeeze=False, sharey="row")
        for row, head in enumerate(heads):
            for column, (series, title) in enumerate(TITLES.items()):
                ax = panels[row, column]
                dress(ax)
                _draw_panel(ax, frame[(frame["head"] == head) & (frame["series"] == series)], head)
                if row == len(heads) - 1:
                    ax.set_xlabel(title)
            panels[row, 0].set_ylabel(f"{_label(head)}\nseconds an object")
        panels[0, 0].legend(loc="best")
    return figure


def _label(head: str) -> str:
    name, _, more = head.partition("-")
    return head_label(name) + (f" ({more})" if more else "")


def _draw_panel(ax: Any, frame: pd.DataFrame, head: str) -> None:
    colour = HEAD_COLOURS[head.partition("-")[0]]
    looks: dict[str, dict[str, Any]] = {
        BASELINE: {"color": INK, "linestyle": (0, (4, 1.5)), "marker": "x"},
        "float32": {"color": colour, "marker": "o"},
        "bfloat16": {"color": colour, "marker": "o", "markerfacecolor": "white"},
    }
    for side, look in looks.items():
        line = frame[frame["side"] == side].sort_values("x")
        ax.plot(line["x"], line["seconds"], label=LABELS[side], **look)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = sorted(set(frame["x"]))
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.xaxis.minorticks_off()
    ax.grid(True, axis="x", color=FAINT, alpha=0.15, linewidth=0.5)


def command(
    head: Annotated[list[str], typer.Option(help="Repeat it for several.")] = list(HEADS[:2]),  # noqa: B006
    objects: int = 8,
    steps: Annotated[
        list[int], typer.Option(help="Grids' steps; proposals are their 4th power.")
    ] = [  # noqa: B006
        3,
        5,
        7,
        9,
        11,
    ],
    image_size: Annotated[list[int], typer.Option(help="Shorter sides, in px.")] = [  # noqa: B006
        400,
        600,
        800,
        1200,
    ],
    repeats: int = 1,
    preset: str = "coco-r50",
    data: str = DEFAULT_DATA,
    split: str = "val",
    threads: int = len(os.sched_getaffinity(0)),
    chunk: Annotated[int, typer.Option(help="RoIs at once of the baseline.")] = 256,
    memory_mb: int = 512,
    seed: int = 0,
    device: str = "cpu",
    output: Annotated[Path, typer.Option(help="Folder for the table and the figure.")] = Path(
        "benchmarks/results/scaling"
    ),
) -> None:
    """Time baseline and package as the work grows; write a table and a figure."""
    torch.set_num_threads(threads)
    options = Options(preset, data, split, 1, repeats, threads, memory_mb, seed, device, chunk)
    rows: list[Row] = []
    for name in head:
        rows += measure_head(name, options, objects, steps, image_size)
    frame = pd.DataFrame(rows)
    write_csv(frame, output / "scaling.csv")
    save_figure(draw(frame), output / "scaling")
    for fact, text in machine.description(resolve_device(device), threads).items():
        typer.echo(f"- {fact}: {text}")


if __name__ == "__main__":
    typer.run(command)
