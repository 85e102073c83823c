"""A detector with the data that it is asked about: what it is measured on, what it detects, and how both are called."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.config import StudyConfig
from rethink_heads.console import log, redirect_stdout
from rethink_heads.data.sources import split_paths
from rethink_heads.distributed import is_first_process
from rethink_heads.errors import UserError
from rethink_heads.files import csv_bytes, write_csv
from rethink_heads.locking import hold, results_folder
from rethink_heads.runs import NOT_MEASURED, Run, measurements_name, with_fusion

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.base import Detector
    from rethink_heads.detectors.classes import ClassMatch, SharedClasses
    from rethink_heads.measure.store import Measurements

Key = tuple[str, str]
"""(detector, head)."""
MOST_NAMED = 8


class Datasets(dict[tuple[Path, Path], "CocoDataset"]):
    """Data sets by annotation file and image folder: each is read once a command, and told of on standard error."""

    def __missing__(self, paths: tuple[Path, Path]) -> CocoDataset:
        from rethink_heads.data.coco import CocoDataset

        self[paths] = CocoDataset(*paths)
        return self[paths]

    def tell(self, config: StudyConfig) -> CocoDataset:
        """Return the test data of the settings, and say what is measured of it and what was left out."""
        dataset, measuring = self[split_paths(config.data, "test")], config.measuring
        chosen = dataset if measuring.images is None else dataset.subset(measuring.images)
        counts = chosen.box_counts
        total = f" of {len(dataset)}" if len(chosen) < len(dataset) else ""
        each = measuring.objects_per_image
        at_most = "" if each is None else f", of which at most {each} an image are measured"
        log(
            f"{dataset.where}: {len(chosen)}{total} images, {counts.objects} objects{at_most}"
            f" ({counts.clipped} clipped to the image); left out: {counts.crowd} crowd boxes,"
            f" {counts.degenerate} of zero size, {counts.outside} outside the image"
        )
        return dataset


@dataclass(frozen=True)
class RunDetections:
    """Final detections of a run's heads on a data set, in the folder ``name`` of its measurements."""

    run: Run
    dataset: CocoDataset
    name: str
    provenance: dict[str, str]
    heads: list[str]

    @property
    def detector(self) -> str:
        """What tables call it."""
        return self.run.name

    @property
    def frame(self) -> pd.DataFrame:
        """The detections, in DETECTION_COLUMNS."""
        from rethink_heads.measure.detections import detections_of

        return detections_of(self.dataset, self.run.measurements(self.name))

    @property
    def keys(self) -> list[Key]:
        """(detector, head) of the heads that are looked at."""
        return [(self.run.name, head) for head in self.heads]


