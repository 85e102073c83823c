"""Which of a detector's classes is which of a dataset's: by name, or as a file says.

Classes that only one of the two has are left out: a dataset keeps its matched ones (``CocoDataset.with_classes``), a
detector is seen through :class:`MappedDetector`. COCO needs it: torchvision's detectors name 90 classes, ten of them
"N/A", where a COCO file has 80 categories with ids up to 90.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rethink_heads.detectors import answers
from rethink_heads.detectors.base import (
    Detections,
    Detector,
    Features,
    HeadOutput,
    RoIFeatures,
    SupportsFastPath,
    supports,
)
from rethink_heads.detectors.classes.map_file import Given
from rethink_heads.detectors.classes.probing import MappedFastPath
from rethink_heads.detectors.classes.spelling import is_placeholder, nearest_class, plain
from rethink_heads.detectors.opening.messages import beginning
from rethink_heads.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TABLE_COLUMNS = ("dataset_class", "detector_class", "note")
_LEFT_OUT, _AS_GIVEN = "left out by the class map", "by the class map"


@dataclass(frozen=True)
class ClassMatch:
    """A dataset's classes and their counterparts among a detector's.

    Attributes:
        dataset_names: the dataset's classes in label order.
        detector_names: the detector's classes in the order of its scores.
        labels: by dataset class: the index of the detector's class, None where it has no counterpart.
        given: what was settled by a class map, by the names as the dataset writes them.
    """

    dataset_names: tuple[str, ...]
    detector_names: tuple[str, ...]
    labels: tuple[int | None, ...]
    given: Given = field(default_factory=dict)

    @property
    def matched(self) -> tuple[str, ...]:
        """The dataset's classes with a counterpart, in its order."""
        return tuple(name for name, label in self._pairs() if label is not None)

    @property
    def matched_labels(self) -> tuple[int, ...]:
        """The detector's index of each of :attr:`matched`."""
        return tuple(label for label in self.labels if label is not None)

    @property
    def only_dataset(self) -> tuple[str, ...]:
        """The dataset's classes without a counterpart; "N/A" and the like are none."""
        return tuple(n for n, label in self._pairs() if label is None and not is_placeholder(n))

    @property
    def only_detector(self) -> tuple[str, ...]:
        """The detector's classes without a counterpart; "N/A" and the like are none."""
        taken = set(self.labels)
        return tuple(
            name
            for index, name in enumerate(self.detector_names)
            if index not in taken and not is_placeholder(name)
        )

    @property
    def is_identity(self) -> bool:
        """Whether both name the same classes in the same order, so that nothing needs mapping."""
        in_order = self.labels == tuple(range(len(self.labels)))
        return in_order and self.dataset_names == self.detector_names

    def table(self) -> pd.DataFrame:
        """A row a class of either, in :data:`TABLE_COLUMNS`: the dataset's first, then the detector's unmatched ones.

        Where a class has no counterpart its cell is "", and the note names the nearest unmatched one.
        """
        import pandas as pd

        ours, theirs = self.only_dataset, self.only_detector
        rows = []
        for name, label in self._pairs():
            if label is not None:
                note = _AS_GIVEN if name in self.given else ""
                rows.append((name, self.detector_names[label], note))
            elif not is_placeholder(name):
                left_out = name in self.given
                rows.append((name, "", _LEFT_OUT if left_out else _nearest_note(name, theirs)))
        rows += [("", name, _nearest_note(name, ours)) for name in theirs]
        return pd.DataFrame(rows, columns=list(TABLE_COLUMNS), dtype="str")

    def _pairs(self) -> list[tuple[str, int | None]]:
        return list(zip(self.dataset_names, self.labels, strict=True))


def match_classes(
    dataset_names: Sequence[str], detector_names: Sequence[str], given: Given | None = None
) -> ClassMatch:
    """Match classes by name: as given, then to the letter, then without case, spaces, "_" and "-".

    Each class of the detector is the counterpart of at most one of the dataset's.

    Args:
        dataset_names: K names in label order.
        detector_names: names in the order of the scores.
        given: what a class map settles.

    Raises:
        UserError: nothing matches, a given name is neither's, a class of the detector is given twice, or a name that
            is looked for is there twice.
    """
    ours, theirs = tuple(dataset_names), tuple(detector_names)
    if ours == theirs and not given:
        return ClassMatch(ours, theirs, tuple(range(len(ours))))
    _check_distinct(ours)
    settled = _settle(given or {}, ours, theirs)
    labels = {ours.index(name): _index(other, theirs) for name, other in settled.items()}
    for key in (str, plain):
        taken = set(labels.values())
        # Of two that are spelled alike the first.
        free = {key(n): i for i, n in reversed(list(enumerate(theirs))) if i not in taken}
        for row, name in enumerate(ours):
            found = free.get(key(name))
            if row not in labels and found is not None and not is_placeholder(name):
                labels[row] = _index(theirs[found], theirs)
                del free[key(name)]
    match = ClassMatch(ours, theirs, tuple(labels.get(row) for row in range(len(ours))), settled)
    if not match.matched:
        raise UserError(
            f"none of the dataset's classes ({beginning(ours)}) is one of the detector's ({beginning(theirs)});"
            " say which is which with --class-map FILE, lines of `dataset class: detector class`"
        )
    return match


