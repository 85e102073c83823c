"""One head of both sides on the same objects: seconds in turn, agreement, pooling alone, bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks import machine, stages
from benchmarks.baseline import CHUNKS, Answer, Baseline, Pyramid, some_of, tuned
from benchmarks.bounds import Work, executed, head_bound, pooling_bound, work
from benchmarks.pooling import exhaust_blocks
from benchmarks.random_weights import branch_of, settings
from benchmarks.sides import (
    BASELINE,
    Options,
    Sides,
    Variant,
    exhaust,
    keep,
    make_sides,
    on_device,
    ours,
)
from benchmarks.subjects import Moments, Subject, pcc, sampled
from benchmarks.timing import in_turn
from rethink_heads.detectors.coordinates import ImageFeatures
from rethink_heads.measure.responses import Responder

WARM_PROPOSALS = 512


def compare_head(
    head: str, variants: list[Variant], options: Options, rates: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """All numbers of one head, after each object those of the objects so far.

    Yields:
        Tuning and, by object, seconds, agreement, stages, pooling alone.
    """
    config = settings(options.preset, head)
    sides, found = make_sides(config, options)
    device = sides.detector.device
    first = found[0]
    pyramid = sides.baseline.extract(first.image.to(device))
    target = on_device(first, device)
    some = some_of(target.proposals)
    chunks = CHUNKS if options.chunk is None else (options.chunk,)
    best, tuning = tuned(
        sides.baseline,
        lambda tried: tried.respond(pyramid, some, target.box, target.label),
        options.threads,
        chunks,
    )
    best_pool, _ = tuned(
        sides.baseline, lambda tried: exhaust(tried, pyramid, some), options.threads, chunks
    )
    sides = Sides(best, sides.detector)
    responders = {
        each.precision: Responder(sides.detector, options.memory_mb, each.precision)
        for each in variants
    }
    numbers: dict[str, Any] = {
        "head": head,
        "tuning": [
            {"threads": threads, "chunk": chunk, "seconds": value}
            for (threads, chunk), value in tuning.items()
        ],
        "tuned on": len(some),
        "threads": best.threads,
        "chunk": best.chunk,
        "pooling chunk": best_pool.chunk,
        "objects": [],
    }
    for number, each in enumerate(found):
        subject = on_device(each, device)
        row = _compare_object(sides, best_pool, subject, variants, responders, options, not number)
        _add_bounds(row, sides, rates)
        numbers["objects"].append(row)
        yield numbers


def _compare_object(
    sides: Sides,
    pool_baseline: Baseline,
    subject: Subject,
    variants: list[Variant],
    responders: dict[str, Responder],
    options: Options,
    with_stages: bool,
) -> dict[str, Any]:
    baseline, detector = sides
    first = responders[variants[0].precision]
    features, pyramid = _extract(first, subject), baseline.extract(subject.image)
    backbones = in_turn(
        {
            BASELINE: partial(baseline.extract, subject.image),
            "ours": partial(_extract, first, subject),
        },
        options.repeats,
    )
    chosen = {each: sampled(subject, each.proposals, options.seed) for each in variants}
    ask = {
        each.name: partial(ours, responders[each.precision], features, subject, chosen[each])
        for each in variants
    }
    respond_all = partial(baseline.respond, pyramid, subject.proposals, subject.box, subject.label)
    # Warm: memory is got, weights are laid out, kernels are made.
    baseline.respond(
        pyramid, some_of(subject.proposals, WARM_PROPOSALS), subject.box, subject.label
    )
    answers: dict[str, tuple[Tensor, ...]] = {}
    operations = {name: executed(partial(_keep, answers, name, work)) for name, work in ask.items()}
    kept: dict[str, Answer] = {}
    respond = partial(_keep, kept, BASELINE, respond_all)
    times = in_turn({BASELINE: respond, **ask}, options.repeats)
    expected = kept[BASELINE]
    agreement = {
        each.name: _agreement(answers[each.name], expected, chosen[each], operations[each.name])
        for each in variants
    }
    with torch.inference_mode():
        pooling = in_turn(
            {
                BASELINE: lambda: exhaust(pool_baseline, pyramid, subject.proposals),
                "ours, block by block": lambda: exhaust_blocks(first, features, subject),
                "baseline, all kept": lambda: keep(pool_baseline, pyramid, subject.proposals),
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
            BASELINE: stages.module_seconds(baseline.pooler, baseline.head, respond_all),
            **{name: stages.record_seconds(each) for name, each in ask.items()},
        }
        if with_stages
        else {},
    }


def _agreement(
    answer: tuple[Tensor, ...], expected: Answer, chosen: Tensor, operations: float
) -> dict[str, Any]:
    """How far the package's answer about some of the proposals is from the baseline's, and what it cost."""
    device = expected.scores.device
    at = chosen.to(device)
    scores, boxes, _ = (value.to(device) for value in answer)
    baseline_scores, ious = expected.scores[at], expected.ious[at]
    return {
        "proposals": len(at),
        "score": float((scores - baseline_scores).abs().max()),
        "box": float((boxes - expected.boxes[at]).abs().max()),
        "pcc": pcc(scores, ious) - pcc(baseline_scores, ious),
        "moments": [list(Moments.of(side, ious)) for side in (scores, baseline_scores)],
        "operations": operations,
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
    expected = torch.cat(list(sides.baseline.pool(pyramid, some)))
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
