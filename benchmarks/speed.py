"""Times the baseline and the package in turn on the same images, objects and weights, and checks that they agree.

    python -m benchmarks.speed --objects 3 --head fc --precision float32 --precision bfloat16 --output FOLDER

One object at a time, all its proposals: seconds without the backbones, which are timed apart. ``--objects``,
``--repeats`` and ``--chunk`` are given once for all heads, or once for each. What was measured is written after each
object, so that an interrupted run leaves the numbers it had. See README.md for what the columns say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import machine, report
from benchmarks.comparison import compare_head
from benchmarks.peak import growth
from benchmarks.random_weights import HEADS, settings
from benchmarks.sides import BASELINE, Options, Variant, make_sides, ours
from benchmarks.subjects import DEFAULT_DATA, Subject, sampled
from rethink_heads.detectors.coordinates import ImageFeatures
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.errors import UserError
from rethink_heads.files import write_text
from rethink_heads.machine import resolve_device
from rethink_heads.measure.responses import Responder


def prepare_peak(side: str, head: str, variant: Variant, options: Options) -> Callable[[], object]:
    """One side's work on the first subject, to be done in a process that measures its memory."""
    torch.set_num_threads(options.threads)
    sides, found = make_sides(settings(options.preset, head), options._replace(fit=0))
    subject = found[0]
    if side == BASELINE:
        pyramid = sides.baseline.extract(subject.image)
        return partial(
            sides.baseline.respond, pyramid, subject.proposals, subject.box, subject.label
        )
    responder = Responder(sides.detector, options.memory_mb, variant.precision)
    features: Any = responder.extract(subject.image)
    chosen = sampled(subject, variant.proposals, options.seed)
    return partial(_from_the_start, sides.detector, variant, options, features, subject, chosen)


def _from_the_start(
    detector: RCNN,
    variant: Variant,
    options: Options,
    features: ImageFeatures,
    subject: Subject,
    chosen: torch.Tensor,
) -> object:
    """The package's work with the copy of the weights that it makes first."""
    responder = Responder(detector, options.memory_mb, variant.precision)
    return ours(responder, features, subject, chosen)


def for_each(values: list[int], heads: list[str], name: str) -> list[int]:
    """A value for each head, of one for all of them or of one for each."""
    if len(values) not in (1, len(heads)):
        raise UserError(
            f"{len(values)} values of --{name} for {len(heads)} heads: give it once for all, or once for each"
        )
    return values * len(heads) if len(values) == 1 else values


def _peaks(
    head: str, variants: list[Variant], options: Options, numbers: dict[str, Any]
) -> dict[str, float]:
    """MiB of each side; the baseline's as it was timed."""
    tuned_options = options._replace(threads=numbers["threads"], chunk=numbers["chunk"])
    found = {BASELINE: growth(prepare_peak, BASELINE, head, variants[0], tuned_options)}
    for each in variants:
        found[each.name] = growth(prepare_peak, "ours", head, each, options)
    return found


def command(
    head: Annotated[list[str], typer.Option(help="Repeat it for several.")] = list(HEADS),  # noqa: B006
    precision: Annotated[list[str], typer.Option(help="Of the package's heads.")] = ["float32"],  # noqa: B006
    proposals_per_object: Annotated[
        list[int], typer.Option(help="Beside the whole grid also so many of it, sampled.")
    ] = [],  # noqa: B006
    objects: Annotated[list[int], typer.Option(help="Once, or for each head.")] = [3],  # noqa: B006
    repeats: Annotated[list[int], typer.Option(help="Once, or for each head.")] = [3],  # noqa: B006
    preset: str = "coco-r50",
    data: str = DEFAULT_DATA,
    split: str = "val",
    threads: int = len(os.sched_getaffinity(0)),
    memory_mb: int = 512,
    seed: int = 0,
    device: str = "cpu",
    chunk: Annotated[
        list[int],
        typer.Option(help="RoIs at once of the baseline, once or for each head; 0: the best."),
    ] = [0],  # noqa: B006
    memory: Annotated[bool, typer.Option(help="Measure peak memory too.")] = True,
    fit: Annotated[int, typer.Option(help="Steps of fitting the heads to the objects.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Folder for speed.json and speed.md.")] = None,
) -> None:
    """Time baseline and package in turn; print a report in Markdown."""
    torch.set_num_threads(threads)
    plans = zip(
        head,
        for_each(objects, head, "objects"),
        for_each(repeats, head, "repeats"),
        for_each(chunk, head, "chunk"),
        strict=True,
    )
    options = [
        Options(
            preset, data, split, count, times, threads, memory_mb, seed, device, size or None, fit
        )
        for _, count, times, size in plans
    ]
    grids = [None, *proposals_per_object]
    variants = [Variant(each, grid) for grid in grids for each in precision]
    where = resolve_device(device)
    rates = machine.rates(where)
    found: dict[str, Any] = {
        "machine": machine.description(where, threads),
        "options": [each._asdict() for each in options],
        "rates": rates,
        "heads": [],
    }
    for name, own in zip(head, options, strict=True):
        found["heads"].append({})
        for numbers in compare_head(name, variants, own, rates):
            found["heads"][-1] = numbers
            _save(found, output)
            typer.echo(f"{name}: {len(numbers['objects'])} of {own.objects} objects", err=True)
        if memory and where.type == "cpu":
            found["heads"][-1]["peak"] = _peaks(name, variants, own, found["heads"][-1])
            _save(found, output)
    typer.echo(report.whole(found))


def _save(found: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        write_text(output / "speed.json", json.dumps(found, indent=1) + "\n")
        write_text(output / "speed.md", report.whole(found) + "\n")


if __name__ == "__main__":
    typer.run(command)
