"""Which of a detector's classes each of a data set's is: by name, or as a class map says.

COCO needs it: torchvision's detectors name 90 classes, ten of them "N/A", where a COCO file has 80 categories with ids
up to 90. Classes that only one of the two has are left out. The detector itself stays as it is: a data set keeps the
matched classes and, as ``columns``, the detector's index of each (:func:`share_classes`).
"""

from __future__ import annotations

import copy
import difflib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rethink_heads.data.coco_json import category_names, parse_json, read_json
from rethink_heads.data.results import plain
from rethink_heads.detectors.answers import first_names
from rethink_heads.detectors.base import Detections, Detector
from rethink_heads.errors import UserError, check_writable, shorten
from rethink_heads.files import LARGEST_SETTINGS, is_file, read_bytes, read_text
from rethink_heads.settings import read_yaml

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset

ClassMap = Mapping[str, str | None]
"""By name of a data set's class: that of the detector's, None to leave the class out."""

TABLE_COLUMNS = ("dataset_class", "detector_class", "note")
# What a detector's list of names holds where its framework numbers a class that there is not.
_PLACEHOLDERS = frozenset({"", "n/a", "na"})


@dataclass(frozen=True)
class ClassMatch:
    """A data set's classes and their counterparts among a detector's.

    Attributes:
        dataset_names: the data set's classes in label order.
        detector_names: the detector's classes in the order of its scores.
        labels: by class of the data set: the index of the detector's class, None where it has no counterpart.
        class_map: what a class map settled, by the names as the data set writes them.
    """

    dataset_names: tuple[str, ...]
    detector_names: tuple[str, ...]
    labels: tuple[int | None, ...]
    class_map: ClassMap = field(default_factory=dict)

    @property
    def matched(self) -> tuple[str, ...]:
        """The data set's classes with a counterpart, in its order."""
        return tuple(name for name, label in self._pairs() if label is not None)

    @property
    def matched_labels(self) -> tuple[int, ...]:
        """The detector's index of each of :attr:`matched`."""
        return tuple(label for label in self.labels if label is not None)

    @property
    def only_dataset(self) -> tuple[str, ...]:
        """The data set's classes without a counterpart; "N/A" and the like are none."""
        return tuple(n for n, label in self._pairs() if label is None and not is_placeholder(n))

    @property
    def only_detector(self) -> tuple[str, ...]:
        """The detector's classes without a counterpart; "N/A" and the like are none."""
        taken = set(self.labels)
        names = enumerate(self.detector_names)
        return tuple(n for index, n in names if index not in taken and not is_placeholder(n))

    @property
    def is_identity(self) -> bool:
        """Whether both name the same classes in the same order."""
        in_order = self.labels == tuple(range(len(self.labels)))
        return in_order and self.dataset_names == self.detector_names

    def table(self) -> pd.DataFrame:
        """A row a class of either, in :data:`TABLE_COLUMNS`: the data set's first, then the detector's unmatched ones.

        Where a class has no counterpart its cell is "", and the note names the nearest unmatched one.
        """
        import pandas as pd

        ours, theirs = self.only_dataset, self.only_detector
        rows = []
        for name, label in self._pairs():
            if label is not None:
                note = "by the class map" if name in self.class_map else ""
                rows.append((name, self.detector_names[label], note))
            elif name in self.class_map and not is_placeholder(name):
                rows.append((name, "", "left out by the class map"))
            elif not is_placeholder(name):
                rows.append((name, "", _nearest_note(name, theirs)))
        rows += [("", name, _nearest_note(name, ours)) for name in theirs]
        return pd.DataFrame(rows, columns=list(TABLE_COLUMNS), dtype="str")

    def _pairs(self) -> list[tuple[str, int | None]]:
        return list(zip(self.dataset_names, self.labels, strict=True))


