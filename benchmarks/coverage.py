"""How often the 95% intervals of the tables hold what they are intervals of, and how wide they are.

    python -m benchmarks.coverage detections --classes 80 --images 200 --seconds 300
    python -m benchmarks.coverage measurements --images 40 --objects 0.5
    python -m benchmarks.coverage report

Data sets are generated over and over (:mod:`benchmarks.made_up`), and the package's own tables are made of each, of two
heads. Of every value with an interval the report says how often the interval held the mean of the value over the data
sets (which is what it is of: data sets of as many images), how often the value of very many images, how wide it was
against the true spread (2 x 1.96 standard deviations of the values), and how often the value lay outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import pandas as pd
import typer

from benchmarks.made_up import (
    KEYS,
    make_candidates,
    make_detections,
    make_measurements,
    make_stages,
)
from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation import detections as evaluation
from rethink_heads.evaluation.average_precision import average_precisions
from rethink_heads.evaluation.by_class import CLASS_METRICS, class_values
from rethink_heads.evaluation.calibration import calibration_of
from rethink_heads.evaluation.errors import errors_of
from rethink_heads.evaluation.fates import compare_fates, detection_fates, fate_counts, fate_tables
from rethink_heads.evaluation.lost_precision import (
    exchange_rate_of,
    lost_by_threshold_of,
    lost_precision_of,
    oracles_of,
)
from rethink_heads.evaluation.lrp import lrp_of
from rethink_heads.evaluation.swaps import swap_tables
from rethink_heads.files import read_csv, write_csv, write_text
from rethink_heads.report.cells import to_markdown
from rethink_heads.report.results import stage_tables
from rethink_heads.statistics.by_iou import (
    error_components,
    pearson,
    regressed_iou_by_iou,
    score_by_iou,
    spearman,
)
from rethink_heads.statistics.comparison import compare
from rethink_heads.statistics.sensitivity import decay, distinct_pairs

WIDTH = 1.96
MOST_TRIALS = 1000
# Per cent of the values, from which on intervals are too few to be told of.
MOST_WITHOUT = 90
# Of what stands for very many images; and at least so many of a class.
MANY_OBJECTS, MANY_OF_A_CLASS = 28_000, 350


@dataclass(frozen=True)
class Size:
    """How large the data sets are: how many classes, images, and objects an image on average."""

    classes: int
    images: int
    objects: float

    def __str__(self) -> str:
        return f"{self.classes}-{self.images}-{self.objects:g}"


def precision_values(generator: np.random.Generator, size: Size, draws: int) -> pd.DataFrame:
    """AP alone."""
    return _detection_rows(generator, size, draws, {"ap": average_precisions})


def detection_values(generator: np.random.Generator, size: Size, draws: int) -> pd.DataFrame:
    """AP, TIDE's kinds and calibration errors."""
    measures = {"ap": average_precisions, "errors": errors_of, "calibration": calibration_of}
    return _detection_rows(generator, size, draws, measures)


def diagnosis_values(generator: np.random.Generator, size: Size, draws: int) -> pd.DataFrame:
    """What `diagnose` says of final detections: causes, oLRP, classes, fates."""
    measures = {
        "share of {}": lost_precision_of,
        "by threshold": lost_by_threshold_of,
        "oracle of {}": oracles_of,
        "exchange rate": exchange_rate_of,
        "LRP: {}": lrp_of,
        "by class": class_values,
    }
    return _detection_rows(generator, size, draws, measures, fates=True)


