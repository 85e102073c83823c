"""Whether the largest share of lost AP names the fault that was planted in a detector's results.

    python -m benchmarks.planted --sets 200

Objects are made up, and a detector that does well on them: it finds nearly all of them with good boxes and scores that
follow the IoU. It also writes down what detectors write down, boxes of low scores: second ones, of other classes, far
off, on nothing. Into its results one fault is planted, or two, of a strength drawn at random, in the plainest way that
there is:

- ranking: the scores of some detections are shuffled;
- localization: the boxes of some detections are shaken;
- classification: some detections get another class;
- duplicates: some detections are there two or three times more, as with an NMS that removes little;
- background: further boxes lie anywhere;
- misses: all detections of some objects are gone.

Counted is how often the largest of the shares is the fault planted (of two: one of them, and how often the two largest
shares are the two faults), and the same of TIDE's kinds, which has none for the ranking.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from benchmarks.made_up import MadeUpDataset
from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.causes import CAUSES
from rethink_heads.evaluation.errors import MAIN_ERRORS, detection_errors
from rethink_heads.evaluation.lost_precision import lost_precision
from rethink_heads.files import write_csv
from rethink_heads.measure.detections import DETECTION_TYPES, in_order
from rethink_heads.report.cells import to_markdown

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

IMAGES, OBJECTS, CLASSES, SIDE = 60, 6, 5, 640.0
WIDTHS = (30.0, 80.0, 200.0)
STRENGTHS = (0.3, 0.7)
EXTRAS = 0.4
TIDE_NAMES = {
    "localization": "loc",
    "classification": "cls",
    "duplicates": "dupe",
    "background": "bkg",
    "misses": "miss",
}
HERE = Path("benchmarks/results/planted")


@dataclass(frozen=True)
class Results:
    """N detections: object (N,) that each was made of, -1 for none; image, label, score (N,); box (N, 4) corners."""

    objects: Indices
    images: Indices
    labels: Indices
    scores: Array
    boxes: Array

    def take(self, rows: Indices) -> Results:
        """Some of them, any number of times."""
        return Results(*(column[rows] for column in vars(self).values()))

    def and_then(self, other: Results) -> Results:
        """These and others."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Results(*(np.concatenate(pair) for pair in pairs))


def make_objects(generator: np.random.Generator) -> Results:
    """Objects of all images as perfect detections."""
    count = IMAGES * OBJECTS
    sides = generator.choice(WIDTHS, count)[:, None] * generator.uniform(0.7, 1.4, (count, 2))
    corners = generator.uniform(0, 1, (count, 2)) * (SIDE - sides)
    return Results(
        np.arange(count),
        np.sort(generator.integers(0, IMAGES, count)),
        generator.integers(0, CLASSES, count),
        np.ones(count),
        np.hstack([corners, corners + sides]),
    )


def shake(generator: np.random.Generator, boxes: Array, by: float) -> Array:
    """Boxes (N, 4) whose edges are off by ``by`` of the side, one standard deviation."""
    sides = (boxes[:, 2:] - boxes[:, :2])[:, [0, 1, 0, 1]]
    off = boxes + generator.normal(0, by, boxes.shape) * sides
    low = np.minimum(off[:, :2], off[:, 2:])
    return np.hstack([low, np.maximum(np.maximum(off[:, :2], off[:, 2:]), low + 1)])


def overlap(a: Array, b: Array) -> Array:
    """IoU (N,) of boxes (N, 4), one by one."""
    common = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.clip(common, 0, None).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (a, b)]
    return np.asarray(common / (areas[0] + areas[1] - common))


def detect(generator: np.random.Generator, objects: Results) -> Results:
    """What a good detector makes of the objects."""
    found = objects.take(_some(generator, len(objects.labels), 0.98))
    boxes = shake(generator, found.boxes, 0.012)
    odds = 2.0 + 30 * (overlap(boxes, found.boxes) - 0.95) + generator.normal(0, 0.5, len(boxes))
    found = replace(found, boxes=boxes, scores=_logistic(odds))
    # What scores little, as many of each.
    parts = [objects.take(_some(generator, len(objects.labels), EXTRAS)) for _ in range(3)]
    second = replace(parts[0], boxes=shake(generator, parts[0].boxes, 0.06))
    other = classification(generator, parts[1], 1.0)
    far = replace(parts[2], boxes=shake(generator, parts[2].boxes, 0.3))
    extra = background(generator, second.and_then(other).and_then(far), EXTRAS / 4)
    odds = generator.normal(-2.0, 0.8, len(extra.scores))
    return found.and_then(replace(extra, scores=_logistic(odds)))


def _logistic(odds: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-odds)))


def _some(generator: np.random.Generator, count: int, share: float) -> Indices:
    return np.flatnonzero(generator.random(count) < share)


def ranking(generator: np.random.Generator, found: Results, strength: float) -> Results:
    """Scores of some are shuffled among themselves."""
    rows = _some(generator, len(found.scores), strength)
    scores = found.scores.copy()
    scores[rows] = scores[generator.permutation(rows)]
    return replace(found, scores=scores)


def localization(generator: np.random.Generator, found: Results, strength: float) -> Results:
    """Boxes of some are shaken."""
    rows, boxes = _some(generator, len(found.scores), strength), found.boxes.copy()
    boxes[rows] = shake(generator, boxes[rows], 0.15)
    return replace(found, boxes=boxes)


