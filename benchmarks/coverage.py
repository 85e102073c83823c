"""How often the 95% intervals of the tables hold what they are intervals of, and how wide they are.

    python -m benchmarks.coverage detections --classes 80 --images 200 --seconds 300
    python -m benchmarks.coverage measurements --images 40 --objects 0.5
    python -m benchmarks.coverage report

Data sets are generated over and over, objects and images of each easy or hard by chance, and the package's own tables
are made of each. Of every value with an interval the report says how often the interval held the mean of the value
over the data sets (which is what it is of: data sets of as many images), how often the value of very many images, how
wide it was against the true spread (2 x 1.96 standard deviations of the values), and how often the value lay outside.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.measures import measured_tables
from rethink_heads.files import read_csv, write_csv, write_text
from rethink_heads.measure.detections import DETECTION_TYPES, in_order
from rethink_heads.measure.moments import ERRORS, VALUE_COLUMNS
from rethink_heads.measure.store import SIZES, Measurements
from rethink_heads.measure.store_files import MAPS, MOMENTS, ROW_TYPE, ROWS, Name
from rethink_heads.proposals import IOU_BINS
from rethink_heads.report.cells import to_markdown
from rethink_heads.statistics.comparison import compare
from rethink_heads.statistics.correlation import pearson, score_by_iou, spearman
from rethink_heads.statistics.regression import error_components, regressed_iou_by_iou
from rethink_heads.statistics.spatial import decay, distinct_pairs

Array = npt.NDArray[np.float64]

KEYS = (("made-up", "fc"), ("made-up", "conv"))
# By head: how far boxes are off, and how noisy scores are.
HEADS = {"fc": (0.5, 0.7), "conv": (0.4, 1.0)}
WIDTHS = (20.0, 60.0, 180.0)
IMAGE_SPREAD, OBJECT_SPREAD = 0.3, 0.7
# Boxes of different objects do not touch.
PITCH = 400.0
CELLS = 3
WIDTH = 1.96
MOST_TRIALS = 1000


@dataclass(frozen=True)
class MadeUpDataset:
    """What evaluation asks of a :class:`CocoDataset`."""

    image_ids: list[int]
    category_ids: list[int]
    annotated: SimpleNamespace
    where: str = "the made-up data"


def make_detections(
    generator: np.random.Generator, images: int, classes: int, objects: float
) -> tuple[MadeUpDataset, pd.DataFrame]:
    """Objects of some images and both heads' detections of them, with errors of all of TIDE's kinds."""
    image_ease = generator.normal(0, IMAGE_SPREAD, images)
    image_index = np.repeat(np.arange(images), generator.poisson(objects, images))
    count = len(image_index)
    labels = generator.integers(0, classes, count)
    ease = image_ease[image_index] + np.linspace(-0.8, 0.8, classes)[labels]
    ease += generator.normal(0, OBJECT_SPREAD, count)
    width = generator.choice(WIDTHS, count) * generator.uniform(0.8, 1.2, count)
    boxes = np.stack([PITCH * np.arange(count), np.zeros(count), width, width], axis=1)
    annotated = SimpleNamespace(
        images=image_index, labels=labels, boxes=boxes, areas=width**2, crowd=np.zeros(count, bool)
    )
    dataset = MadeUpDataset(list(range(images)), list(range(classes)), annotated)
    frames = []
    for (detector, head), (off, noise) in zip(KEYS, HEADS.values(), strict=True):
        parts = []
        # A detection of most objects, and a second, worse one of some.
        for chance, worse in ((1.4, 0.0), (-1.7, 0.3)):
            found = np.flatnonzero(generator.random(count) < _logistic(chance + ease))
            easy = ease[found]
            iou = 1 - (off + worse) * generator.beta(2, 3, len(found)) * np.exp(-0.3 * easy)
            iou = np.clip(iou, 0.05, 0.99)
            score = _logistic(
                0.8 + easy + 3 * (iou - 0.75) - 3 * worse + generator.normal(0, noise, len(found))
            )
            other = generator.random(len(found)) < 0.06
            label = np.where(other, generator.integers(0, classes, len(found)), labels[found])
            shift = boxes[found, 2] * (1 - iou) / (1 + iou)
            parts.append(
                (image_index[found], label, boxes[found, 0] + shift, boxes[found, 2], score)
            )
        nothing = np.repeat(
            np.arange(images), generator.poisson(1.5 * objects * np.exp(-0.3 * image_ease))
        )
        number = len(nothing)
        parts.append(
            (
                nothing,
                generator.integers(0, classes, number),
                -PITCH * (1 + np.arange(number)),
                generator.choice(WIDTHS, number),
                _logistic(generator.normal(-1.5, 1.0, number)),
            )
        )
        image, label, left, side, score = (
            np.concatenate([cast(Array, part[n]) for part in parts]) for n in range(5)
        )
        columns = {"image_id": image, "detector": detector, "head": head, "label": label}
        columns |= {"x1": left, "y1": 0.0, "x2": left + side, "y2": side, "score": score}
        frames.append(pd.DataFrame(columns))
    return dataset, in_order(pd.concat(frames, ignore_index=True).astype(DETECTION_TYPES))


def detection_values(
    generator: np.random.Generator, images: int, classes: int, objects: float, replicates: int
) -> pd.DataFrame:
    """AP, TIDE's kinds and calibration errors of a data set and their differences: statistic, value, low, high."""
    dataset, frame = make_detections(generator, images, classes, objects)
    names = ("ap", "detection_errors", "calibration")
    own = cast(CocoDataset, dataset)
    tables = measured_tables(names, frame, own, KEYS, pairs=[KEYS], replicates=replicates)
    rows = []
    for name, value, column in (
        ("ap", "value", "metric"),
        ("detection_errors", "delta_ap", "error"),
        ("calibration", "value", "error"),
    ):
        head_values = tables[name][tables[name]["head"] == "fc"]
        rows.append(_rows(head_values, head_values[column], value))
        differences = tables[f"{name}_comparisons"]
        rows.append(_rows(differences, differences[column] + ", difference", "difference"))
    return pd.concat(rows, ignore_index=True)