@dataclass(frozen=True)
class SharedClasses:
    """A detector and the objects of the classes that it has.

    Attributes:
        detector: the one given.
        dataset: the given one's objects of matched classes, whose ``columns`` say which of the detector's they are.
        match: which class is which.
    """

    detector: Detector
    dataset: CocoDataset
    match: ClassMatch

    @property
    def provenance(self) -> dict[str, str]:
        """What the match adds to the provenance of anything measured; nothing where the classes are the same."""
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


def share_classes(
    detector: Detector, dataset: CocoDataset, class_map: ClassMap | None = None
) -> SharedClasses:
    """Restrict data to the classes that a detector has, and note which of the detector's each of them is.

    Args:
        detector, dataset: with classes of their own.
        class_map: by class of the data: which of the detector's it is, where their names do not say it.

    Raises:
        UserError: there is no class in common, no object of one, or ``class_map`` names what is not there.
    """
    match = match_classes(dataset.class_names, detector.class_names, class_map)
    is_cut = match.matched != dataset.class_names
    dataset = dataset.with_classes(match.matched) if is_cut else copy.copy(dataset)
    dataset.columns, dataset.column_names = match.matched_labels, match.detector_names
    return SharedClasses(detector, dataset, match)


def class_columns(detector: Detector, dataset: CocoDataset) -> Tensor:
    """The detector's index (K,) of each class of the data: 0..K-1, or what :func:`share_classes` found.
    Raises UserError where the classes are others than the detector's, or were matched with another detector's.
    """
    theirs, ours = tuple(detector.class_names), dataset.class_names
    if dataset.columns is not None:
        if theirs != dataset.column_names:
            raise UserError(
                f"the classes were matched with {first_names(dataset.column_names)}, but the detector's are"
                f" {first_names(theirs)}; match them with its class_names"
            )
        return torch.tensor(dataset.columns)
    if theirs != ours:
        only_data, only_detector = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
        reasons = [
            f"only {whose} has {first_names(names, shown=20)}"
            for whose, names in (("the data", only_data), ("the detector", only_detector))
            if names
        ]
        if not reasons:
            reasons = [
                f"the order differs: the detector has {first_names(theirs, shown=20)} and the data"
                f" {first_names(ours, shown=20)}"
            ]
        raise UserError(
            f"the detector's classes are not the data's: {'; '.join(reasons)}; give the data that the detector was"
            " trained for, or match them: shared = rh.share_classes(detector, dataset), then take shared.dataset"
        )
    return torch.arange(len(ours))


def in_data_labels(found: Mapping[str, Detections], columns: Tensor) -> dict[str, Detections]:
    """Detections by head under the data's labels, those of other classes left out.
    ``columns`` is the detector's index (K,) of each class of the data.
    """
    relabelled = {}
    for head, each in found.items():
        # At most one class of the data has a detector's class.
        same = each.labels[:, None] == columns.to(each.labels.device)
        kept = same.any(1)
        labels = same.to(torch.uint8).argmax(1)[kept]
        relabelled[head] = Detections(each.boxes[kept], each.scores[kept], labels)
    return relabelled


def match_classes(
    dataset_names: Sequence[str], detector_names: Sequence[str], class_map: ClassMap | None = None
) -> ClassMatch:
    """Match classes by name: by the class map, then to the letter, then without case, spaces, "_" and "-".

    Each class of the detector is the counterpart of at most one of the data set's.

    Args:
        dataset_names: K names in label order.
        detector_names: names in the order of the scores.
        class_map: what is settled beforehand.

    Raises:
        UserError: nothing matches, a name of the map is neither's, a class of the detector is in it twice, or a name
            that is looked for is there twice.
    """
    ours, theirs = tuple(dataset_names), tuple(detector_names)
    if ours == theirs and not class_map:
        return ClassMatch(ours, theirs, tuple(range(len(ours))))
    for name, count in Counter(ours).items():
        if count > 1 and not is_placeholder(name):
            raise UserError(
                f"the dataset has {count} classes named {name!r}; give each its own name"
            )
    settled = _settle(class_map or {}, ours, theirs)
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
            f"none of the dataset's classes ({first_names(ours)}) is one of the detector's ({first_names(theirs)});"
            " say which is which with --class-map FILE, lines of `dataset class: detector class`"
        )
    return match