def classification(generator: np.random.Generator, found: Results, strength: float) -> Results:
    """Some get another class."""
    rows, labels = _some(generator, len(found.scores), strength), found.labels.copy()
    labels[rows] = (labels[rows] + generator.integers(1, CLASSES, len(rows))) % CLASSES
    return replace(found, labels=labels)


def duplicates(generator: np.random.Generator, found: Results, strength: float) -> Results:
    """Some are there two or three times more, a little off, with scores that are not much lower."""
    rows = _some(generator, len(found.scores), strength)
    more = found.take(np.repeat(rows, generator.integers(2, 4, len(rows))))
    boxes = shake(generator, more.boxes, 0.06)
    scores = more.scores * generator.uniform(0.7, 1, len(boxes))
    return found.and_then(replace(more, boxes=boxes, scores=scores))


def background(generator: np.random.Generator, found: Results, strength: float) -> Results:
    """Boxes anywhere, four for each object at full strength, of scores between 0.05 and 0.95."""
    count = round(4 * strength * IMAGES * OBJECTS)
    more = make_objects(generator).take(generator.integers(0, IMAGES * OBJECTS, count))
    scores = generator.uniform(0.05, 0.95, count)
    return found.and_then(replace(more, scores=scores, objects=np.full(count, -1)))


def misses(generator: np.random.Generator, found: Results, strength: float) -> Results:
    """All detections of some objects are gone."""
    gone = generator.random(IMAGES * OBJECTS) < strength
    return found.take(np.flatnonzero((found.objects < 0) | ~gone[found.objects]))


PLANT: dict[str, Callable[[np.random.Generator, Results, float], Results]] = {
    "ranking": ranking,
    "localization": localization,
    "classification": classification,
    "duplicates": duplicates,
    "background": background,
    "misses": misses,
}


def diagnose(objects: Results, found: Results) -> tuple[pd.Series, pd.Series]:
    """Shares by cause, and what TIDE's kinds cost."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    annotated = SimpleNamespace(
        images=objects.images,
        labels=objects.labels,
        boxes=np.hstack([objects.boxes[:, :2], sides]),
        areas=sides.prod(axis=1),
        crowd=np.zeros(len(sides), bool),
        ids=np.arange(len(sides)),
    )
    dataset = cast(CocoDataset, MadeUpDataset(list(range(IMAGES)), list(range(CLASSES)), annotated))
    corners = dict(zip(("x1", "y1", "x2", "y2"), found.boxes.T, strict=True))
    columns = {"image_id": found.images, "detector": "made-up", "head": "fc", "label": found.labels}
    frame = pd.DataFrame({**columns, **corners, "score": found.scores})
    frame = in_order(frame.astype(DETECTION_TYPES))
    shares = lost_precision(frame, dataset, replicates=1).set_index("cause")["share"]
    errors = detection_errors(frame, dataset, replicates=1).set_index("error")["delta_ap"]
    return shares, errors[list(MAIN_ERRORS)]


def try_one(number: int, faults: tuple[str, ...]) -> dict[str, object]:
    """Plant faults and look for them."""
    generator = np.random.default_rng([3, number])
    objects = make_objects(generator)
    found = detect(generator, objects)
    before = diagnose(objects, found)[0].sum()
    strengths = generator.uniform(*STRENGTHS, len(faults))
    for fault, strength in zip(faults, strengths, strict=True):
        found = PLANT[fault](generator, found, float(strength))
    shares, errors = diagnose(objects, found)
    kinds = [TIDE_NAMES.get(fault, "") for fault in faults]
    return {
        "faults": " + ".join(faults),
        "strength": " + ".join(f"{strength:.2f}" for strength in strengths),
        "lost_before": before,
        "lost": shares.sum(),
        **{f"share_{name}": value for name, value in shares.items()},
        "named": shares.idxmax() in faults,
        "both_named": set(shares.nlargest(len(faults)).index) == set(faults),
        "tide_named": errors.idxmax() in kinds,
        "tide_both_named": set(errors.nlargest(len(faults)).index) == set(kinds),
    }


def summarize(tried: pd.DataFrame) -> pd.DataFrame:
    """A row a fault, and one of all pairs: sets, what they lose, how often the faults are named, in percent."""
    is_pair = tried["faults"].str.contains(" + ", regex=False)
    group = tried["faults"].where(~is_pair, "two faults")
    found = tried.assign(faults=group).groupby("faults", sort=False)
    flags = ["named", "both_named", "tide_named", "tide_both_named"]
    table = found[["lost_before", "lost", *flags]].mean() * 100
    return table.assign(sets=found.size()).reset_index()


def command(
    sets: Annotated[int, typer.Option(help="Of results, three quarters with one fault.")] = 200,
    output: Annotated[Path, typer.Option(help="Folder of the tables.")] = HERE,
) -> None:
    """Plant each of the six faults in turn, then each pair of them; and count."""
    pairs = list(itertools.combinations(CAUSES, 2))
    planted: list[tuple[str, ...]] = [
        (CAUSES[number % len(CAUSES)],) if number < sets * 3 // 4 else pairs[number % len(pairs)]
        for number in range(sets)
    ]
    tried = pd.DataFrame([try_one(number, faults) for number, faults in enumerate(planted)])
    table = summarize(tried)
    write_csv(tried.round(4), output / "sets.csv")
    write_csv(table.round(1), output / "planted.csv")
    typer.echo(to_markdown(table.round(1)))


if __name__ == "__main__":
    typer.run(command)