def make_measurements(
    generator: np.random.Generator, images: int, objects: float, proposals: float = 30.0
) -> Measurements:
    """Moments, rows and maps of some images' objects, each with as many proposals in every bin of IoU."""
    image_index = np.repeat(np.arange(images), generator.poisson(objects, images))
    count = len(image_index)
    image_ease = generator.normal(0, IMAGE_SPREAD, images)[image_index]
    ease = image_ease + generator.normal(0, OBJECT_SPREAD, count)
    sizes = np.array(SIZES)[generator.integers(0, 3, count)]
    frame = pd.DataFrame({"image_id": image_index, "object_id": np.arange(count), "size": sizes})
    arrays: dict[Name, npt.NDArray[Any]] = {}
    centre = np.tile((np.arange(IOU_BINS) + 0.5) / IOU_BINS, count)
    for number, key in enumerate(KEYS):
        head_values = ease + generator.normal(0, 0.3, count)
        repeated = np.repeat(head_values, IOU_BINS)
        mean = _logistic(6 * (centre - 0.6) + repeated + number / 4)
        box = 1 - (1 - centre) * np.clip(0.5 - 0.1 * repeated, 0.1, 0.9)
        means = {"iou": centre, "score": mean, "regressed_iou": box}
        means |= {
            e: 0.1 * generator.normal(0, 1, count * IOU_BINS) + 0.05 * repeated for e in ERRORS
        }
        spread = {"iou": 1 / (12 * IOU_BINS**2), "score": 0.01, "regressed_iou": 0.005}
        moments = _moments(means, spread, proposals)
        columns = np.stack([moments[name] for name in VALUE_COLUMNS], axis=-1)
        arrays[MOMENTS, *key] = columns.reshape(count, IOU_BINS, -1)
        noise = generator.normal(0, 0.1, len(centre))
        jitter = generator.uniform(-0.5, 0.5, len(centre)) / IOU_BINS
        rows = np.zeros(len(centre), ROW_TYPE)
        rows["object"] = np.repeat(np.arange(count), IOU_BINS)
        rows["bin"] = np.tile(np.arange(IOU_BINS), count)
        rows["weight"], rows["iou"], rows["score"] = proposals, centre + jitter, mean + noise
        arrays[ROWS, *key] = rows
        apart = np.abs(np.subtract.outer(np.arange(CELLS**2), np.arange(CELLS**2))).ravel()
        cosines = np.exp(-apart / (2 + number)) + 0.1 * head_values[:, None]
        cosines = cosines + generator.normal(0, 0.05, cosines.shape)
        arrays[MAPS, *key, "spatial_correlation"] = cosines.astype(np.float32)
    return Measurements(frame.assign(class_name="thing"), arrays)


