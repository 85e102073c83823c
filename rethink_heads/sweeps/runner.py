"""Runs a sweep: trains what is missing, reads AP of every point once and keeps it, writes the table and the figure."""

from __future__ import annotations

import itertools
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from rethink_heads.config import Config
from rethink_heads.console import log
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import split_paths
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.distributed import process_count, processes, rank_zero_only
from rethink_heads.errors import OtherProcessError, UserError
from rethink_heads.evaluation.average_precision import AP_NAMES, resampled_precision
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.files import read_parquet, write_csv, write_parquet, write_text
from rethink_heads.locking import hold
from rethink_heads.machine import resolve_device
from rethink_heads.measure.by_image import dataset_provenance
from rethink_heads.measure.detections import detections_of, keep_detections
from rethink_heads.plots.layout import save_figure
from rethink_heads.plots.style import NothingToDrawError
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.runs import Run, measurements_name, with_fusion
from rethink_heads.statistics.bootstrap import REPLICATES, SHARE, BootstrapEstimate, ImageBootstrap
from rethink_heads.sweeps.description import Point
from rethink_heads.sweeps.plan import Plan, Training
from rethink_heads.sweeps.tables import Read, Size, ordering_table, sweep_table, write_up

logger = logging.getLogger(__name__)

Train = Callable[[Path, Config, str], object]
FAILURES_FOLDER = "failures"
PRECISION_FOLDER = "precision"
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        table: see :func:`rethink_heads.sweeps.tables.sweep_table`.
        ordering: see :func:`rethink_heads.sweeps.tables.ordering_table`; without rows where the sweep has no ranking.
        failures: by ``<label>-<seed>``, the sentence of what went wrong.
        files: what was written.
    """

    table: pd.DataFrame
    ordering: pd.DataFrame
    failures: Mapping[str, str]
    files: list[Path] = field(default_factory=list)


def train_into(path: Path, config: Config, device: str) -> None:
    """Train into a run folder, or go on where an interrupted training stopped."""
    from rethink_heads.training.train import train

    train(config, Run.create(path, config), device)


def run_sweep(plan: Plan, device: str = "auto", train: Train = train_into) -> SweepResult:
    """Train what is missing, read all points, and write the table and the figure.

    Trainings that are complete are left alone, and one that was interrupted goes on where it stopped. What goes wrong
    in one point is kept in ``failures/`` and stops no other.

    Processes that torchrun started train each detector together and share the images that it is read on; then the first
    goes on alone and the others end with it. Here a failure ends all: processes that wait for one that failed cannot
    be called back.

    Args:
        plan: what to do; its folder gets ``table.csv``, ``table.md``, ``table.tex``, ``figure.png``,
            ``figure.pdf``, and ``ordering.*`` where the sweep has a ranking.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        train: trains a run folder.

    Raises:
        UserError: the settings, the data, the device or a folder cannot be used at all, or no point could be read.
        KeyboardInterrupt: on Ctrl-C; the same call goes on.
    """
    resolve_device(device)
    with hold(plan.output):
        return _run(plan, device, train)


def _run(plan: Plan, device: str, train: Train) -> SweepResult:
    plan.check_folders()
    precision = Precision(plan, device)
    split_paths(precision.config.data, "train")
    failures = _train_missing(plan, device, train)
    if process_count() > 1:
        # All processes share the images of every point that is still to be read.
        for point, seed in itertools.product(plan.points, plan.seeds):
            with _attempt(plan, f"{point.label}-{seed}", {}):
                precision.detect(point, seed)
        rank_zero_only()
    found: dict[tuple[str, int], pd.DataFrame] = {}
    for point, seed in itertools.product(plan.points, plan.seeds):
        if plan.training_of(point, seed).key in failures:
            continue
        with _attempt(plan, f"{point.label}-{seed}", failures):
            found[point.label, seed] = precision.table(point, seed)
    if not found:
        key, reason = next(iter(failures.items()))
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise UserError(
            f"no point of sweep {plan.description.name} could be read; {key}: {reason}{more}"
        )
    sizes = {point.label: precision.size(point) for point in plan.points}
    table = sweep_table(plan, precision.reads, sizes, found)
    ordering = ordering_table(
        plan, lambda point, seed: (point.label, seed) in found, precision.difference
    )
    dataset = precision.dataset
    texts = write_up(plan, table, ordering, len(dataset), dataset.annotations_path.name)
    return SweepResult(table, ordering, failures, write_results(plan, table, ordering, texts))


def prepare(plan: Plan) -> list[Training]:
    """Make the folder of every training that is still to do, and return those trainings.

    Each can be trained apart, on several machines or under torchrun; the sweep then collects them.
    """
    plan.check_folders()
    missing = [each for each in plan.trainings.values() if each.state != "done"]
    for each in missing:
        Run.create(each.path, each.config)
    return missing


def write_results(
    plan: Plan, table: pd.DataFrame, ordering: pd.DataFrame, texts: Mapping[str, str]
) -> list[Path]:
    """Write the table and the ordering as CSV, the texts by file name, the figure, and what was run.

    Returns:
        The paths.
    """
    output, written = plan.output, []
    for name, frame in (("table.csv", table), ("ordering.csv", ordering)):
        if len(frame):
            write_csv(frame, output / name)
            written.append(output / name)
    for name, content in {"sweep.yaml": _record(plan), **texts}.items():
        write_text(output / name, content)
        written.append(output / name)
    try:
        figure = sweep_figure(table, **plan.description.figure.model_dump())
    except NothingToDrawError as error:
        logger.warning("no figure: %s", error)
        return written
    return written + save_figure(figure, output / "figure")


def _train_missing(plan: Plan, device: str, train: Train) -> dict[str, str]:
    failures: dict[str, str] = {}
    # A folder may change while the last of the processes has not looked yet.
    states = processes().broadcast(lambda: [each.state for each in plan.trainings.values()])
    for number, (each, state) in enumerate(zip(plan.trainings.values(), states, strict=True), 1):
        if state == "done":
            continue
        verb = "going on with" if state == "interrupted" else "training"
        log(f"training {number} of {len(plan.trainings)}: {verb} {each.path}")
        with _attempt(plan, each.key, failures):
            train(each.path, each.config, device)
    return failures


@contextmanager
def _attempt(plan: Plan, key: str, failures: dict[str, str]) -> Iterator[None]:
    """Keep what goes wrong in the block, and go on."""
    path = plan.output / FAILURES_FOLDER / f"{key}.txt"
    try:
        yield
    except OtherProcessError:
        raise
    except Exception as error:
        # Whatever it is, such as a GPU without memory left: the other points are still wanted.
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        failures[key] = first
        write_text(path, traceback.format_exc())
        if processes().working > 1:
            raise UserError(
                f"{key} of the sweep failed: {first} (details: {path}); run the same command again to go on, without"
                " torchrun to have the other points whatever becomes of this one"
            ) from error
        logger.warning("%s failed: %s", key, first)
    else:
        path.unlink(missing_ok=True)


def _record(plan: Plan) -> str:
    """What was run, as YAML: every point and where its trainings are."""
    content = {
        "name": plan.description.name,
        "title": plan.description.title,
        "seeds": list(plan.seeds),
        "points": [
            {
                "label": point.label,
                "head": point.head,
                "reading": point.reading,
                "fusion": point.fusion,
                "runs": [str(plan.training_of(point, seed).path) for seed in plan.seeds],
            }
            for point in plan.points
        ],
    }
    return yaml.safe_dump(content, sort_keys=False)


class Precision:
    """Reads the trained detectors of a sweep on its test images.
    Raises UserError where the test data cannot be read, or a point's reading is not of its head.
    """

    def __init__(self, plan: Plan, device: str = "auto", replicates: int = REPLICATES) -> None:
        self.plan, self.device, self.replicates = plan, device, replicates
        self.config = next(iter(plan.trainings.values())).config
        # Seeds of a label differ in their weights' values alone.
        by_label = {label: training.config for (label, _), training in plan.trainings.items()}
        self._outlines = {
            label: _outline(config, self.dataset.class_names) for label, config in by_label.items()
        }
        self.reads = {point.label: self._read(point) for point in plan.points}

    @cached_property
    def dataset(self) -> CocoDataset:
        """The test images, all of them, that every point is read on."""
        return CocoDataset(*split_paths(self.config.data, "test"))

    def size(self, point: Point) -> Size:
        """The number of weights of a point's detector."""
        return self._outlines[point.training][1]

    def table(self, point: Point, seed: int) -> pd.DataFrame:
        """Rows metric, value, value_low, value_high of a point's detector."""
        estimate = self.resampled(point, seed).estimate()
        return pd.DataFrame({"metric": AP_NAMES, **estimate.columns("value")})

    def difference(self, a: Point, b: Point, seed: int) -> pd.DataFrame:
        """Rows metric, difference (a less b), difference_low, difference_high, on the same draws of images."""
        estimate = self.resampled(a, seed).less(self.resampled(b, seed)).estimate()
        return pd.DataFrame({"metric": AP_NAMES, **estimate.columns("difference")})

    def resampled(self, point: Point, seed: int) -> BootstrapEstimate:
        """A point's average precisions (6,) and those of each draw of images; read again where nothing has changed."""
        path, provenance = self._file(point, seed)
        kept = _kept(path, provenance)
        if kept is None:
            key = self.plan.training_of(point, seed).path.name, self.reads[point.label].reading
            detections, (truth, bootstrap) = self.detections(point, seed), self._images
            truth.check(detections)
            kept = resampled_precision(truth.detections_of(detections, key), truth, bootstrap)
            write_parquet(_frame(kept), path, provenance)
        return kept

    def detect(self, point: Point, seed: int) -> None:
        """Have what :meth:`resampled` reads there; all processes share the images."""
        path, provenance = self._file(point, seed)
        if not processes().broadcast(lambda: _kept(path, provenance) is not None):
            self.detections(point, seed)

    def _file(self, point: Point, seed: int) -> tuple[Path, dict[str, str]]:
        """Where a point's precision is kept, and what it depends on."""
        training = self.plan.training_of(point, seed)
        provenance = {
            **dataset_provenance(self.dataset),
            **Run(training.path, training.config).provenance(),
            **vars(self.reads[point.label]),
            "replicates": str(self.replicates),
        }
        path = self.plan.output / PRECISION_FOLDER / f"{point.label}-{seed}.parquet"
        return path, provenance

    @cached_property
    def _images(self) -> tuple[GroundTruth, ImageBootstrap]:
        """What is to be found, and the draws of images, the same for all points."""
        truth = GroundTruth(self.dataset)
        return truth, ImageBootstrap(truth.image_ids, self.replicates, BOOTSTRAP_SEED)

    def detections(self, point: Point, seed: int) -> pd.DataFrame:
        """Final detections of a point's detector, found where they are not there, and left in their file."""
        training, read = self.plan.training_of(point, seed), self.reads[point.label]
        run = Run(training.path, training.config)
        detector = Run.open(training.path).load(resolve_device(self.device))
        assert isinstance(detector, RCNN)
        # Another than the default where the sweep's test images are not the run's own.
        own = Run.open(training.path).config
        chosen = own.model_copy(update={"data": self.config.data})
        name, provenance = measurements_name(own, chosen, own.seed), run.provenance()
        if read.fusion != training.config.model.fusion:
            detector.roi_heads.fusion = read.fusion
            name, provenance = with_fusion(name, provenance, read.fusion)
        folder = run.measurements(name)
        keep_detections(detector, self.dataset, run.name, folder, provenance)
        return detections_of(self.dataset, folder)

    def _read(self, point: Point) -> Read:
        readings, _ = self._outlines[point.training]
        if point.reading is not None and point.reading not in readings:
            raise UserError(
                f"point {point.label}: a detector of head {point.head!r} with these task weights cannot be"
                f" read as {point.reading!r}; it has {', '.join(readings)}"
            )
        config = self.plan.training_of(point, self.plan.seeds[0]).config
        # The last is the fullest: both heads' scores where both are trained.
        return Read(point.reading or readings[-1], point.fusion or config.model.fusion)


