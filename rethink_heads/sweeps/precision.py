"""Average precision of each point of a sweep: detected once a training, kept, and read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rethink_heads.config import Config
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import split_paths
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.distributed import processes
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import AP_NAMES, resampled_precision
from rethink_heads.evaluation.matching import GroundTruth
from rethink_heads.files import read_parquet, write_parquet
from rethink_heads.machine import resolve_device
from rethink_heads.measure.by_image import dataset_provenance
from rethink_heads.measure.detections import detections_of, keep_detections
from rethink_heads.runs import Run, measurements_name, with_fusion
from rethink_heads.statistics.bootstrap import REPLICATES, SHARE, BootstrapEstimate, ImageBootstrap
from rethink_heads.sweeps.description import Point
from rethink_heads.sweeps.plan import Plan

PRECISION_FOLDER = "precision"
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Size:
    """Numbers of trainable and frozen weights: of the detector, and of its heads alone."""

    parameters: int
    head_parameters: int


@dataclass(frozen=True)
class Read:
    """How a point's detector is read: a reading that its training makes meaningful, and a fusion rule."""

    reading: str
    fusion: str


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
