"""How far each way to compute is from float64: whole heads on proposals, and the parts one by one.

    python -m benchmarks.precision --head fc --head conv --objects 3 --output benchmarks/results/precision

The reference is the baseline with all weights and features in float64. Of whole heads the table says how far scores
and boxes are off at most, and Pearson's correlation over all proposals; of the parts, how far they are off on the same
input, as the root mean square of the differences over that of the values.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import pandas as pd
import torch
import typer
from torch import Tensor, nn
from torchvision.ops import roi_align

from benchmarks import machine
from benchmarks.random_weights import branch_of, settings
from benchmarks.sides import Options, Sides, baseline_of, make_sides, ours
from benchmarks.subjects import DEFAULT_DATA, Subject, pcc, sampled
from rethink_heads.fastpath.conv import Convolution, fold_norms
from rethink_heads.fastpath.fc import FastFC
from rethink_heads.fastpath.pooling import RoIAlignRule, level_rois, pool
from rethink_heads.files import write_csv, write_text
from rethink_heads.heads import ConvHead, FCHead, ResidualBlock
from rethink_heads.machine import resolve_device
from rethink_heads.measure.responses import DTYPES, Responder
from rethink_heads.report.cells import to_markdown

HEADS = ("fc", "conv", "conv-nonlocal")
RULE = RoIAlignRule(7, 2)
STRIDE = 4
PLAINLY = "torchvision, float32"

Row = dict[str, Any]


def head_rows(head: str, options: Options, proposals: int) -> list[Row]:
    """A row for each way to compute a head: largest errors of scores and boxes, error of the correlation."""
    config = settings(options.preset, head)
    sides, found = make_sides(config, options)
    exact = baseline_of(copy.deepcopy(sides.detector).double(), config)
    asked = {PLAINLY: None} | {
        f"ours, {name}": Responder(sides.detector, options.memory_mb, name) for name in DTYPES
    }
    answers: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in ("exact", *asked)}
    ious = []
    for subject in found:
        chosen = sampled(subject, proposals, options.seed)
        ious.append(subject.ious[chosen])
        about = subject.proposals[chosen].double(), subject.box.double(), subject.label
        expected = exact.respond(exact.extract(subject.image), *about)
        answers["exact"].append((expected.scores, expected.boxes))
        for name, responder in asked.items():
            answers[name].append(_answer(sides, responder, subject, chosen))
    return [_row(head, name, answers, torch.cat(ious)) for name in asked]


def _answer(
    sides: Sides, responder: Responder | None, subject: Subject, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    if responder is None:
        baseline = sides.baseline
        pyramid = baseline.extract(subject.image)
        answer = baseline.respond(pyramid, subject.proposals[chosen], subject.box, subject.label)
        return answer.scores, answer.boxes
    features: Any = responder.extract(subject.image)
    scores, boxes, _ = ours(responder, features, subject, chosen)
    return scores, boxes


def _row(
    head: str, name: str, answers: dict[str, list[tuple[Tensor, Tensor]]], ious: Tensor
) -> Row:
    (scores, boxes), (true_scores, true_boxes) = (
        [torch.cat(values).double() for values in zip(*answers[side], strict=True)]
        for side in (name, "exact")
    )
    return {
        "head": head,
        "computed": name,
        "PCC": f"{pcc(true_scores, ious):.3f}",
        "score": float((scores - true_scores).abs().max()),
        "box": float((boxes - true_boxes).abs().max()),
        "pcc": pcc(scores, ious) - pcc(true_scores, ious),
        "one": max(_object_pcc_errors(answers[name], answers["exact"], ious), key=abs),
        "proposals": len(scores),
    }


def _object_pcc_errors(
    found: list[tuple[Tensor, Tensor]], exact: list[tuple[Tensor, Tensor]], ious: Tensor
) -> list[float]:
    """Errors of the correlation of each object."""
    subject_ious = ious.split([len(scores) for scores, _ in exact])
    return [
        pcc(scores, iou) - pcc(true_scores, iou)
        for (scores, _), (true_scores, _), iou in zip(found, exact, subject_ious, strict=True)
    ]


@torch.inference_mode()
def part_rows(options: Options) -> list[Row]:
    """A row for each part of the work and way to compute it: relative error on the same input."""
    rows: list[Row] = []
    for head in ("fc", "conv"):
        sides, (subject, *_) = make_sides(settings(options.preset, head), options)
        detector = sides.detector
        features = detector.extract(subject.image)
        feature_map = features.pyramid["0"][0]
        rois = features.to_resized(subject.proposals)
        branch = branch_of(detector)
        if isinstance(branch, FCHead):
            image = sides.baseline.transform([subject.image.float() / 255])[0].tensors
            rows += _backbone_rows(detector.backbone, image)
            rows += _pooling_rows(feature_map, rois[:: max(1, len(rois) // 1464)])
            rows += _linear_rows(branch, feature_map, rois)
        else:
            rows += _convolution_rows(branch, feature_map, rois[:: max(1, len(rois) // 64)])
    return rows


def _backbone_rows(backbone: nn.Module, image: Tensor) -> Iterator[Row]:
    exact = copy.deepcopy(backbone).double()(image.double())
    ways = {
        "plain, float32": backbone,
        "folded normalisation, channels last, float32": fold_norms(backbone),
    }
    for name, way in ways.items():
        found = way(image)
        yield _part("backbone and FPN", name, found["0"], exact["0"])


def _pooling_rows(feature_map: Tensor, rois: Tensor) -> Iterator[Row]:
    exact = _operator(feature_map.double(), rois.double())
    yield _part("RoIAlign", PLAINLY, _operator(feature_map, rois), exact)
    for name, dtype in DTYPES.items():
        level = level_rois(feature_map, rois, 1 / STRIDE, RULE, dtype)
        yield _part("RoIAlign", f"by factors, {name}", pool(level), exact)


def _linear_rows(head: FCHead, feature_map: Tensor, rois: Tensor) -> Iterator[Row]:
    """Of all proposals, since factors are for grids: both linear layers."""
    few = slice(None, None, max(1, len(rois) // 1464))
    pooled = _operator(feature_map.double(), rois[few].double())
    exact = _hidden(copy.deepcopy(head).double(), pooled)
    part = "fc6 and fc7"
    yield _part(part, "plain, float32", _hidden(head, pooled.float()), exact)
    for name, dtype in DTYPES.items():
        layers = FastFC([head.fc6, head.fc7], head.channels, head.resolution, dtype)
        block = pooled.to(dtype).permute(0, 2, 3, 1).contiguous()
        yield _part(part, f"cells first, {name}", layers.from_features(block), exact)
        found = layers.from_level(level_rois(feature_map, rois, 1 / STRIDE, RULE, dtype), 2**40)
        if found is not None:
            yield _part(part, f"with RoIAlign by factors, {name}", found[few], exact)


def _convolution_rows(head: ConvHead, feature_map: Tensor, rois: Tensor) -> Iterator[Row]:
    (first, *_) = head.blocks
    layer = cast(nn.Conv2d, cast(ResidualBlock, first).expand[0])
    weight = layer.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64)
    pooled = _operator(feature_map.double(), rois.double())
    exact = nn.functional.conv2d(pooled, weight, padding=1).relu()
    for name, dtype in DTYPES.items():
        plain = partial(nn.functional.conv2d, pooled.to(dtype), weight.to(dtype), padding=1)
        yield _part("3x3 convolution", f"plain, {name}", plain().relu(), exact)
        by_frequency = Convolution(weight, bias, RULE.resolution, dtype)
        if by_frequency.by_frequency is not None:
            cells = pooled.to(dtype).permute(0, 2, 3, 1).reshape(-1, pooled.shape[1])
            found = by_frequency(cells).view(len(pooled), RULE.resolution, RULE.resolution, -1)
            name = f"frequency by frequency, {name}"
            yield _part("3x3 convolution", name, found.permute(0, 3, 1, 2), exact)


def _operator(feature_map: Tensor, rois: Tensor) -> Tensor:
    found: Tensor = roi_align(
        feature_map[None], [rois], RULE.resolution, 1 / STRIDE, RULE.sampling_ratio
    )
    return found


def _hidden(head: FCHead, pooled: Tensor) -> Tensor:
    hidden = head.fc6(pooled.flatten(1)).relu()
    found: Tensor = head.fc7(hidden).relu()
    return found


def _part(part: str, way: str, found: Tensor, exact: Tensor) -> Row:
    error = (found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    return {"part": part, "computed": way, "error": float(error)}


def report(heads: Sequence[Row], parts: Sequence[Row]) -> str:
    """Both tables in Markdown."""
    names = {
        "score": "largest score error",
        "box": "largest box error (px)",
        "pcc": "PCC error",
        "one": "of one object",
    }
    formats = {"score": ".1e", "box": ".1e", "pcc": "+.1e", "one": "+.1e"}
    heads_table = to_markdown(pd.DataFrame(heads), names=names, formats=formats)
    parts_table = to_markdown(
        pd.DataFrame(parts), names={"error": "relative error"}, formats={"error": ".1e"}
    )
    return f"{heads_table}\n{parts_table}"


def command(
    head: Annotated[list[str], typer.Option(help="Repeat it for several.")] = list(HEADS),  # noqa: B006
    objects: int = 3,
    proposals_per_object: int = 1464,
    preset: str = "coco-r50",
    data: str = DEFAULT_DATA,
    split: str = "val",
    threads: int = len(os.sched_getaffinity(0)),
    memory_mb: int = 512,
    seed: int = 0,
    fit: Annotated[int, typer.Option(help="Steps of fitting the heads to the objects.")] = 200,
    output: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
) -> None:
    """Measure every way to compute against float64; print both tables in Markdown."""
    torch.set_num_threads(threads)
    options = Options(preset, data, split, objects, 1, threads, memory_mb, seed, "cpu", 128)
    heads = []
    for steps in (0, fit):
        for each in head:
            rows = head_rows(each, options._replace(fit=steps), proposals_per_object)
            heads += [
                {**row, "weights": f"fitted, {steps} steps" if steps else "random"} for row in rows
            ]
    parts = part_rows(options._replace(objects=1))
    facts = machine.description(resolve_device("cpu"), threads)
    text = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    text = f"{text}\n\n{report(heads, parts)}"
    typer.echo(text)
    if output is not None:
        write_csv(pd.DataFrame(heads), output / "heads.csv")
        write_csv(pd.DataFrame(parts), output / "parts.csv")
        write_text(output / "precision.md", text)


if __name__ == "__main__":
    typer.run(command)