def _detection_rows(
    generator: np.random.Generator,
    size: Size,
    draws: int,
    measures: Mapping[str, evaluation.Measure],
    fates: bool = False,
) -> pd.DataFrame:
    """Rows of one data set's final detections: statistics are named by the measures' names and those of rows."""
    made, frame = make_detections(generator, size.images, size.classes, size.objects)
    dataset = cast(CocoDataset, made)
    tables = evaluation.detection_tables(frame, dataset, KEYS, measures, [KEYS], draws, 0)
    rows = []
    for name in measures:
        table, differences = tables[name], tables[f"{name}_comparisons"]
        if name == "by class":
            table, differences = (each[each["size"] == "all"] for each in (table, differences))
            for metric in CLASS_METRICS:
                rows.append(_rows(table, f"{metric} of a class", metric, ["head", "label"]))
            rows.append(_rows(differences, "ap of a class, difference", "difference", ["label"]))
            continue
        if name == "by threshold":
            keys = ["iou", "cause"]
            for value in ("share", "oracle"):
                rows.append(_rows(table, f"{value} by threshold", value, ["head", *keys]))
            differ = "share by threshold, difference"
            rows.append(_rows(differences, differ, "difference", keys))
            continue
        column = str(table.columns[2])
        value = next(str(each) for each in table if f"{each}_low" in table)
        name = name if "{}" in name or column == "step" else "{}"
        rows.append(_rows(table, table[column].map(name.format), value, ["head", column]))
        label = differences[column].map(name.format) + ", difference"
        rows.append(_rows(differences, label, "difference", [column]))
    if "lost_by_class" in tables:
        keys = ["head", "label", "cause"]
        rows.append(_rows(tables["lost_by_class"], "share by class", "share", keys))
    if fates:
        found = detection_fates(frame, dataset, keys=KEYS)
        counts = fate_counts(found, dataset, replicates=draws)
        rows.append(_rows(_all(counts), "fates", "share", ["head", "fate"]))
        differences = compare_fates(found, dataset, *KEYS, replicates=draws)
        rows.append(_rows(_all(differences), "fates, difference", "difference", ["fate"]))
    return pd.concat(rows, ignore_index=True)


def candidate_values(generator: np.random.Generator, size: Size, draws: int) -> pd.DataFrame:
    """What `diagnose` says of boxes before NMS: the recall ladder, fates, and AP of swapped heads."""
    made, _ = make_detections(generator, size.images, size.classes, size.objects)
    dataset = cast(CocoDataset, made)
    candidates = make_candidates(made, generator)
    tables = fate_tables(candidates, dataset, [KEYS], replicates=draws)
    tables |= swap_tables(candidates, dataset, replicates=draws)
    ladder, swap = ["stage", "iou"], ["scores", "boxes", "metric"]
    return pd.concat(
        [
            _rows(_all(tables["recall_ladder"]), "recall ladder", "recall", ["head", *ladder]),
            _differences(_all(tables["recall_ladder_comparisons"]), "recall ladder", ladder),
            _rows(_all(tables["fates"]), "fates of candidates", "share", ["head", "fate"]),
            _differences(_all(tables["fate_comparisons"]), "fates of candidates", ["fate"]),
            _rows(tables["swaps"], "swaps", "value", swap),
            _differences(tables["swap_comparisons"], "swaps", [*swap, "against"]),
        ],
        ignore_index=True,
    )


def measurement_values(generator: np.random.Generator, size: Size, draws: int) -> pd.DataFrame:
    """Statistics of predefined proposals."""
    m = make_measurements(generator, size.images, size.objects)
    options: dict[str, Any] = {"replicates": draws}
    rows = []

    def add(frame: pd.DataFrame, label: str, value: str) -> None:
        rows.append(
            _rows(_all(frame).reset_index(drop=True).reset_index(), label, value, ["index"])
        )

    correlations = pearson(m, **options)
    add(correlations, "PCC, pooled", "pcc")
    add(correlations, "PCC, mean of objects", "object_pcc")
    add(spearman(m, **options), "Spearman", "spearman")
    for frame, variable in (
        (score_by_iou(m, **options), "score"),
        (regressed_iou_by_iou(m, **options), "box"),
    ):
        for name in ("mean", "std"):
            add(frame, f"{name} of {variable} by bin", name)
    errors = error_components(m, **options)
    for name in ("mean", "rms", "mae"):
        add(errors, f"{name} of error components", name)
    add(distinct_pairs(m, **options), "spatial correlation", "mean")
    add(decay(m, **options), "spatial correlation by distance", "mean")
    for name in (
        "pcc",
        "object_pcc",
        "spearman",
        "score",
        "score_std",
        "rms_dx",
        "spatial_correlation",
    ):
        add(compare(m, name, *KEYS, **options), f"{name}, difference", "difference")
    return pd.concat(rows, ignore_index=True)


