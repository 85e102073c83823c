"""Times the yardstick and the package in turn on the same images, objects and weights, and checks that they agree.

    python -m benchmarks.speed --objects 3 --head fc --precision float32 --precision bfloat16 --output FOLDER

One object at a time, all its proposals: seconds without the backbones, which are timed apart. ``--objects``,
``--repeats`` and ``--chunk`` are given once for all heads, or once for each. See README.md for what the columns say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer

from benchmarks import machine, report, stages
from benchmarks.bounds import Work, executed, head_bound, pooling_bound, work
from benchmarks.peak import growth
from benchmarks.pooling import exhaust_blocks
from benchmarks.random_weights import HEADS, branch_of, settings
from benchmarks.sides import (
    YARDSTICK,
    Options,
    Sides,
    Variant,
    exhaust,
    make_sides,
    on_device,
    ours,
)
from benchmarks.subjects import DEFAULT_DATA, Subject, pcc, sampled
from benchmarks.timing import in_turn
from benchmarks.yardstick import CHUNKS, Answer, Pyramid, Yardstick, some_of, tuned
from rethink_heads.detectors.frames import ImageFeatures
from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.devices import resolve_device
from rethink_heads.errors import UserError
from rethink_heads.files import write_text
from rethink_heads.measure.responses import Responder

WARM_PROPOSALS = 512


def compare_head(
    head: str, variants: list[Variant], options: Options, rates: dict[str, float]
) -> dict[str, Any]:
    """All numbers of one head: tuning, seconds by object, agreement, stages, pooling alone."""
    config = settings(options.preset, head)
    sides, found = make_sides(config, options)
    device = sides.detector.device
    first = found[0]
    pyramid = sides.yardstick.extract(first.image.to(device))
    target = on_device(first, device)
    some = some_of(target.proposals)
    chunks = CHUNKS if options.chunk is None else (options.chunk,)
    best, tuning = tuned(
        sides.yardstick,
        lambda tried: tried.respond(pyramid, some, target.box, target.label),
        options.threads,
        chunks,
    )
    best_pool, _ = tuned(
        sides.yardstick, lambda tried: exhaust(tried, pyramid, some), options.threads, chunks
    )
    sides = Sides(best, sides.detector)
    responders = {
        each.precision: Responder(sides.detector, options.memory_mb, each.precision)
        for each in variants
    }
    rows = []
    for number, each in enumerate(found):
        subject = on_device(each, device)
        row = _compare_object(sides, best_pool, subject, variants, responders, options, not number)
        rows.append(row)
        _add_bounds(row, sides, rates)
    return {
        "head": head,
        "tuning": [
            {"threads": threads, "chunk": chunk, "seconds": value}
            for (threads, chunk), value in tuning.items()
        ],
        "tuned on": len(some),
        "threads": best.threads,
        "chunk": best.chunk,
        "pooling chunk": best_pool.chunk,
        "objects": rows,
    }


def _compare_object(
    sides: Sides,
    pool_yardstick: Yardstick,
    subject: Subject,
    variants: list[Variant],
    responders: dict[str, Responder],
    options: Options,
    with_stages: bool,
) -> dict[str, Any]:
    yardstick, detector = sides
    first = responders[variants[0].precision]
    features, pyramid = _extract(first, subject), yardstick.extract(subject.image)
    backbones = in_turn(
        {
            YARDSTICK: partial(yardstick.extract, subject.image),
            "ours": partial(_extract, first, subject),
        },
        options.repeats,
    )
    chosen = {each: sampled(subject, each.proposals, options.seed) for each in variants}
    ask = {
        each.name: partial(ours, responders[each.precision], features, subject, chosen[each])
        for each in variants
    }
    respond_all = partial(yardstick.respond, pyramid, subject.proposals, subject.box, subject.label)
    # Warm: memory is got, weights are laid out, kernels are made.
    yardstick.respond(
        pyramid, some_of(subject.proposals, WARM_PROPOSALS), subject.box, subject.label
    )
    answers: dict[str, tuple[torch.Tensor, ...]] = {}
    operations = {name: executed(partial(_keep, answers, name, work)) for name, work in ask.items()}
    kept: dict[str, Answer] = {}
    respond = partial(_keep, kept, YARDSTICK, respond_all)
    times = in_turn({YARDSTICK: respond, **ask}, options.repeats)
    expected = kept[YARDSTICK]
    agreement = {}
    for each in variants:
        at = chosen[each].to(expected.scores.device)
        scores, boxes, _ = (value.to(expected.scores.device) for value in answers[each.name])
        agreement[each.name] = {
            "proposals": len(at),
            "score": float((scores - expected.scores[at]).abs().max()),
            "box": float((boxes - expected.boxes[at]).abs().max()),
            "pcc": pcc(scores, expected.ious[at]) - pcc(expected.scores[at], expected.ious[at]),
            "operations": operations[each.name],
        }
    with torch.inference_mode():
        pooling = in_turn(
            {
                YARDSTICK: lambda: exhaust(pool_yardstick, pyramid, subject.proposals),
                "ours, block by block": lambda: exhaust_blocks(first, features, subject),
                "ours, all kept": lambda: detector.pool(features, subject.proposals),
            },
            options.repeats,
        )
        difference = _pooling_difference(sides, pyramid, subject)
    return {
        "object": subject.name,
        "size": subject.size,
        "proposals": len(subject.proposals),
        "rows": _rows(subject, pyramid),
        "intervals": len(subject.proposals[:, [0, 2]].unique(dim=0)),
        "backbone": backbones,
        "seconds": times,
        "agreement": agreement,
        "pooling": {**pooling, "difference": difference},
        "stages": {
            YARDSTICK: stages.of_modules(yardstick.pooler, yardstick.head, respond_all),
            **{name: stages.of_records(each) for name, each in ask.items()},
        }
        if with_stages
        else {},
    }


@torch.inference_mode()
def _extract(responder: Responder, subject: Subject) -> Any:
    return responder.extract(subject.image)


def _keep(answers: dict[str, Any], name: str, work: Callable[[], Any]) -> None:
    answers[name] = work()


def _pooling_difference(sides: Sides, pyramid: Pyramid, subject: Subject) -> float:
    """Largest relative difference of pooled features of one backbone's levels, on some of the proposals."""
    some = some_of(subject.proposals)
    features = ImageFeatures(pyramid.levels, pyramid.size, pyramid.original_size)
    expected = torch.cat(list(sides.yardstick.pool(pyramid, some)))
    (found,) = sides.detector.pool(features, some).values()
    return float((found - expected).abs().max() / expected.abs().max())


