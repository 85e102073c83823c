"""A detector and a data set, cut down to the classes that both have."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import Detector
from rethink_heads.detectors.classes.map_file import Given
from rethink_heads.detectors.classes.mapping import ClassMatch, MappedDetector, match_classes


@dataclass(frozen=True)
class Shared:
    """A detector and data with the same classes in the same order.

    Attributes:
        detector: the one given, or a view of it through ``match``.
        dataset: the one given, or its objects of the classes that the detector has.
        match: which class is which.
    """

    detector: Detector
    dataset: CocoDataset
    match: ClassMatch

    @property
    def provenance(self) -> dict[str, str]:
        """What the match adds to the provenance of anything measured: nothing where the classes are the same."""
        if self.match.is_identity:
            return {}
        labels = self.match.matched_labels
        theirs = [self.match.detector_names[label] for label in labels]
        pairs = list(zip(self.match.matched, theirs, strict=True))
        # The columns as well: a detector's names may be changed where its scores stay in their places.
        said = {"class mapping": json.dumps(pairs), "score columns": json.dumps(labels)}
        if self.match.only_dataset:
            said["annotations"] = self.dataset.file_fingerprint
            said["classes"] = json.dumps(self.dataset.class_names)
        return said


def share_classes(detector: Detector, dataset: CocoDataset, given: Given | None = None) -> Shared:
    """Bring a detector and data to the classes that both have, in the data's order.

    Args:
        detector, dataset: with classes of their own.
        given: by class of the data: which of the detector's it is, where their names do not say it; None for none.

    Raises:
        UserError: there is no class in common, no object of one, or ``given`` names what is not there.
    """
    match = match_classes(dataset.class_names, detector.class_names, given)
    if match.is_identity:
        return Shared(detector, dataset, match)
    if match.only_dataset:
        dataset = dataset.with_classes(match.matched)
    return Shared(MappedDetector(detector, match), dataset, match)
