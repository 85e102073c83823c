"""Do swaps forecast what a Double-Head gains? Detectors trained apart are swapped, and the trained Double-Heads asked.

    python -m benchmarks.forecasts runs --set shapes --seed 0 --seed 1 --output benchmarks/results/forecasts

The runs are named SET-STRUCTURE-SEED, or SET-STRUCTURE where no seed is given: ``fc``, ``conv``, and what is there of
``double``, ``double-reverse`` and ``double-ext``. A *forecast* is the AP of a swap less that of a head alone, on the
proposals of both detectors together; its *outcome* is the AP of a trained structure's own detections less that of a
single head's own detections, both on the same images and draws. A forecast is right where the outcome has its sign, its
interval where it holds the outcome. Intervals are over images: what another training would give is not in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

import rethink_heads as rh
from rethink_heads.data.sources import split_paths
from rethink_heads.evaluation.average_precision import average_precisions
from rethink_heads.evaluation.detections import Quantities
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.evaluation.swaps import swapped_detections
from rethink_heads.files import write_csv, write_text
from rethink_heads.measure.candidates import Candidates
from rethink_heads.measure.store import Key
from rethink_heads.report.cells import to_markdown
from rethink_heads.runs import Run
from rethink_heads.statistics.bootstrap import REPLICATES, ImageBootstrap, difference_columns

METRICS = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Forecast:
    """Which swap, less which head alone, forecasts which structure less which single head.

    Attributes:
        asked: the structures whose detectors are swapped, on their proposals together.
        scores, boxes, alone: (structure, head) each.
        structure, single: (structure, head) whose trained detections are compared.
    """

    asked: tuple[str, ...]
    scores: Key
    boxes: Key
    alone: Key
    structure: Key
    single: Key

    @property
    def names(self) -> dict[str, str]:
        """The columns that name it."""
        swap = f"scores of {'/'.join(self.scores)}, boxes of {'/'.join(self.boxes)}"
        return {
            "forecast": f"{swap}, less {'/'.join(self.alone)}",
            "outcome": f"{'/'.join(self.structure)} less {'/'.join(self.single)}",
        }


FC, CONV = ("fc", "fc"), ("conv", "conv")
INNER_FC, INNER_CONV = ("double-ext", "fc"), ("double-ext", "conv")


def forecasts() -> Iterator[Forecast]:
    """From two single heads trained apart, and from the branches of one Double-Head-Ext."""
    apart, within = ("fc", "conv"), ("double-ext",)
    trained = {"double": ("double", "double"), "reverse": ("double-reverse", "double-reverse")}
    for asked, fc, conv in ((apart, FC, CONV), (within, INNER_FC, INNER_CONV)):
        for alone, single in ((fc, FC), (conv, CONV)):
            yield Forecast(asked, fc, conv, alone, trained["double"], single)
            yield Forecast(asked, conv, fc, alone, trained["reverse"], single)
    for alone in (FC, CONV):
        # The Double-Head that Double-Head-Ext has within it, trained with other task weights.
        yield Forecast(apart, FC, CONV, alone, ("double-ext", "double"), alone)


class Study:
    """Runs of one set and seed, asked about the test images; each answer is computed once.

    Args:
        folder: of the runs, which are read and not written.
        names: by structure the run's name.
        kept: folder that gets candidates and detections.
        replicates: of the bootstrap.
    """

    def __init__(
        self, folder: Path, names: Mapping[str, str], kept: Path, replicates: int, device: str
    ) -> None:
        self.kept, self.shared = kept, {}
        for structure, name in names.items():
            run = Run.open(folder / name)
            dataset = rh.CocoDataset(*split_paths(run.config.data, "test"))
            self.shared[structure] = rh.share_classes(run.load(device), dataset)
        self.dataset = next(iter(self.shared.values())).dataset
        self.truth = GroundTruth(self.dataset)
        self.bootstrap = ImageBootstrap(self.truth.image_ids, replicates)
        self._candidates: dict[tuple[str, ...], Candidates] = {}
        self._found: dict[Any, Quantities] = {}

    def swap(self, asked: tuple[str, ...], scores: Key, boxes: Key) -> Quantities:
        """Average precisions of a swap on the proposals of some detectors."""
        if (key := (asked, scores, boxes)) not in self._found:
            if asked not in self._candidates:
                detectors = {structure: self.shared[structure] for structure in asked}
                folder = self.kept / "candidates" / "+".join(asked)
                self._candidates[asked] = rh.measure_candidates(detectors, folder)
            head = swapped_detections(self._candidates[asked], self.truth, scores, boxes)
            self._found[key] = average_precisions(head, self.truth, self.bootstrap)
        return self._found[key]

    def trained(self, key: Key) -> Quantities:
        """Average precisions of a detector's own detections."""
        if key not in self._found:
            structure, _ = key
            shared, folder = self.shared[structure], self.kept / "detections" / structure
            frame = rh.detect_dataset(
                shared.detector, shared.dataset, structure, folder, shared.provenance
            )
            head = self.truth.detections_of(frame, key, needed=True)
            self._found[key] = average_precisions(head, self.truth, self.bootstrap)
        return self._found[key]

    def rows(self, forecast: Forecast) -> pd.DataFrame:
        """A row a metric: the forecast, its outcome, and whether sign and interval were right."""
        swap = self.swap(forecast.asked, forecast.scores, forecast.boxes)
        alone = self.swap(forecast.asked, forecast.alone, forecast.alone)
        sides = {
            "forecast": difference_columns(swap.resampled, alone.resampled),
            "outcome": difference_columns(
                self.trained(forecast.structure).resampled, self.trained(forecast.single).resampled
            ),
        }
        frame = pd.DataFrame({**swap.keys})
        for side, columns in sides.items():
            for end in ("", "_low", "_high"):
                frame[f"{side}_gain{end}"] = columns[f"difference{end}"]
            frame[f"{side}_excludes_zero"] = columns["excludes_zero"]
        return judged(frame[frame["metric"].isin(METRICS)].assign(**forecast.names))


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Forecasts with "sign_right", "interval_holds" (the forecast's the outcome) and "intervals_meet"."""
    forecast, outcome = rows["forecast_gain"], rows["outcome_gain"]
    return rows.assign(
        sign_right=(forecast > 0) == (outcome > 0),
        interval_holds=outcome.between(rows["forecast_gain_low"], rows["forecast_gain_high"]),
        intervals_meet=(rows["forecast_gain_low"] <= rows["outcome_gain_high"])
        & (rows["outcome_gain_low"] <= rows["forecast_gain_high"]),
    )


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """By metric: how many forecasts, how many right, and of those whose two intervals exclude zero."""
    sure = rows["forecast_excludes_zero"] & rows["outcome_excludes_zero"]
    counted = rows.assign(sure=sure, sure_and_right=sure & rows["sign_right"])
    columns = ["sign_right", "interval_holds", "intervals_meet", "sure", "sure_and_right"]
    by_metric = counted.groupby("metric", sort=False)
    found = (
        by_metric[columns]
        .sum()
        .assign(
            forecasts=by_metric.size(),
            mean_error=by_metric.apply(
                lambda each: (each["forecast_gain"] - each["outcome_gain"]).abs().mean()
            ),
        )
    )
    return found.reset_index()[["metric", "forecasts", *columns, "mean_error"]]


def main(
    runs: Path,
    output: Annotated[Path, typer.Option()],
    sets: Annotated[list[str], typer.Option("--set")],
    seeds: Annotated[list[str] | None, typer.Option("--seed")] = None,
    replicates: int = REPLICATES,
    device: str = "cpu",
) -> None:
    """Write forecasts.csv and summary.md, and what was asked of the detectors, into a folder."""
    frames = []
    for name in sets:
        for seed in seeds or [""]:
            ending = f"-{seed}" if seed else ""
            asked = {key[0] for each in forecasts() for key in (each.scores, each.structure)}
            names = {each: f"{name}-{each}{ending}" for each in sorted(asked | {"fc", "conv"})}
            there = {
                each: run
                for each, run in names.items()
                if (runs / run / "checkpoints" / "detector.pt").is_file()
            }
            possible = [
                each
                for each in forecasts()
                if {*each.asked, each.structure[0], each.single[0]} <= {*there}
            ]
            if not possible:
                continue
            study = Study(runs, there, output / "kept" / f"{name}{ending}", replicates, device)
            for each in possible:
                frames.append(study.rows(each).assign(set=name, seed=seed))
    if not frames:
        raise typer.BadParameter(f"{runs} has no finished runs that forecasts can be made of")
    rows = pd.concat(frames, ignore_index=True)
    first = ["set", "seed", "forecast", "outcome", "metric"]
    rows = rows[[*first, *(column for column in rows if column not in first)]]
    write_csv(rows, output / "forecasts.csv")
    text = to_markdown(summary(rows))
    write_text(output / "summary.md", text)
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