@dataclass(frozen=True)
class Subject:
    """A detector with the data that it is asked about; both are opened when they are first needed.

    Attributes:
        run: the detector's folder.
        config: its settings with what the command line changes.
        seed: of the measuring.
        device: where the detector computes.
        datasets: those of the command.
        classes: of the data, those that all detectors of a study have; None for all that this one has.
    """

    run: Run
    config: StudyConfig
    seed: int
    device: str
    datasets: Datasets
    classes: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The name of its measurements (see :mod:`rethink_heads.runs`)."""
        return measurements_name(self.run.config, self.config, self.seed, self.classes)

    @property
    def folder(self) -> Path:
        """The folder of its measurements."""
        return self.run.measurements(self.name)

    @property
    def data_paths(self) -> tuple[Path, Path]:
        """Annotation file and image folder of the data."""
        return split_paths(self.config.data, "test")

    def match(self) -> ClassMatch:
        """Which class of the data is which of the detector's; the detector itself is not opened."""
        from rethink_heads.detectors.classes import match_classes, read_class_map

        class_map = read_class_map(self.config.measuring.class_map)
        names = self.datasets[self.data_paths].class_names
        return match_classes(names, self.run.class_names, class_map)

    def share_classes(self) -> SharedClasses:
        """Open the detector and the data with the classes that both have; what is left out is said.
        Raises UserError where they have no class in common, or something cannot be read.
        """
        from rethink_heads.detectors.classes import read_class_map, share_classes

        dataset = self.datasets.tell(self.config)
        class_map = read_class_map(self.config.measuring.class_map)
        shared = share_classes(self.load(), dataset, class_map)
        _say_unmatched(shared, self.run.name)
        return shared

    @cached_property
    def opened(self) -> SharedClasses:
        """The detector, and the objects of the classes that are looked at.

        The detector's folder is there afterwards, with ``classes.csv`` beside its measurements.
        Raises UserError where they have no class in common, or something cannot be read or written.
        """
        shared = self.share_classes()
        if self.classes is not None:
            chosen = shared.dataset.with_classes(self.classes)
            shared = dataclasses.replace(shared, dataset=chosen)
        images = self.config.measuring.images or len(shared.dataset)
        counts = shared.dataset.subset(images).box_counts
        if counts.other_classes:
            log(
                f"{self.run.name}: {counts.objects} objects are of the {len(shared.dataset.class_names)} of"
                f" {len(shared.match.dataset_names)} classes that are looked at"
            )
        if self.run.is_external:
            Run.create(self.run.path, self.run.config)
        _keep_match(shared.match, self.folder)
        return shared

    def load(self) -> Detector:
        """The detector, on the device asked for."""
        from rethink_heads.machine import resolve_device

        with redirect_stdout():
            return self.run.load(resolve_device(self.device))

    @property
    def provenance(self) -> dict[str, str]:
        """What anything that the detector says of the data depends on."""
        shared = self.opened
        found = self.run.provenance() | shared.provenance
        if self.classes is not None:
            found["annotations"] = shared.dataset.file_fingerprint
            found["classes"] = json.dumps(shared.dataset.class_names)
        return found

    def measure(self) -> Measurements:
        """Measure the detector's heads, or read what was measured before.
        Raises UserError where data and detector do not fit, or something cannot be read or written.
        """
        from rethink_heads.measure.runner import measure

        detector, dataset, own = self.opened.detector, self.opened.dataset, self.config.measuring
        place = self.folder, self.provenance
        with self.run.logged(f"measuring {self.name}"), redirect_stdout():
            measurements = measure(detector, dataset, self.run.name, own, self.seed, *place)
        if self.run.is_external:
            log(
                f"kept in {self.folder}; its tables and figures: rethink-heads figures --run {self.run.path}"
            )
        return measurements

    @property
    def measured_data(self) -> CocoDataset:
        """The images that are measured, with the objects of the classes that are looked at."""
        images = self.config.measuring.images
        return self.opened.dataset if images is None else self.opened.dataset.subset(images)

    def match_stages(self) -> None:
        """Match the boxes of the detector's own stages to objects, where it was not done before."""
        from rethink_heads.measure.detections import keep_stages

        detector, memory_mb = self.opened.detector, self.config.measuring.memory_mb
        name, folder, provenance = self.run.name, self.folder, self.provenance
        with self.run.logged(f"matching boxes {self.name}"), redirect_stdout():
            keep_stages(detector, self.measured_data, name, folder, provenance, memory_mb)

    def detect(
        self, heads: Sequence[str], images: int | None = None, fusion: str | None = None
    ) -> RunDetections:
        """Detect with the detector, where it was not done before.
        Raises UserError where none of the heads is trained, or something cannot be read or written.

        Args:
            images: how many; None for all, since detecting is quick, unlike measuring predefined proposals.
            fusion: the rule by which heads of two classifiers fuse scores; None for the run's own.
        """
        from rethink_heads.detectors.rcnn import RCNN
        from rethink_heads.measure.detections import keep_detections

        run, detector, dataset = self.run, self.opened.detector, self.opened.dataset
        name, provenance = self.name, self.provenance
        if images is not None:
            dataset = dataset.subset(images)
        # Task weights may have left a head configuration of the structure untrained.
        trained = [head for head in heads if head in detector.heads]
        if not trained:
            raise UserError(
                f"the task weights of {run.path} left {', '.join(heads)} untrained;"
                f" it has {', '.join(detector.heads)}"
            )
        if fusion is not None and isinstance(detector, RCNN) and any(map(fuses, trained)):
            if fusion != detector.roi_heads.fusion:
                name, provenance = with_fusion(name, provenance, fusion)
            detector.roi_heads.fusion = fusion
        with run.logged(f"detecting {name}"), redirect_stdout():
            keep_detections(detector, dataset, run.name, run.measurements(name), provenance)
        return RunDetections(run, dataset, name, provenance, trained)

    def planned_provenance(self) -> dict[str, str]:
        """What the provenance of its measurements will say, as far as detectors must have it equal.

        The number of images is left out: it also depends on how many the data has.
        """
        return {
            "data": self.datasets[self.data_paths].file_fingerprint,
            "measuring": self.config.measuring.model_dump_json(exclude={*NOT_MEASURED, "images"}),
            "seed": str(self.seed),
        }


def fuses(head: str) -> bool:
    """Whether a head fuses the scores of two classifiers."""
    from rethink_heads.structures import HEAD_CONFIGURATIONS

    return head in HEAD_CONFIGURATIONS and len(HEAD_CONFIGURATIONS[head].classifiers) > 1


def name_some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _keep_match(match: ClassMatch, folder: Path) -> None:
    """Write which class is which, and which have no counterpart, as ``classes.csv`` beside measurements."""
    if match.is_identity:
        return
    table, path = match.table(), folder / "classes.csv"

    def is_kept() -> bool:
        return path.is_file() and path.read_bytes() == csv_bytes(table)

    with hold(results_folder(folder), is_kept):
        if is_first_process() and not is_kept():
            write_csv(table, path)


def _say_unmatched(shared: SharedClasses, name: str) -> None:
    match = shared.match
    if match.only_dataset:
        table = match.table()
        rows = table[(table["detector_class"] == "") & (table["dataset_class"] != "")]
        # Of many, those that are near to something: the others are named in a line.
        if len(rows) > MOST_NAMED:
            far = rows[rows["note"] == ""]["dataset_class"].to_list()
            rows = rows[rows["note"] != ""]
            log(
                f"{name} lacks {len(far)} classes of the data that none of its own is like: {name_some(far)}"
            )
        if len(rows):
            from rethink_heads.report.output import print_table

            title = f"Classes of the data that {name} lacks; --class-map FILE says which of its own they are"
            cells = rows[["dataset_class", "note"]].set_axis(["class of the data", "note"], axis=1)
            # On standard error, with everything else that is no result.
            with redirect_stdout():
                print_table(title, cells)
        left_out = shared.dataset.box_counts.other_classes
        log(f"{name}: {left_out} objects of classes that it lacks are left out")
    if match.only_detector:
        named = name_some(match.only_detector)
        log(f"{name}: classes that the data lacks, whose detections do not count: {named}")
