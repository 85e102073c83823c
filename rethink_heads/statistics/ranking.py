"""Detections ranked class by class, of which no more than so many are held at once.

They are gathered in turns. A turn is of some classes, or, where one class alone has too many detections, of a range of
its scores; in each turn the detections are read and matched again, so that nothing has to be kept between turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rethink_heads.measure.kept_detections import HeadDetections
from rethink_heads.statistics.bootstrap import Array
from rethink_heads.statistics.matches import Flags, Indices

MIB = 2**20
# While a turn is gathered and sorted; a quarter of the bound is for that.
_BYTES_EACH = 96
_PART_OF_MEMORY = 4
# Keys of scores have 16 bits.
_KEYS = 2**16


@dataclass(frozen=True)
class Candidates:
    """Detections with what they are in each of S settings, such as sizes and IoU thresholds.

    Attributes:
        labels: (N,) int32 class; images: (N,) int32 index of the image; scores: (N,).
        hits, kept: (ceil(S / 8), N) uint8, bits of S flags: true positives, and detections that count.
    """

    labels: npt.NDArray[np.int32]
    images: npt.NDArray[np.int32]
    scores: Array
    hits: npt.NDArray[np.uint8]
    kept: npt.NDArray[np.uint8]

    @classmethod
    def of(
        cls, labels: Indices, images: Indices, scores: Array, hits: Flags, kept: Flags
    ) -> Candidates:
        """From flags (S, N)."""
        packed = np.packbits(hits, axis=0), np.packbits(kept, axis=0)
        return cls(labels.astype(np.int32), images.astype(np.int32), scores, *packed)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Indices | Flags) -> Candidates:
        """Some of them."""
        arrays = {name: values[..., rows] for name, values in vars(self).items()}
        return replace(self, **arrays)

    def setting(self, number: int) -> tuple[Flags, Flags]:
        """Hits (N,) and kept ones (N,) in one setting."""
        if not len(self):
            return np.zeros(0, bool), np.zeros(0, bool)
        byte, bit = divmod(number, 8)
        hits, kept = (bits[byte] >> (7 - bit) & 1 for bits in (self.hits, self.kept))
        return hits.astype(bool), kept.astype(bool)


@dataclass(frozen=True)
class Turn:
    """Classes whose detections are ranked at once, or a range of one class's scores.

    Attributes:
        labels: (L,) the classes.
        lowest_key, highest_key: of the scores' :func:`score_keys`.
        is_last: whether no lower scores of these classes are to come.
    """

    labels: Indices
    lowest_key: int = 0
    highest_key: int = _KEYS - 1
    is_last: bool = True

    def holds(self, found: Candidates) -> Flags:
        """Which detections (N,) are of this turn."""
        keys = score_keys(found.scores)
        within = (keys >= self.lowest_key) & (keys <= self.highest_key)
        return np.asarray(within & np.isin(found.labels, self.labels))

    @property
    def least_score(self) -> float:
        """A score that none of this turn's is below."""
        return _lowest_score(self.lowest_key)


def score_keys(scores: Array) -> npt.NDArray[np.uint16]:
    """Keys (N,) that rise with scores (N,): half of the bits of their float32."""
    # Adding makes -0 the 0 that it is equal to.
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.int32)
    # The order of negative numbers is that of their bits turned round.
    ordered = np.where(bits < 0, ~bits, bits | np.int32(-(2**31)))
    return (ordered.view(np.uint32) >> 16).astype(np.uint16)


def _lowest_score(key: int) -> float:
    """The lowest score of a key, or a lower one."""
    if key == 0:
        return -np.inf
    ordered = np.array([key << 16], np.uint32)
    bits = np.where(ordered >= 2**31, ordered - 2**31, ~ordered).astype(np.uint32)
    # Of what is rounded to it, some is below.
    lowest = float(np.nextafter(bits.view(np.float32)[0], np.float32(-np.inf)))
    return lowest if lowest == lowest else -np.inf


def turns_of(head: HeadDetections, class_count: int) -> list[Turn]:
    """Turns of all classes, in rising order, of no more detections than the bound on memory has room for."""
    room = max(1, head.memory_mb * MIB // _PART_OF_MEMORY // _BYTES_EACH)
    counts = np.zeros(class_count, np.int64)
    for part in head.read(["label"]):
        counts += np.bincount(part["label"].to_numpy(np.int64), minlength=class_count)
    turns: list[Turn] = []
    gathered: list[int] = []
    for label, count in enumerate(counts.tolist()):
        if gathered and counts[gathered].sum() + count > room:
            turns.append(Turn(np.array(gathered)))
            gathered = []
        if count > room:
            turns += _ranges(head, label, room)
        else:
            gathered.append(label)
    return turns + ([Turn(np.array(gathered))] if gathered else [])


def _ranges(head: HeadDetections, label: int, room: int) -> list[Turn]:
    """Ranges of one class's scores, the highest first; of equal keys there may be more than there is ``room`` for."""
    counts = np.zeros(_KEYS, np.int64)
    for part in head.read(["label", "score"]):
        scores = part["score"].to_numpy(np.float64)[(part["label"] == label).to_numpy()]
        counts += np.bincount(score_keys(scores), minlength=_KEYS)
    ends: list[int] = []
    above = _KEYS
    held = 0
    for key in np.flatnonzero(counts)[::-1].tolist():
        if held and held + counts[key] > room:
            ends.append(above)
            held = 0
        held += int(counts[key])
        above = key
    ends.append(0)
    starts = [_KEYS, *ends[:-1]]
    labels = np.array([label])
    return [
        Turn(labels, least, start - 1, is_last=least == 0)
        for start, least in zip(starts, ends, strict=True)
    ]


def by_class(
    gather: Callable[[Turn], Iterator[Candidates]], turns: Sequence[Turn]
) -> Iterator[tuple[int, Candidates, bool]]:
    """Each class's detections by falling score, those of equal score in the order of images.

    Args:
        gather: what is found in a turn, some images after another in rising order; what is not of the turn is left out.
        turns: as :func:`turns_of` makes them.

    Yields:
        A class, its detections or those of the next lower range of scores, and whether they are its last.
    """
    for turn in turns:
        parts = [part.take(turn.holds(part)) for part in gather(turn)]
        found = _joined(parts)
        del parts
        order = np.lexsort((found.images, -found.scores, found.labels))
        ends = np.searchsorted(found.labels, turn.labels, side="right", sorter=order)
        starts = np.searchsorted(found.labels, turn.labels, side="left", sorter=order)
        for label, start, end in zip(
            turn.labels.tolist(), starts.tolist(), ends.tolist(), strict=True
        ):
            yield label, found.take(order[start:end]), turn.is_last


def _joined(parts: Sequence[Candidates]) -> Candidates:
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Candidates.of(nothing, nothing, np.zeros(0), *np.zeros((2, 1, 0), bool))
    names = list(vars(parts[0]))
    return Candidates(**{n: np.concatenate([vars(p)[n] for p in parts], axis=-1) for n in names})
