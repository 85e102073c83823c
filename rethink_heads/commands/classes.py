"""Brings a detector and a data set to the classes that both have, and says what has no counterpart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.console import print_table, say, work

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.base import Detector
    from rethink_heads.detectors.class_mapping import ClassMatch
    from rethink_heads.detectors.shared_classes import Shared

MOST_NAMED = 8


def shared_classes(
    detector: Detector, dataset: CocoDataset, class_map: Path | None, name: str
) -> Shared:
    """A detector and data with the same classes in the same order; what is left out is said on standard error.

    Args:
        detector, dataset: with classes of their own.
        class_map: a file that says which class of the data is which of the detector's, where their names do not.
        name: of the detector.

    Raises:
        UserError: there is no class in common, or the file is wrong.
    """
    from rethink_heads.detectors.class_map_file import read_class_map
    from rethink_heads.detectors.shared_classes import share_classes

    given = None if class_map is None else read_class_map(class_map)
    shared = share_classes(detector, dataset, given)
    _say_unmatched(shared.match, name)
    if shared.match.only_dataset:
        left_out = shared.dataset.box_counts.other_classes
        say(f"{name}: {left_out} objects of classes that it lacks are left out")
    return shared


def _say_unmatched(match: ClassMatch, name: str) -> None:
    if match.only_dataset:
        table = match.table()
        rows = table[(table["detector_class"] == "") & (table["dataset_class"] != "")]
        # On standard error, with everything else that is no result.
        with work():
            print_table(
                f"Classes of the data that {name} lacks; --class-map FILE says which of its own they are",
                ["class of the data", "note"],
                [[row["dataset_class"], row["note"]] for row in rows.to_dict("records")],
            )
    if match.only_detector:
        named = ", ".join(match.only_detector[:MOST_NAMED])
        more = len(match.only_detector) - MOST_NAMED
        rest = f" and {more} more" if more > 0 else ""
        say(f"{name}: classes that the data lacks, whose detections do not count: {named}{rest}")