def _outline(config: Config, class_names: tuple[str, ...]) -> tuple[tuple[str, ...], Size]:
    """The readings of a detector and its size, without making its weights."""
    with torch.device("meta"):
        detector = build_detector(config, class_names, pretrained=False)
    total, in_heads = (
        sum(weight.numel() for weight in module.parameters())
        for module in (detector, detector.roi_heads)
    )
    return detector.heads, Size(total, in_heads)


def _frame(resampled: BootstrapEstimate) -> pd.DataFrame:
    """What was resampled as rows of numbers, with what each row is in the column "of"."""
    parts = {
        "value": resampled.value[None],
        "images": resampled.images[None],
        "images_each": np.full((1, len(AP_NAMES)), resampled.images_each),
        "replicate": resampled.replicates,
    }
    return pd.concat(
        [pd.DataFrame(part, columns=list(AP_NAMES)).assign(of=of) for of, part in parts.items()],
        ignore_index=True,
    )


def _kept(path: Path, provenance: Mapping[str, str]) -> BootstrapEstimate | None:
    """What was kept of the same provenance; None where there is no such thing, or it is damaged."""
    try:
        frame, found = read_parquet(path)
    except UserError:
        return None
    if found != provenance:
        return None
    parts = {of: rows[list(AP_NAMES)].to_numpy(float) for of, rows in frame.groupby("of")}
    return BootstrapEstimate(
        parts["value"][0],
        parts["replicate"],
        parts["images"][0].astype(np.int64),
        SHARE,
        float(parts["images_each"][0, 0]),
    )