def measurement_values(
    generator: np.random.Generator, images: int, objects: float, replicates: int
) -> pd.DataFrame:
    """Every statistic of predefined proposals and some differences: statistic, value, low, high."""
    m = make_measurements(generator, images, objects)
    options: dict[str, Any] = {"replicates": replicates}
    rows = []

    def add(frame: pd.DataFrame, label: str, value: str) -> None:
        if "head" in frame:
            frame = frame[frame["head"] == "fc"]
        chosen = frame[frame["size"] == "all"]
        rows.append(_rows(chosen, label, value))

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
        table = compare(m, name, *KEYS, **options)
        add(table, f"{name}, difference", "difference")
    return pd.concat(rows, ignore_index=True)


def _moments(
    means: dict[str, Array], spread: dict[str, float], proposals: float
) -> dict[str, Array]:
    """Columns of bins: variables of these means and variances (of errors 0.01), independent of each other."""
    found = {}
    for column in VALUE_COLUMNS:
        names = column.removeprefix("sum_").removeprefix("abs_")
        if column in ("n", "measured"):
            found[column] = np.full(len(means["iou"]), proposals)
            continue
        a, b = next(
            (a, b)
            for a, b in itertools.product(means, [*means, ""])
            if names == "_".join([a, b]).rstrip("_")
        )
        if column.startswith("sum_abs_"):
            found[column] = proposals * (np.abs(means[a]) + 0.05)
        elif not b:
            found[column] = proposals * means[a]
        else:
            within = spread.get(a, 0.01) if a == b else 0.0
            found[column] = proposals * (means[a] * means[b] + within)
    return found