def _rows(subject: Subject, pyramid: Pyramid) -> int:
    """Rows of the object's own level that its proposals lie over."""
    scale = pyramid.size[0] / pyramid.original_size[0]
    sides = (subject.box[2:] - subject.box[:2]) * scale
    level = int(torch.log2(sides.prod().sqrt() / 56 + 1e-6).floor().clamp(0, 3))
    low, high = subject.proposals[:, 1].min(), subject.proposals[:, 3].max()
    return int((high - low) * scale / (4 * 2**level)) + 2


def _add_bounds(row: dict[str, Any], sides: Sides, rates: dict[str, float]) -> None:
    """Put into an object's row what it costs, and the least times at the machine's rates."""
    head, channels = branch_of(sides.detector), cast(int, sides.detector.backbone.out_channels)
    float32, bandwidth = machine.best_rate(rates, "float32"), machine.bandwidth(rates)

    def of(proposals: int) -> Work:
        return work(head, channels, proposals, row["intervals"], row["rows"])

    whole = of(row["proposals"])
    row["work"] = asdict(whole)
    row["pooling"]["bound"] = pooling_bound(whole, float32, bandwidth)
    row["bounds"], row["own bounds"] = {}, {}
    for name, each in row["agreement"].items():
        rate = machine.best_rate(rates, name.split(",")[0])
        row["bounds"][name] = head_bound(of(each["proposals"]), rate)
        row["own bounds"][name] = each["operations"] / rate


def prepare_peak(side: str, head: str, variant: Variant, options: Options) -> Callable[[], object]:
    """One side's work on the first subject, to be done in a process that measures its memory."""
    torch.set_num_threads(options.threads)
    sides, found = make_sides(settings(options.preset, head), options)
    subject = found[0]
    if side == YARDSTICK:
        pyramid = sides.yardstick.extract(subject.image)
        return partial(
            sides.yardstick.respond, pyramid, subject.proposals, subject.box, subject.label
        )
    features = _extract(Responder(sides.detector, options.memory_mb, variant.precision), subject)
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
    """MiB of each side; the yardstick's as it was timed."""
    tuned_options = options._replace(threads=numbers["threads"], chunk=numbers["chunk"])
    found = {YARDSTICK: growth(prepare_peak, YARDSTICK, head, variants[0], tuned_options)}
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
        typer.Option(help="RoIs at once of the yardstick, once or for each head; 0: the best."),
    ] = [0],  # noqa: B006
    memory: Annotated[bool, typer.Option(help="Measure peak memory too.")] = True,
    output: Annotated[Path | None, typer.Option(help="Folder for speed.json and speed.md.")] = None,
) -> None:
    """Time yardstick and package in turn; print a report in Markdown."""
    torch.set_num_threads(threads)
    plans = zip(
        head,
        for_each(objects, head, "objects"),
        for_each(repeats, head, "repeats"),
        for_each(chunk, head, "chunk"),
        strict=True,
    )
    options = [
        Options(preset, data, split, count, times, threads, memory_mb, seed, device, size or None)
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
        numbers = compare_head(name, variants, own, rates)
        if memory and where.type == "cpu":
            numbers["peak"] = _peaks(name, variants, own, numbers)
        found["heads"].append(numbers)
    text = report.whole(found)
    typer.echo(text)
    if output is not None:
        write_text(output / "speed.json", json.dumps(found, indent=1) + "\n")
        write_text(output / "speed.md", text + "\n")


if __name__ == "__main__":
    typer.run(command)
