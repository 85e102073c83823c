"""How often the whole grid's value lies within 1.96 sampling errors of an estimate from some of its proposals.

    python -m benchmarks.sampling --run runs/shapes-fc-0 --objects 40 --draws 200 --output benchmarks/results/sampling

Every proposal of some objects of a run's test data goes through its heads once. Then samples of them are drawn over and
over, each by another seed, and the package's own statistics are taken of each, as from measurements with
``--proposals-per-object``. Of each statistic the table says how often the whole grid's value lay in the estimate +-
1.96 times its stated error (what is claimed: 95%), and how far estimates and stated errors were off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import split_paths
from rethink_heads.detectors.base import Detector
from rethink_heads.files import write_csv, write_text
from rethink_heads.measure.moments import (
    Array,
    bin_covariances,
    bin_moments,
    proposal_values,
)
from rethink_heads.measure.responses import Responder
from rethink_heads.measure.sampling import draw, generator
from rethink_heads.measure.store import Measurements, size_name
from rethink_heads.measure.store_files import MOMENTS, SAMPLING, Name
from rethink_heads.proposals import grid, iou_bin
from rethink_heads.report.cells import to_markdown
from rethink_heads.runs import Run
from rethink_heads.statistics.by_iou import pearson, regressed_iou_by_iou, score_by_iou

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IOU_RANGES = ((0.0, 1.0), (0.5, 1.0))
CLAIM, WIDTH = 0.95, 1.96
# Sums in another order differ by less.
ROUNDING = 1e-12
KEYS = ["run", "head", "proposals", "statistic", "bin"]
# The bootstrap says nothing here of the statistics' errors of sampling.
OPTIONS: dict[str, Any] = {"replicates": 1}


@dataclass(frozen=True)
class MeasuredObject:
    """One object with what each head made of its whole grid.

    Attributes:
        names: its columns of the measurements.
        bins: (N,) IoU bin of each proposal.
        values: by head what :func:`rethink_heads.measure.moments.proposal_values` gives.
    """

    names: dict[str, Any]
    bins: torch.Tensor
    values: dict[str, dict[str, Array]]


def measure_whole(
    detector: Detector, dataset: CocoDataset, name: str, objects: int, memory_mb: int
) -> Iterator[MeasuredObject]:
    """Put the whole grids of ``objects`` objects through a detector, one of each image in turn."""
    found = 0
    respond = Responder(detector, memory_mb)
    with torch.inference_mode():
        for index in range(len(dataset)):
            sample = dataset[index]
            if found == objects:
                return
            if not len(sample.boxes):
                continue
            at = index % len(sample.boxes)
            box, label = sample.boxes[at], int(sample.labels[at])
            height, width = sample.image.shape[1:]
            proposals = grid(box, (height, width))
            features = respond.extract(sample.image)
            responses = respond(features, proposals.boxes, label)
            names = {
                "image_id": sample.image_id,
                "object_id": int(sample.object_ids[at]),
                "class_name": detector.class_names[label],
                "size": size_name(float(sample.areas[at])),
                "detector": name,
            }
            values = {
                head: proposal_values(proposals.ious, scores, boxes, box)
                for head, (scores, boxes) in responses.items()
            }
            yield MeasuredObject(names, iou_bin(proposals.ious), values)
            found += 1


def measurements_of(
    objects: Sequence[MeasuredObject], wanted: int | None = None, seed: int = 0
) -> Measurements:
    """The measurements of the whole grids, or of ``wanted`` proposals of each, drawn by a seed."""
    arrays: dict[Name, list[Array]] = {}
    objects = sorted(objects, key=lambda each: (each.names["image_id"], each.names["object_id"]))
    for each in objects:
        indices, weights = torch.arange(len(each.bins)), torch.ones(len(each.bins))
        if wanted is not None:
            ids = each.names["image_id"], each.names["object_id"]
            indices, weights = draw(each.bins, wanted, generator("proposals", seed, *ids))
        sampled_bins = each.bins[indices]
        for head, values in each.values.items():
            some = {name: column[indices.numpy()] for name, column in values.items()}
            key = each.names["detector"], head
            arrays.setdefault((MOMENTS, *key), []).append(bin_moments(some, sampled_bins, weights))
            if wanted is not None:
                errors = bin_covariances(some, sampled_bins, weights)
                arrays.setdefault((SAMPLING, *key), []).append(errors)
    frame = pd.DataFrame([each.names for each in objects])
    return Measurements(frame, {name: np.stack(each) for name, each in arrays.items()})


def estimates(measurements: Measurements) -> pd.DataFrame:
    """Every statistic with an error of sampling: columns run, head, statistic, bin (-1: none), value and error."""
    found = []
    for low, high in IOU_RANGES:
        range_table = pearson(measurements, (low, high), **OPTIONS).assign(bin=-1)
        for name in ("pcc", "object_pcc"):
            label = f"{'PCC' if name == 'pcc' else 'mean PCC of objects'}, IoU {low:g} to {high:g}"
            found.append(_long(range_table, name, label))
    score = score_by_iou(measurements, **OPTIONS)
    box = regressed_iou_by_iou(measurements, **OPTIONS)
    for frame, variable in ((score, "score"), (box, "regressed IoU")):
        found += [_long(frame, name, f"{name} of {variable} by bin") for name in ("mean", "std")]
    found.append(_long(box, "gain", "mean gain by bin"))
    return pd.concat(found, ignore_index=True)


def _long(frame: pd.DataFrame, name: str, label: str) -> pd.DataFrame:
    all_sizes = frame[frame["size"] == "all"]
    columns = {"run": all_sizes["detector"], "head": all_sizes["head"], "bin": all_sizes["bin"]}
    columns |= {"value": all_sizes[name], "error": all_sizes[f"{name}_sampling_error"]}
    return pd.DataFrame(columns).assign(statistic=label)


def coverage(objects: Sequence[MeasuredObject], wanted: int, draws: int) -> pd.DataFrame:
    """Draw ``wanted`` proposals of each object, ``draws`` times; what the estimates and their errors were.

    Returns:
        One row per head, statistic and bin: "whole" (the whole grid's value), "bias" (mean estimate less that),
        "bias_error" (standard error of the bias, from the draws), "deviation" (standard deviation of the estimates),
        "stated" (root mean square of the errors stated), "variance_ratio" (stated to found), "held" (part of the draws
        whose interval held the whole grid's value) and "draws".
    """
    whole = estimates(measurements_of(objects))
    found = [estimates(measurements_of(objects, wanted, seed)) for seed in range(draws)]
    value = np.stack([each["value"].to_numpy() for each in found])
    error = np.stack([each["error"].to_numpy() for each in found])
    truth = whole["value"].to_numpy()
    deviation, stated = value.std(axis=0, ddof=1), np.sqrt((error**2).mean(axis=0))
    # Sums in another order, where all of a bin is measured, are no deviation.
    within = np.abs(value - truth) <= WIDTH * error + ROUNDING
    table = whole.drop(columns=["value", "error"]).assign(
        proposals=wanted,
        whole=truth,
        bias=value.mean(axis=0) - truth,
        bias_error=deviation / np.sqrt(draws),
        deviation=deviation,
        stated=stated,
        variance_ratio=np.where(
            deviation > ROUNDING, stated**2 / np.maximum(deviation, ROUNDING) ** 2, 1.0
        ),
        held=within.mean(axis=0),
        draws=draws,
    )
    return table[[*KEYS, *(column for column in table.columns if column not in KEYS)]]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Statistics by bin as the mean over bins; "worst" is the smallest part held of any bin.

    Bins that every sample measures whole are left out: their value is held whatever error is stated.
    """
    is_sampled = (table["stated"] > 0) | (table["deviation"] > ROUNDING)
    kept = table[np.isfinite(table["whole"]) & is_sampled]
    groups = kept.groupby(["run", "head", "proposals", "statistic"], sort=False)
    return groups.agg(
        held=("held", "mean"),
        worst=("held", "min"),
        bias=("bias", lambda bias: float(np.sqrt((bias**2).mean()))),
        deviation=("deviation", lambda each: float(np.sqrt((each**2).mean()))),
        stated=("stated", lambda each: float(np.sqrt((each**2).mean()))),
        variance_ratio=("variance_ratio", "mean"),
        draws=("draws", "first"),
    ).reset_index()


def draw_coverage(table: pd.DataFrame) -> Figure:
    """Part held of each statistic, a panel a run and head, a marker a number of proposals; by bin, the mean of bins."""
    from matplotlib.figure import Figure

    from rethink_heads.plots.style import FAINT, PAGE_WIDTH, dress, looks_of, paper_style

    rows = summary(table)
    sides = list(rows[["run", "head"]].drop_duplicates().itertuples(index=False, name=None))
    statistics = list(dict.fromkeys(rows["statistic"]))
    looks = looks_of(sides)
    with paper_style():
        figure = Figure(figsize=(PAGE_WIDTH, 2.6), layout="constrained")
        panels = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
        for ax, side in zip(panels, sides, strict=True):
            ax.axvline(CLAIM, color=FAINT, linewidth=0.8)
            own = rows[(rows["run"] == side[0]) & (rows["head"] == side[1])]
            for wanted, marker in zip(
                sorted(own["proposals"].unique())[::-1], "o^sd", strict=False
            ):
                some = own[own["proposals"] == wanted].set_index("statistic").reindex(statistics)
                chance = WIDTH * np.sqrt(CLAIM * (1 - CLAIM) / some["draws"].to_numpy())
                ax.errorbar(
                    some["held"],
                    np.arange(len(statistics)) + (0.14 if marker == "o" else -0.14),
                    xerr=chance,
                    fmt=marker,
                    color=looks[side].colour,
                    elinewidth=0.7,
                    label=f"{wanted} proposals",
                )
            dress(ax)
            ax.set_yticks(range(len(statistics)), statistics)
            ax.set_xlim(min(0.8, rows["held"].min() - 0.05), 1.0)
            ax.set_xlabel("part of draws that held the whole grid's value")
            ax.set_title("/".join(side))
            ax.legend(loc="lower left")
        panels[0].invert_yaxis()
    return figure


def report(table: pd.DataFrame, command: str) -> str:
    """The summary as Markdown, with the command that made it."""
    columns = {
        "proposals": "proposals of an object",
        "held": "held",
        "worst": "of the worst bin",
        "bias": "bias (rms over bins)",
        "deviation": "deviation",
        "stated": "stated error",
        "variance_ratio": "variance stated to found",
    }
    formats = {"variance_ratio": ".2f"}
    formats |= {"held": ".3f", "worst": ".3f", "bias": ".5f", "deviation": ".5f", "stated": ".5f"}
    note = (
        f"Held: part of the draws in which the whole grid's value lay in the estimate ± {WIDTH} stated errors;"
        f" {CLAIM:.0%} is claimed. Of statistics by bin all numbers are over the bins, those that are measured whole"
        f" left out. Made with `{command}`."
    )
    return to_markdown(summary(table), names=columns, formats=formats, note=note)


def command(
    run: Annotated[list[Path], typer.Option(help="Folder of a trained run; repeat it.")],
    objects: Annotated[int, typer.Option(help="Objects, one an image.")] = 40,
    draws: Annotated[int, typer.Option(help="Samples of each number of proposals.")] = 200,
    proposals_per_object: Annotated[
        list[int] | None, typer.Option(help="Proposals of an object. [default: 1464 and 488]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for sampling.csv, .md, .png and .pdf.")
    ] = None,
) -> None:
    """Count how often the whole grid's value lies in the interval of a sample."""
    torch.set_num_threads(1)
    sizes = proposals_per_object or [1464, 488]
    tables = []
    for path in run:
        opened = Run.open(path)
        dataset = CocoDataset(*split_paths(opened.config.data, "test"))
        whole = list(
            measure_whole(opened.load(), dataset, opened.name, objects, MeasuringConfig().memory_mb)
        )
        tables += [coverage(whole, wanted, draws) for wanted in sizes]
    table = pd.concat(tables, ignore_index=True)
    said = " ".join(f"--run {path}" for path in run)
    text = report(
        table, f"python -m benchmarks.sampling {said} --objects {objects} --draws {draws}"
    )
    typer.echo(text)
    if output is not None:
        from rethink_heads.plots.layout import save_figure

        write_csv(table, output / "sampling.csv")
        write_text(output / "sampling.md", text)
        save_figure(draw_coverage(table), output / "sampling")


if __name__ == "__main__":
    typer.run(command)
