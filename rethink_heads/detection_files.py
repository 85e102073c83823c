"""Files of final detections as subjects of a command, beside detectors or without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.bounds import FILE_HEAD
from rethink_heads.config import StudyConfig
from rethink_heads.console import log
from rethink_heads.data.sources import split_paths
from rethink_heads.errors import UserError, shorten, shown
from rethink_heads.files import expand_home
from rethink_heads.options import DataOptions, DetectorOptions, ResultsOptions
from rethink_heads.run_options import one_each, with_data

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.subject import Subject

FORMAT_OPTIONS = ("box_format", "box_frame", "category_ids", "image_ids", "score_scale")
MOST_NAME_LETTERS = 80


@dataclass(frozen=True)
class DetectionFile:
    """Final detections of a file on a data set.

    Attributes:
        detector: what tables call it.
        path: the file or folder.
        dataset: the images and classes that are looked at.
        detections: in DETECTION_COLUMNS, of all the file's images and classes that the annotations have.
        provenance: what results depend on.
    """

    detector: str
    path: Path
    dataset: CocoDataset
    detections: pd.DataFrame
    provenance: dict[str, str]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(detector, head) of the one head that a file has."""
        return [(self.detector, FILE_HEAD)]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The detections of the images that are looked at, in the labels of :attr:`dataset`."""
        return self.detections[self.detections["image_id"].isin(self.dataset.image_ids)]

    def on(self, dataset: CocoDataset) -> DetectionFile:
        """The file on fewer images or classes of the same data."""
        label = {name: number for number, name in enumerate(dataset.class_names)}
        labels = self.detections["label"].map(
            {number: label.get(name) for number, name in enumerate(self.dataset.class_names)}
        )
        known = labels.notna()
        chosen = self.detections[known].assign(label=labels[known].astype("int64"))
        provenance = self.provenance | {"images": str(len(dataset))}
        return replace(self, dataset=dataset, detections=chosen, provenance=provenance)


def files_alone(options: ResultsOptions, detectors: DetectorOptions) -> bool:
    """Whether files are looked at without any detector; none at all means the demo's run.
    Raises UserError where ways of reading are given without a file.
    """
    given = [name for name, value in vars(options).items() if value]
    if given and not options.detections:
        raise UserError(
            f"--{given[0].replace('_', '-')} belongs to --detections, which is not given"
        )
    return bool(options.detections) and not detectors.run and not detectors.model


def open_files(
    options: ResultsOptions, data: DataOptions, subjects: Sequence[Subject] = ()
) -> list[DetectionFile]:
    """Read the files that options name, if any, against the data of a command's detectors, or the data named.
    Raises UserError as :func:`open_data` and :func:`open_detections`.
    """
    if not options.detections:
        return []
    if not subjects:
        return open_detections(options, open_data(data, options))
    first = subjects[0]
    files = open_detections(options, first.datasets[split_paths(first.config.data, "test")])
    for file in files:
        if any(file.detector == subject.run.name for subject in subjects):
            raise UserError(
                f"{shown(file.path)} and a detector are both called {file.detector!r}; name the file otherwise:"
                " --detections NAME=FILE"
            )
    return files


def on_same_data(
    files: Sequence[DetectionFile], dataset: CocoDataset | None, max_images: int | None = None
) -> list[DetectionFile]:
    """Files on the images and classes that a command's detectors are looked at on; without any, on the first images."""
    if dataset is None and max_images is None:
        return list(files)
    return [each.on(dataset or each.dataset.subset(max_images or 1)) for each in files]


def open_data(data: DataOptions, options: ResultsOptions) -> CocoDataset:
    """The data that files alone are of; images need not be there.
    Raises UserError where none is named, or it cannot be read.
    """
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.data.yolo import LabelOptions

    labels = LabelOptions(options.label_names, options.image_size)
    if data.annotations is not None and data.data is None:
        dataset = CocoDataset(expand_home(data.annotations), data.images, labels)
    elif data == DataOptions():
        raise UserError(
            "--detections needs the ground truth: give --annotations FILE (COCO's JSON, or a folder of VOC's XML or"
            " YOLO's labels), or --data FOLDER"
        )
    else:
        dataset = CocoDataset(*split_paths(with_data(StudyConfig(), data).data, "test"))
    counts = dataset.box_counts
    log(
        f"{dataset.where}: {len(dataset)} images, {counts.objects} objects of {len(dataset.class_names)} classes;"
        f" left out: {counts.crowd} crowd boxes, {counts.degenerate} of zero size, {counts.outside} outside the image"
    )
    return dataset