def stage_values(generator: np.random.Generator, size: Size, draws: int) -> pd.DataFrame:
    """Correlations of boxes at the later stages, over all, within images and within classes."""
    stages = make_stages(generator, size.images, size.classes, size.objects)
    tables = stage_tables(stages, None, [KEYS], replicates=draws)
    correlation, levels = _all(tables["stage_correlation"]), tables["rank_levels"]
    compared, between = _all(tables["stage_comparisons"]), tables["rank_level_comparisons"]
    rows = [
        _rows(correlation, correlation["stage"] + f": {name}", name, ["head"])
        for name in ("pcc", "spearman")
    ]
    label = compared["stage"] + ": " + compared["statistic"] + ", difference"
    rows.append(_rows(compared, label, "difference", []))
    within = levels["stage"] + ": Spearman within " + levels["level"]
    rows.append(_rows(levels, within, "spearman", ["head"]))
    within = between["stage"] + ": Spearman within " + between["level"] + ", difference"
    rows.append(_rows(between, within, "difference", []))
    return pd.concat(rows, ignore_index=True)


def _all(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of all sizes and classes together."""
    for name in {"size", "class_name"} & {*frame}:
        frame = frame[frame[name] == "all"]
    return frame


def _rows(frame: pd.DataFrame, statistic: Any, value: str, keys: list[str]) -> pd.DataFrame:
    """Columns statistic, item (of the keys), value, low and high."""
    columns = {"value": frame[value], "low": frame[f"{value}_low"], "high": frame[f"{value}_high"]}
    item = frame[keys].astype(str).agg(" ".join, axis=1) if keys else ""
    return pd.DataFrame(columns).assign(statistic=statistic, item=item).reset_index(drop=True)


def _differences(frame: pd.DataFrame, statistic: str, keys: list[str]) -> pd.DataFrame:
    return _rows(frame, f"{statistic}, difference", "difference", keys)


Values = Callable[[np.random.Generator, Size, int], pd.DataFrame]
KINDS: dict[str, Values] = {
    "precision": precision_values,
    "detections": detection_values,
    "diagnosis": diagnosis_values,
    "candidates": candidate_values,
    "measurements": measurement_values,
    "stages": stage_values,
}


@dataclass(frozen=True)
class Trials:
    """Data sets of one kind and size, and the draws of their intervals; kept in a folder, if there is one."""

    kind: str
    size: Size
    draws: int
    folder: Path | None

    def run(self, seconds: float) -> Iterator[pd.DataFrame]:
        """Tables of one data set after another, made for so long, those that are kept besides."""
        begun = time.monotonic()
        for number in range(MOST_TRIALS):
            path = self._path(f"{self.size}/{number}")
            is_new = path is None or not path.exists()
            if is_new and number > 2 and time.monotonic() - begun > seconds:
                return
            yield self._kept(path, [1, number], self.size, self.draws)

    def value_of_many_images(self) -> pd.DataFrame:
        """The table of a data set of very many images."""
        objects = max(MANY_OBJECTS, MANY_OF_A_CLASS * self.size.classes)
        size = Size(self.size.classes, round(objects / self.size.objects), self.size.objects)
        return self._kept(self._path(str(size)), [0], size, 2)

    def _path(self, name: str) -> Path | None:
        return self.folder and self.folder / self.kind / f"{name}.parquet"

    def _kept(self, path: Path | None, seed: list[int], size: Size, draws: int) -> pd.DataFrame:
        if path is not None and path.exists():
            return pd.read_parquet(path)
        table = KINDS[self.kind](np.random.default_rng(seed), size, draws)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(path)
        return table


def summarize(found: list[pd.DataFrame], truth: pd.DataFrame) -> pd.DataFrame:
    """Coverage and width of each statistic, from its tables of all data sets and that of very many images."""
    keys = ["statistic", "item"]
    every = pd.concat(found, keys=range(len(found)), names=["set", "row"]).reset_index("set")
    wide = every.pivot(index="set", columns=keys, values=["value", "low", "high"])
    # Sets may lack a class, or a fate.
    order = pd.MultiIndex.from_frame(every[keys].drop_duplicates())
    value, low, high = (wide[name][order].astype(float) for name in ("value", "low", "high"))
    of_many = truth.set_index(keys)["value"].reindex(order)
    mean, spread, there = value.mean(), value.std(), low.notna()
    columns = pd.DataFrame(
        {
            "held": ((low <= mean) & (mean <= high)).sum(),
            "held_of_all": ((low <= of_many) & (of_many <= high)).sum(),
            "width": ((high - low) / (2 * WIDTH * spread)).sum(),
            "outside": ((value < low) | (value > high)).sum(),
            "intervals": there.sum(),
            "values": value.notna().sum(),
            "bias": (mean - of_many) / spread,
            "items": 1,
        }
    )
    # Bins, heads and components of one statistic are one row.
    total = columns.groupby("statistic", sort=False).sum(numeric_only=True)
    count = total["intervals"].where(total["intervals"] > 0)
    table = pd.DataFrame({"trials": len(found)}, index=total.index)
    for name in ("held", "held_of_all", "outside"):
        table[name] = 100 * total[name] / count
    table["width"] = total["width"] / count
    table["no_interval"] = 100 * (1 - total["intervals"] / total["values"])
    table["bias"] = total["bias"] / total["items"]
    return table.reset_index()


app = typer.Typer(add_completion=False, help=__doc__)
Output = Annotated[Path, typer.Option(help="Folder of the tables.")]
HERE = Path("benchmarks/results/coverage")


def _command(kind: str) -> Callable[..., None]:
    """The command of a kind of statistics."""

    def command(
        classes: int = 3,
        images: int = 40,
        objects: Annotated[float, typer.Option(help="An image, on average.")] = 7.0,
        seconds: Annotated[float, typer.Option(help="New data sets are made for so long.")] = 60,
        draws: Annotated[
            int, typer.Option(help="Of images; the tables' own number is 1000.")
        ] = 1000,
        sets: Annotated[Path | None, typer.Option(help="Keep each data set's values here.")] = None,
        output: Output = HERE,
    ) -> None:
        size = Size(classes, images, objects)
        trials = Trials(kind, size, draws, sets)
        table = summarize(list(trials.run(seconds)), trials.value_of_many_images())
        for name, number in (
            ("objects_per_class", images * objects / classes),
            ("images", images),
            ("classes", classes),
        ):
            table.insert(1, name, number)
        write_csv(table, output / f"{kind}-{size}.csv")
        typer.echo(table.round(2).to_string())

    command.__doc__ = KINDS[kind].__doc__
    return command


for _kind in KINDS:
    app.command(_kind)(_command(_kind))


@app.command()
def report(output: Output = HERE) -> None:
    """Put the tables together: coverage.md, a table for each kind of statistics; last those in ``before``."""
    parts = []
    for folder, title in ((output, "Now"), (output / "before", "Before")):
        for kind, values in KINDS.items():
            if paths := sorted(folder.glob(f"{kind}-*.csv")):
                found = pd.concat([read_csv(path) for path in paths])
                parts += [
                    f"## {title}, {kind}: {(values.__doc__ or '').rstrip('.')}",
                    to_markdown(_cells(found, has_classes=kind != "measurements")),
                    f"Values outside their own interval: {found['outside'].max():.1f}% at most.",
                ]
    write_text(output / "coverage.md", "\n\n".join(parts) + "\n")


def _cells(found: pd.DataFrame, has_classes: bool) -> pd.DataFrame:
    """A row a statistic, a column a size of data sets: per cent held (width over the proper one)."""
    # Where next to no set has an interval there is nothing to tell.
    found["cell"] = [
        f"{row['held']:.1f} ({row['width']:.2f})" if row["no_interval"] < MOST_WITHOUT else "-"
        for row in found[["held", "width", "no_interval"]].to_dict("records")
    ]
    settings = ["classes", "images", "objects_per_class", "trials"]
    table = found.pivot_table(
        index="statistic", columns=settings, values="cell", aggfunc="first", sort=False
    ).sort_index(axis=1)
    names = []
    for classes, images, objects, sets in cast(list[tuple[Any, ...]], table.columns):
        of = (f"{classes} classes, ", " a class") if has_classes else ("", "")
        names.append(f"{of[0]}{images} images, {objects:.3g} objects{of[1]} ({sets:.0f} sets)")
    return table.set_axis(names, axis=1).fillna("-").reset_index()


if __name__ == "__main__":
    app()