def _settle(class_map: ClassMap, ours: Sequence[str], theirs: Sequence[str]) -> ClassMap:
    """The class map in the spelling of the data set and the detector."""
    settled: dict[str, str | None] = {}
    for name, other in class_map.items():
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
        hint = f"did you mean {nearest!r}?" if nearest else f"it has {first_names(names)}"
        raise UserError(f"the class map names {name!r}, which {whose} does not have; {hint}")
    return found


def _index(name: str | None, theirs: Sequence[str]) -> int | None:
    """The index of a detector's class, which must be the only one of its name."""
    if name is None:
        return None
    if (count := list(theirs).count(name)) > 1:
        raise UserError(
            f"the detector has {count} classes named {name!r}, so it is not clear which is"
            " the dataset's; rename one (--class-names) or leave the class out in --class-map (null)"
        )
    return list(theirs).index(name)


def is_placeholder(name: str) -> bool:
    """Whether a name stands for no class, as "N/A" does."""
    return plain(name) in _PLACEHOLDERS


def nearest_class(name: str, names: Iterable[str]) -> str | None:
    """The name most like another, None where none is like it."""
    spelled = {plain(one): one for one in reversed(tuple(names))}
    close = difflib.get_close_matches(plain(name), list(spelled), n=1, cutoff=0.6)
    return spelled[close[0]] if close else None


def _nearest_note(name: str, names: Collection[str]) -> str:
    nearest = nearest_class(name, names)
    return f"nearest: {nearest}" if nearest else ""


def read_class_map(path: Path | None) -> dict[str, str | None]:
    """Read which class of the data is which of the detector's, from a YAML or JSON file; {} without a file.

    The file is a mapping of the data's names to the detector's; null leaves a class out.

    Raises:
        UserError: no such file, neither YAML nor JSON, not a mapping, a name twice, or names that are not text.
    """
    if path is None:
        return {}
    path = Path(path)
    if path.suffix.lower() == ".json":
        text = read_bytes(path, "class map", LARGEST_SETTINGS)
        content = parse_json(text, f"class map {path}", "a mapping in JSON")
    else:
        content = read_yaml(path, "class map")
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"class map {path} holds no mapping; write lines of `dataset class: detector class`,"
            " with null to leave a class out"
        )
    for name, other in content.items():
        wrong = [one for one in (name, other) if not isinstance(one, str) and one is not None]
        if wrong or name is None:
            said, entry = (shorten(repr(one)) for one in ((wrong or [name])[0], name))
            raise UserError(
                f"class map {path}: {said} (in the entry of {entry}) is not a name;"
                " write names as text, in quotes where YAML reads them as something else"
            )
        for one in (name, other or ""):
            check_writable(one, f"class map {path}:")
    return content


def read_class_names(source: Path | str) -> tuple[str, ...]:
    """Read class names in the order of a detector's scores, background left out. ``source``: a file of text with a name
    a line, or of COCO JSON, whose categories are taken by rising id; or the names themselves with commas between them.
    Raises UserError for no such file, one that is not text, no names in it, or a name twice.
    """
    path = Path(source)
    if "," in str(source) and not is_file(path):
        where, names = f"the list of class names {shorten(str(source))!r}", str(source).split(",")
        hint = "write each class once, with commas between"
    elif path.suffix.lower() == ".json":
        where, hint = str(path), "write each class once, a line a class"
        by_id = category_names(read_json(path)[0], str(path))
        names = [by_id[category_id] for category_id in sorted(by_id)]
    else:
        where, hint = str(path), "write each class once, a line a class"
        names = read_text(path, "file of class names").splitlines()
    names = [name.strip() for name in names if name.strip()]
    for name in names:
        check_writable(name, f"{where}: class")
    twice = [name for name, count in Counter(names).items() if count > 1 and name != "N/A"]
    if not names or twice:
        reason = f"has {shorten(twice[0])!r} twice" if twice else "has no names"
        raise UserError(f"{where} {reason}; {hint}")
    return tuple(names)