def _logistic(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _rows(frame: pd.DataFrame, statistic: Any, value: str) -> pd.DataFrame:
    columns = {"value": frame[value], "low": frame[f"{value}_low"], "high": frame[f"{value}_high"]}
    return pd.DataFrame(columns).assign(statistic=statistic).reset_index(drop=True)


def trials(
    values: Callable[[np.random.Generator], pd.DataFrame], seconds: float, most: int
) -> Iterator[pd.DataFrame]:
    """Tables of one data set after another for so long."""
    begun = time.monotonic()
    for number in range(most):
        if number > 2 and time.monotonic() - begun > seconds:
            return
        yield values(np.random.default_rng([1, number]))


def summarize(found: list[pd.DataFrame], truth: pd.DataFrame) -> pd.DataFrame:
    """Coverage and width of each value, from its tables of all data sets and that of very many images."""
    value, low, high = (
        np.stack([each[name] for each in found]) for name in ("value", "low", "high")
    )
    mean, spread = np.nanmean(value, axis=0), np.nanstd(value, axis=0, ddof=1)
    has_interval = np.isfinite(low)
    number = has_interval.sum(axis=0).astype(float)
    count = np.where(number > 0, number, np.nan)

    def share(condition: npt.NDArray[np.bool_]) -> Array:
        return np.asarray(100 * (condition & has_interval).sum(axis=0) / count)

    columns = {
        "statistic": truth["statistic"],
        "trials": len(found),
        "held": share((low <= mean) & (mean <= high)),
        "held_of_all": share(
            (low <= truth["value"].to_numpy()) & (truth["value"].to_numpy() <= high)
        ),
        "width": np.nanmean(np.where(has_interval, high - low, np.nan), axis=0)
        / (2 * WIDTH * spread),
        "outside": share((value < low) | (value > high)),
        "no_interval": 100 * (1 - has_interval.mean(axis=0)),
        "bias": (mean - truth["value"].to_numpy()) / spread,
    }
    # Bins and components of one statistic are one row.
    return pd.DataFrame(columns).groupby("statistic", sort=False).mean().reset_index()


app = typer.Typer(add_completion=False, help=__doc__)
Output = Annotated[Path, typer.Option(help="Folder of the tables.")]
Seconds = Annotated[
    float, typer.Option(help="Data sets are generated for so long, at most a thousand.")
]
Draws = Annotated[
    int, typer.Option(help="Of images, by each data set; the tables' own number is 1000.")
]
HERE = Path("benchmarks/results/coverage")


@app.command()
def detections(
    classes: int = 3,
    images: int = 40,
    objects: float = 7.0,
    seconds: Seconds = 60,
    draws: Draws = 1000,
    output: Output = HERE,
) -> None:
    """AP, TIDE's kinds and calibration errors; ``objects`` an image on average."""
    truth = detection_values(np.random.default_rng(0), max(4000, 50 * classes), classes, objects, 2)
    found = trials(
        lambda g: detection_values(g, images, classes, objects, draws), seconds, MOST_TRIALS
    )
    _write(
        list(found),
        truth,
        output / f"detections-{classes}-{images}-{objects:g}.csv",
        classes,
        images,
        objects,
    )


@app.command()
def measurements(
    images: int = 40,
    objects: float = 3.0,
    seconds: Seconds = 60,
    draws: Draws = 1000,
    output: Output = HERE,
) -> None:
    """Statistics of predefined proposals; ``objects`` an image on average."""
    truth = measurement_values(np.random.default_rng(0), round(4000 / objects), objects, 2)
    found = trials(lambda g: measurement_values(g, images, objects, draws), seconds, MOST_TRIALS)
    _write(
        list(found), truth, output / f"measurements-{images}-{objects:g}.csv", 1, images, objects
    )


def _write(
    found: list[pd.DataFrame],
    truth: pd.DataFrame,
    path: Path,
    classes: int,
    images: int,
    objects: float,
) -> None:
    table = summarize(found, truth)
    table.insert(1, "objects_per_class", images * objects / classes)
    table.insert(1, "images", images)
    table.insert(1, "classes", classes)
    write_csv(table, path)
    typer.echo(table.round(2).to_string())


@app.command()
def report(output: Output = HERE) -> None:
    """Put the tables together: coverage.md, a table for detections and one for measurements."""
    parts = []
    for kind in ("detections", "measurements"):
        found = pd.concat([read_csv(path) for path in sorted(output.glob(f"{kind}-*.csv"))])
        # Where no set had an interval, none was held.
        found["cell"] = [
            f"{row['held']:.1f} ({row['width']:.2f})" if row["width"] == row["width"] else "-"
            for row in found[["held", "width"]].to_dict("records")
        ]
        settings = ["classes", "images", "objects_per_class", "trials"]
        table = found.pivot_table(
            index="statistic", columns=settings, values="cell", aggfunc="first", sort=False
        ).sort_index(axis=1)
        class_text = {"detections": "{} classes, ", "measurements": ""}[kind]
        table.columns = pd.Index(
            [
                f"{class_text.format(classes)}{images} images, {objects:.3g} objects"
                f"{' a class' if class_text else ''} ({trials:.0f} sets)"
                for classes, images, objects, trials in cast(list[tuple[Any, ...]], table.columns)
            ]
        )
        parts.append(to_markdown(table.fillna("-").reset_index()))
        outside, bias = found["outside"].max(), found["bias"].abs()
        parts.append(f"Values outside their own interval: {outside:.1f}% at most.")
        typer.echo(f"{kind}: bias in deviations, by size of data: {bias.max():.1f} at most")
    write_text(output / "coverage.md", "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    app()