class MappedDetector:
    """A detector that speaks of a dataset's matched classes, in the dataset's order.

    It has ``propose``, ``detect``, ``output_maps``, ``weight_maps`` and ``fast_path`` exactly where the detector has
    them. Detections of other classes are dropped after they took their part in the detector's own limit of detections
    an image.

    Attributes:
        detector: whose classes are mapped.
        class_names: the M matched classes, as the dataset names them.
    """

    # Set on instances whose detector has them, so that `offers` answers for the detector.
    propose: Callable[[Tensor], tuple[Features, Tensor]]
    detect: Callable[[Tensor], dict[str, Detections]]
    output_maps: Callable[[RoIFeatures], dict[str, Tensor]]
    weight_maps: Callable[[], dict[str, Tensor]]
    fast_path: Callable[[torch.dtype], MappedFastPath | None]

    def __init__(self, detector: Detector, match: ClassMatch) -> None:
        """See ``detector`` through ``match``, which is of its classes; a module is put into eval mode.

        Raises:
            UserError: the match is of other classes than the detector's.
        """
        if tuple(detector.class_names) != match.detector_names:
            raise UserError(
                f"the classes were matched with {beginning(match.detector_names)}, but the detector's are"
                f" {beginning(detector.class_names)}; match them with its class_names"
            )
        if isinstance(detector, torch.nn.Module):
            detector.eval()
        self.detector, self.class_names = detector, match.matched
        self._chosen = torch.tensor(match.matched_labels, dtype=torch.int64)
        self._new_labels = torch.full((len(match.detector_names),), -1, dtype=torch.int64)
        self._new_labels[self._chosen] = torch.arange(len(self._chosen))
        # Any: that each has the method is what `offers` says.
        its: Any = detector
        if supports(detector, "propose"):
            self.propose = its.propose
        if supports(detector, "detect"):
            self.detect = self._detect
        if supports(detector, "output_maps"):
            self.output_maps = its.output_maps
        if supports(detector, "weight_maps"):
            self.weight_maps = its.weight_maps
        if isinstance(detector, SupportsFastPath):
            self.fast_path = self._fast_path

    @property
    def heads(self) -> tuple[str, ...]:
        """The detector's heads."""
        return self.detector.heads

    @property
    def device(self) -> torch.device:
        """Where the detector is."""
        return self.detector.device

    def extract(self, image: Tensor) -> Features:
        """Features of an image, uint8 RGB (3, H, W)."""
        return self.detector.extract(image)

    def pool(self, features: Features, boxes: Tensor) -> RoIFeatures:
        """RoI features of boxes (N, 4), by branch."""
        return self.detector.pool(features, boxes)

    def predict(
        self, features: Features, roi_features: RoIFeatures, boxes: Tensor
    ) -> dict[str, HeadOutput]:
        """By head: scores (N, M) and boxes (N, M, 4) of the matched classes."""
        outputs = answers.predict(self.detector, features, roi_features, boxes)
        return {head: self._of_matched(output) for head, output in outputs.items()}

    def _fast_path(self, dtype: torch.dtype) -> MappedFastPath | None:
        """What asks the detector's heads about one matched class of many boxes; None where they are not asked so."""
        its: Any = self.detector
        found = its.fast_path(dtype)
        return None if found is None else MappedFastPath(found, self._chosen.tolist())

    def _of_matched(self, output: HeadOutput) -> HeadOutput:
        chosen = self._chosen.to(output.scores.device)
        return HeadOutput(output.scores[:, chosen], output.boxes[:, chosen])

    def _detect(self, image: Tensor) -> dict[str, Detections]:
        """By head: final detections of the matched classes."""
        found = answers.detect(self.detector, image)
        return {head: self._renumbered(detections) for head, detections in found.items()}

    def _renumbered(self, found: Detections) -> Detections:
        labels = self._new_labels.to(found.labels.device)[found.labels]
        kept = labels >= 0
        return Detections(found.boxes[kept], found.scores[kept], labels[kept])


def _settle(given: Given, ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str | None]:
    """What is given, in the spelling of the dataset and the detector."""
    settled: dict[str, str | None] = {}
    for name, other in given.items():
        own = _spelled(name, ours, "the dataset")
        if own in settled:
            raise UserError(
                f"the class map names the dataset's class {own!r} twice; keep one of them"
            )
        settled[own] = None if other is None else _spelled(other, theirs, "the detector")
    for other, count in Counter(settled.values()).items():
        if other is not None and count > 1:
            both = " and ".join(repr(name) for name, its in settled.items() if its == other)
            raise UserError(
                f"the class map gives the detector's class {other!r} to {both}; leave all but one of them out (null)"
            )
    return settled


def _spelled(name: str, names: Sequence[str], whose: str) -> str:
    if name in names:
        return name
    found = next((one for one in names if plain(one) == plain(name)), None)
    if found is None:
        nearest = nearest_class(name, names)
        hint = f"did you mean {nearest!r}?" if nearest else f"it has {beginning(names)}"
        raise UserError(f"the class map names {name!r}, which {whose} does not have; {hint}")
    return found


def _index(name: str | None, theirs: Sequence[str]) -> int | None:
    """The place of a detector's class; it must be the only one of its name."""
    if name is None:
        return None
    if list(theirs).count(name) > 1:
        raise UserError(
            f"the detector has {list(theirs).count(name)} classes named {name!r}, so it is not clear which is"
            " the dataset's; rename one (--class-names) or leave the class out in --class-map (null)"
        )
    return list(theirs).index(name)


def _check_distinct(ours: Sequence[str]) -> None:
    for name, count in Counter(ours).items():
        if count > 1 and not is_placeholder(name):
            raise UserError(
                f"the dataset has {count} classes named {name!r}; give each its own name"
            )


def _nearest_note(name: str, names: Collection[str]) -> str:
    nearest = nearest_class(name, names)
    return f"nearest: {nearest}" if nearest else ""
