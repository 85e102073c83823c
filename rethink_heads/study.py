"""Resolves a command's options into subjects, once: detectors with the data that they are asked about."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink_heads.bounds import HEADS, head_name
from rethink_heads.comparable import (
    MOST_NAMED,
    check_comparable,
    merge_measurements,
    name_some,
    on_common_classes,
)
from rethink_heads.config import MeasuringConfig, StudyConfig
from rethink_heads.console import log, redirect_stdout
from rethink_heads.data.sources import split_paths
from rethink_heads.distributed import is_first_process, rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.files import csv_bytes, write_csv
from rethink_heads.locking import hold, results_folder
from rethink_heads.options import StudyOptions
from rethink_heads.run_options import one_each, open_runs, with_options
from rethink_heads.runs import NOT_MEASURED, Run, measurements_name, with_fusion

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.base import Detector
    from rethink_heads.detectors.classes import ClassMatch, SharedClasses
    from rethink_heads.measure.store import Measurements

Key = tuple[str, str]
"""(detector, head)."""


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
class Detected:
    """Final detections of a run's heads on a data set, in the folder ``name`` of its measurements."""

    run: Run
    dataset: CocoDataset
    name: str
    provenance: dict[str, str]
    heads: list[str]

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

    def match(self) -> ClassMatch:
        """Which class of the data is which of the detector's; the detector itself is not opened."""
        from rethink_heads.detectors.classes import match_classes, read_class_map

        names = self.datasets[split_paths(self.config.data, "test")].class_names
        given = read_class_map(self.config.measuring.class_map)
        return match_classes(names, self.run.class_names, given)

    def share_classes(self) -> SharedClasses:
        """Open the detector and the data with the classes that both have; what is left out is said.

        Raises:
            UserError: they have no class in common, or something cannot be read.
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

        Raises:
            UserError: they have no class in common, or something cannot be read or written.
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

        Raises:
            UserError: data and detector do not fit, or something cannot be read or written.
        """
        from rethink_heads.measure.runner import measure

        shared, measuring = self.opened, self.config.measuring
        with self.run.logged(f"measuring {self.name}"), redirect_stdout():
            measurements = measure(
                shared.detector,
                shared.dataset,
                self.run.name,
                measuring,
                self.seed,
                self.folder,
                self.provenance,
            )
        if self.run.is_external:
            log(
                f"kept in {self.folder}; its tables and figures: rethink-heads figures --run {self.run.path}"
            )
        return measurements

    def match_stages(self) -> None:
        """Match the boxes of the detector's own stages to objects, where it was not done before."""
        from rethink_heads.measure.stages import keep_stages

        shared, measuring = self.opened, self.config.measuring
        dataset = shared.dataset
        if measuring.images is not None:
            dataset = dataset.subset(measuring.images)
        name, folder, provenance = self.run.name, self.folder, self.provenance
        with self.run.logged(f"matching boxes {self.name}"), redirect_stdout():
            keep_stages(shared.detector, dataset, name, folder, provenance, measuring.memory_mb)

    def detect(
        self, heads: Sequence[str], images: int | None = None, fusion: str | None = None
    ) -> Detected:
        """Detect with the detector, where it was not done before.

        Args:
            heads: those that are looked at.
            images: how many; None for all, since detecting is quick, unlike measuring predefined proposals.
            fusion: the rule by which heads of two classifiers fuse scores; None for the run's own.

        Raises:
            UserError: none of the heads is trained, or something cannot be read or written.
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
        return Detected(run, dataset, name, provenance, trained)

    def planned_provenance(self) -> dict[str, str]:
        """What the provenance of its measurements will say, as far as detectors must have it equal.

        The number of images is left out: it also depends on how many the data has.
        """
        return {
            "data": self.datasets[split_paths(self.config.data, "test")].file_fingerprint,
            "measuring": self.config.measuring.model_dump_json(exclude={*NOT_MEASURED, "images"}),
            "seed": str(self.seed),
        }


@dataclass(frozen=True)
class Study:
    """One or more detectors, the heads of them that are looked at, and what was measured.

    Attributes:
        subjects: the detectors, in the order given.
        heads: the heads asked for; None means all.
        seed: of the bootstrap.
        measured: all their heads together; the column "detector" is the run's name. None before measuring.
    """

    subjects: list[Subject]
    heads: list[str] | None
    seed: int
    measured: Measurements | None = None

    @property
    def runs(self) -> list[Run]:
        """The detectors' folders."""
        return [subject.run for subject in self.subjects]

    @property
    def names(self) -> list[str]:
        """Each detector's name of its measurements (see :mod:`rethink_heads.runs`)."""
        return [subject.name for subject in self.subjects]

    @property
    def measurements(self) -> Measurements:
        """What was measured."""
        assert self.measured is not None
        return self.measured

    @property
    def keys(self) -> list[Key]:
        """(detector, head) of each head that is looked at, detectors in the order given."""
        return in_order(self.runs, self.measurements.keys, self.heads)

    @property
    def selected(self) -> Measurements:
        """The measurements of the heads that are looked at."""
        return self.measurements.select(heads=self.heads)

    def measure(self) -> Study:
        """Measure every detector on the classes that all have, or read what was measured before."""
        found = [subject.measure() for subject in self.subjects]
        return dataclasses.replace(self, measured=merge_measurements(self.runs, found))

    def compare(self, statistic: str, **options: Any) -> pd.DataFrame:
        """Compare the heads; options as of ``rethink_heads.statistics.comparison``."""
        import pandas as pd

        from rethink_heads.statistics.comparison import compare, compared_pairs

        frames = [
            compare(self.measurements, statistic, a, b, seed=self.seed, **options)
            for a, b in compared_pairs(self.keys, statistic)
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def in_order(
    runs: Sequence[Run], there: Collection[Key], heads: Sequence[str] | None = None
) -> list[Key]:
    """The heads of ``there``, detectors in the order of ``runs``; heads as asked for, else in that of HEADS."""
    return [
        (run.name, head)
        for run in runs
        for head in heads
        or sorted(run.heads, key=lambda each: HEADS.index(each) if each in HEADS else len(HEADS))
        if (run.name, head) in there
    ]


def is_of_detectors(runs: Sequence[Run]) -> bool:
    """Whether detectors are compared of which some were not trained here.

    Detectors trained here are compared for their heads, whose names say enough.
    """
    return len(runs) > 1 and any(run.is_external for run in runs)


def fuses(head: str) -> bool:
    """Whether a head fuses the scores of two classifiers."""
    from rethink_heads.structures import HEAD_CONFIGURATIONS

    return head in HEAD_CONFIGURATIONS and len(HEAD_CONFIGURATIONS[head].classifiers) > 1


def study(options: StudyOptions, branches: bool = False) -> Study:
    """Measure detectors, or read what was measured before; of several processes only the first goes on then.

    Args:
        options: as on the command line.
        branches: whether a head may also name a branch of a double head that is no head itself.

    Raises:
        UserError: a head or run is not there, measuring fails, or detectors are not comparable.
    """
    found = open_study(options, branches).measure()
    rank_zero_only()
    return found


def open_study(options: StudyOptions, branches: bool = False) -> Study:
    """Open the detectors asked for, and check all that can be checked before anything is measured.

    Args, raises: as of :func:`study`.
    """
    heads = asked_heads(options)
    runs = open_runs(options)
    _check_heads(runs, heads, branches)
    subjects = _as_measured_before(resolve(runs, options), options)
    if len(runs) > 1:
        check_comparable(runs, [subject.planned_provenance() for subject in subjects])
    seed = runs[0].config.seed if options.seed is None else options.seed
    return Study(on_common_classes(subjects), heads, seed)


def resolve(runs: Sequence[Run], options: StudyOptions) -> list[Subject]:
    """The subjects of a command: each detector's settings with what the options change of them.

    Raises:
        UserError: the options contradict themselves or each other, or a value is bad.
    """
    maps = one_each(options.detectors.class_map, len(runs), "--class-map", "detectors")
    datasets = Datasets()
    return [
        Subject(
            run,
            with_options(run.config, options, class_map),
            run.config.seed if options.seed is None else options.seed,
            options.device,
            datasets,
        )
        for run, class_map in zip(runs, maps, strict=True)
    ]


def _as_measured_before(subjects: list[Subject], options: StudyOptions) -> list[Subject]:
    """Take what there is of external detectors that were measured with other settings, where none are asked for.

    So ``--run runs/mine`` shows what ``--model mine=... --max-images 4`` measured; it is said, and how to measure all.
    """
    asked = dataclasses.replace(
        options,
        head=None,
        device="auto",
        detectors=dataclasses.replace(options.detectors, run=None),
    )
    if asked != StudyOptions() or not all(each.run.is_external for each in subjects):
        return subjects
    found = [_newest_measured(subject) for subject in subjects]
    taken = [each for each in found if each is not None]
    if len({(each.config.measuring, each.seed) for each in taken}) != 1 or len(taken) < len(found):
        return subjects
    for own, each in zip(subjects, taken, strict=True):
        if each is not own:
            images = each.config.measuring.images
            total = len(each.datasets[split_paths(each.config.data, "test")])
            log(
                f"{own.run.name}: what is there is shown, {each.name}: {total if images is None else images} of"
                f" {total} images; measuring.images=none measures all with the settings in {own.run.path}"
            )
    return taken


def _newest_measured(subject: Subject) -> Subject | None:
    """The subject with the settings of its newest complete measurements of its own data; itself before others."""
    from rethink_heads.measure.store_files import stored_provenance

    own = subject.run.config
    folders = [path for path in subject.run.measurements_dir.glob("*") if path.is_dir()]
    for folder in sorted(
        folders, key=lambda path: (path == subject.folder, path.stat().st_mtime), reverse=True
    ):
        said = stored_provenance(folder)
        if said is None:
            continue
        if folder == subject.folder:
            return subject
        measuring = MeasuringConfig.model_validate_json(said["measuring"])
        for images in (int(said["images"]), None):
            chosen = measuring.model_copy(update={"images": images})
            config = own.model_copy(update={"measuring": chosen})
            found = dataclasses.replace(subject, config=config, seed=int(said["seed"]))
            if found.folder == folder:
                return found
    return None


def asked_heads(options: StudyOptions) -> list[str] | None:
    """The heads asked for, each once; None asks for all.

    Raises:
        UserError: the demo's detector, which would be trained first, has no such head.
    """
    heads = list(dict.fromkeys(head_name(head) for head in options.head or ()))
    if not options.detectors.run and not options.detectors.model:
        for head in heads:
            if head not in HEADS:
                raise UserError(f"unknown head {head!r}; the heads are {', '.join(HEADS)}")
    return heads or None


def _check_heads(runs: Sequence[Run], heads: Sequence[str] | None, branches: bool) -> None:
    """Raise UserError before anything is measured where no run has one of the heads."""
    if branches and any(run.is_external for run in runs):
        # What branches a detector that was not trained here has is known when it was measured.
        return
    there = {run.name: [*run.heads, *(run.branches if branches else ())] for run in runs}
    for head in heads or ():
        if not any(head in names for names in there.values()):
            has = "; ".join(
                f"{name} has {', '.join(dict.fromkeys(names))}" for name, names in there.items()
            )
            raise UserError(f"no head {head!r} here: {has}")


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