def read_detections(path: Path, dataset: CocoDataset, **reading: str) -> pd.DataFrame:
    """Final detections of a file on a data set, after the doctor has looked at them.

    Args:
        path: as of :func:`.result_files.read_results`.
        dataset: what was detected on; its images need not be there (``CocoDataset(annotations, None)``).
        reading: what of its format the file does not say, as of :class:`.results.ResultsFormat`: ``box_format="xyxy"``.

    Returns:
        A row a detection, in DETECTION_COLUMNS; the detector is called like the file, its head "detections".

    Raises:
        UserError: the file cannot be read, or does not fit the data as it is read.
    """
    path = Path(path)
    return _read(path.stem, path, dataset, ResultsOptions(), reading).detections


def open_detections(options: ResultsOptions, dataset: CocoDataset) -> list[DetectionFile]:
    """Read the files that options name, each in the reading asked for.
    Raises UserError where a file cannot be read, does not fit the data as it is read, or an option is bad.
    """
    named = _named(options.detections or [])
    readings = _readings(options, len(named))
    return [
        _read(name, path, dataset, options, reading)
        for (name, path), reading in zip(named, readings, strict=True)
    ]


def _read(
    name: str,
    path: Path,
    dataset: CocoDataset,
    options: ResultsOptions,
    asked: Mapping[str, str],
) -> DetectionFile:
    from rethink_heads.data.doctor import check_reading
    from rethink_heads.data.result_files import read_results

    results = read_results(path, options.label_names)
    reading = replace(results.reading, **asked)
    if not options.as_written:
        check_reading(results, dataset, reading, options.leave_out_unknown)
    frame = results.detections(dataset, reading, name, options.leave_out_unknown)
    less = len(results) - len(frame)
    log(
        f"{name}: {len(frame):,} detections in {frame['image_id'].nunique():,} of {len(dataset):,} images"
        + (
            f"; {less:,} of images or classes that the annotations lack are left out"
            if less
            else ""
        )
    )
    provenance = {
        "detections": results.fingerprint,
        "reading": ", ".join(vars(reading).values()),
        "data": dataset.file_fingerprint,
        "images": str(len(dataset)),
    }
    return DetectionFile(name, path, dataset, frame, provenance)


def _named(texts: Sequence[str]) -> list[tuple[str, Path]]:
    """Each file with its name: the one before ``=``, else the file's, or of files of one name their folders'."""
    found: list[tuple[str | None, Path]] = []
    for text in texts:
        name, sign, rest = text.partition("=")
        if not sign or expand_home(text).exists() or "/" in name:
            found.append((None, expand_home(text)))
            continue
        if not name.isprintable() or not name.strip() or len(name) > MOST_NAME_LETTERS:
            raise UserError(
                f"--detections {shorten(text)}: {shorten(name)!r} cannot name a detector; give at most"
                f" {MOST_NAME_LETTERS} printable letters"
            )
        found.append((name, expand_home(rest)))
    stems = Counter(path.absolute().stem for name, path in found if name is None)
    named: list[tuple[str, Path]] = []
    for own, path in found:
        whole = path.absolute()
        shared = stems[whole.stem] > 1
        named.append((own or (whole.parent.name if shared else whole.stem), path))
    twice = [each for each, count in Counter(each for each, _ in named).items() if count > 1]
    if twice:
        raise UserError(
            f"two of the files are called {shorten(twice[0])!r}; name them: --detections NAME=FILE"
        )
    return named


def _readings(options: ResultsOptions, count: int) -> list[dict[str, str]]:
    """The ways of reading asked for, by name, of each file."""
    from rethink_heads.data import results

    allowed = {
        "box_format": results.BOX_FORMATS,
        "category_ids": results.CATEGORY_IDS,
        "image_ids": results.IMAGE_IDS,
        "score_scale": results.SCORE_SCALES,
    }
    readings: list[dict[str, str]] = [{} for _ in range(count)]
    for name in FORMAT_OPTIONS:
        flag = f"--{name.replace('_', '-')}"
        for reading, value in zip(
            readings,
            one_each(getattr(options, name), count, flag, "files of detections"),
            strict=True,
        ):
            if value is None:
                continue
            if name == "box_frame":
                results.parse_frame(value)
            elif value not in allowed[name]:
                raise UserError(
                    f"{flag} {shorten(value)!r} is none of {', '.join(allowed[name])}; give one of them"
                )
            reading[name] = value
    return readings
