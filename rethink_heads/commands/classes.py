"""Brings a detector and a data set to the classes that both have, and says what has no counterpart."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.commands.choices import configured
from rethink_heads.console import print_table, say, work
from rethink_heads.distributed import is_first_process
from rethink_heads.errors import UserError
from rethink_heads.options import StudyOptions

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.base import Detector
    from rethink_heads.detectors.classes import ClassMatch, SharedClasses
    from rethink_heads.study_folder import StudyFolder

MOST_NAMED = 8
CLASSES_NAME = "classes.csv"


def shared_classes(
    detector: Detector, dataset: CocoDataset, class_map: Path | None, name: str
) -> SharedClasses:
    """A detector and data with the same classes in the same order; what is left out is said on standard error.

    Args:
        detector, dataset: with classes of their own.
        class_map: a file that says which class of the data is which of the detector's, where their names do not.
        name: of the detector.

    Raises:
        UserError: there is no class in common, or the file is wrong.
    """
    from rethink_heads.detectors.classes import read_class_map, share_classes

    shared = share_classes(detector, dataset, read_class_map(class_map))
    _say_unmatched(shared.match, name)
    if shared.match.only_dataset:
        left_out = shared.dataset.box_counts.other_classes
        say(f"{name}: {left_out} objects of classes that it lacks are left out")
    return shared


def keep_match(match: ClassMatch, folder: Path) -> None:
    """Write which class is which, and which have no counterpart, as ``classes.csv`` beside measurements."""
    from rethink_heads.files import csv_bytes, write_csv
    from rethink_heads.locking import hold, results_folder

    if match.is_identity:
        return
    table, path = match.table(), folder / CLASSES_NAME

    def is_kept() -> bool:
        return path.is_file() and path.read_bytes() == csv_bytes(table)

    with hold(results_folder(folder), is_kept):
        if is_first_process() and not is_kept():
            write_csv(table, path)


def narrowed(shared: SharedClasses, classes: Sequence[str]) -> tuple[SharedClasses, dict[str, str]]:
    """A detector and data with fewer of their classes, and what that adds to the provenance."""
    dataset = shared.dataset.with_classes(classes)
    said = {"annotations": dataset.file_fingerprint, "classes": json.dumps(dataset.class_names)}
    return dataclasses.replace(shared, dataset=dataset), said


def common_classes(folders: Sequence[StudyFolder], options: StudyOptions) -> tuple[str, ...] | None:
    """The classes of the data that all of several detectors have, so that all see the same objects.

    None where each has the same ones anyway, and where their data differ, which is found out elsewhere.

    Raises:
        UserError: there is none.
    """
    if len(folders) == 1:
        return None
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.classes import match_classes, read_class_map

    sources, matched = set(), []
    for index, folder in enumerate(folders):
        config = configured(folder.config, options, index, len(folders))
        sources.add(config.data.paths("test"))
        if len(sources) > 1:
            return None
        if index == 0:
            names = CocoDataset(*config.data.paths("test")).class_names
        given = read_class_map(config.measuring.class_map)
        matched.append(match_classes(names, folder.class_names, given).matched)
    common = tuple(name for name in names if all(name in each for each in matched))
    if all(each == common for each in matched):
        return None
    if not common:
        raise UserError(
            "the detectors have no class of the data in common; say which classes are which with --class-map"
        )
    left_out = [name for name in names if name not in common and any(name in m for m in matched)]
    say(f"compared on the classes that all have; some lack {_named(left_out)}")
    return common


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _say_unmatched(match: ClassMatch, name: str) -> None:
    if match.only_dataset:
        table = match.table()
        rows = table[(table["detector_class"] == "") & (table["dataset_class"] != "")]
        # Of many, those that are near to something: the others are named in a line.
        if len(rows) > MOST_NAMED:
            far = rows[rows["note"] == ""]["dataset_class"].to_list()
            rows = rows[rows["note"] != ""]
            say(
                f"{name} lacks {len(far)} classes of the data that none of its own is like: {_named(far)}"
            )
        if len(rows):
            # On standard error, with everything else that is no result.
            with work():
                print_table(
                    f"Classes of the data that {name} lacks; --class-map FILE says which of its own they are",
                    ["class of the data", "note"],
                    [[row["dataset_class"], row["note"]] for row in rows.to_dict("records")],
                )
    if match.only_detector:
        named = _named(match.only_detector)
        say(f"{name}: classes that the data lacks, whose detections do not count: {named}")
