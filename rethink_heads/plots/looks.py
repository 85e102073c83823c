"""Which colour, marker and line each head of each detector has, so that figures speak one language.

A head has one colour and marker in every figure; detectors that share a head's name differ in line style and marker
fill, and from the third on in shade. Where one head's name is all that there is, colour and marker tell detectors
apart instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from matplotlib.colors import to_hex, to_rgb

# Okabe and Ito's colour-blind safe set for the paper's heads, then two that stay apart from them.
HEAD_COLOURS: Mapping[str, str] = {
    "fc": "#D55E00",
    "conv": "#0072B2",
    "double": "#009E73",
    "double-ext": "#CC79A7",
    "double-reverse": "#000000",
    "double-fc": "#E69F00",
    "double-conv": "#56B4E9",
    "conv-fc": "#6A4CE0",
    "box": "#8B0000",
}
HEAD_MARKERS: Mapping[str, str] = {
    "fc": "o",
    "conv": "s",
    "double": "^",
    "double-ext": "D",
    "double-reverse": "v",
    "double-fc": "P",
    "double-conv": "X",
    "conv-fc": "p",
    "box": "h",
}
HEAD_LABELS: Mapping[str, str] = {
    "fc": "fc-head",
    "conv": "conv-head",
    "double": "Double-Head",
    "double-ext": "Double-Head-Ext",
    "double-reverse": "Double-Head-Reverse",
    "double-fc": "Double-FC",
    "double-conv": "Double-Conv",
    "conv-fc": "conv-fc-head",
    "box": "box head",
    "fc2": "second fc-head",
    "conv2": "second conv-head",
}
LONGEST_LABEL = 40
_OTHER_COLOURS = ("#8C7A00", "#B0578D", "#5B2A86", "#1B5E3B")
_OTHER_MARKERS = ("<", ">", "*", "d")
# Of detectors, where one head's name is all that there is; its own look comes first.
_DETECTOR_LOOKS = tuple(
    zip(
        (*list(HEAD_COLOURS.values())[:7], *_OTHER_COLOURS),
        (*list(HEAD_MARKERS.values())[:7], *_OTHER_MARKERS),
        strict=True,
    )
)
_LINE_STYLES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
# Fractions of black (below zero) or white that are mixed into a head's colour, for each two of its detectors.
_SHADES = (0.0, -0.5, 0.5, -0.75, 0.7)
# From so many detectors on with a head of one name, line style and marker fill are not enough.
_MANY_DETECTORS = 3
_DARK = 0.1

Pair = tuple[str, str]


@dataclass(frozen=True)
class Look:
    """How one head of one detector is drawn."""

    colour: str
    marker: str
    line_style: Any = "-"
    hollow: bool = False


def head_label(head: str) -> str:
    """A head's name as a legend prints it."""
    return HEAD_LABELS.get(head, plain_label(head))


def plain_label(name: str) -> str:
    """A user's name as a legend can print it: no formulas, and not longer than a legend is wide."""
    short = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"
    return short.replace("$", r"\$")


def head_order(head: str) -> tuple[int, str]:
    """Sorts heads: the paper's, other known ones, then by name."""
    names = list(HEAD_COLOURS)
    return (names.index(head) if head in names else len(names), head)


def looks_of(pairs: Sequence[Pair]) -> dict[Pair, Look]:
    """The look of each (detector, head)."""
    detectors = sorted({detector for detector, _ in pairs})
    heads = sorted({head for _, head in pairs}, key=head_order)
    of_heads = _head_looks(heads)
    if len(heads) == 1 and len(detectors) >= _MANY_DETECTORS:
        return _by_detector(detectors, heads[0], of_heads[heads[0]])
    styles = _detector_styles(detectors, pairs)
    return {
        (detector, head): Look(
            _shade(of_heads[head].colour, _SHADES[styles[detector] // 2 % len(_SHADES)]),
            of_heads[head].marker,
            _LINE_STYLES[styles[detector] % len(_LINE_STYLES)],
            styles[detector] % 2 == 1,
        )
        for detector, head in pairs
    }


def _by_detector(detectors: Sequence[str], head: str, own: Look) -> dict[Pair, Look]:
    first = (own.colour, own.marker)
    looks = [first, *(look for look in _DETECTOR_LOOKS if look != first)]
    found = {}
    for place, detector in enumerate(detectors):
        colour, marker = looks[place % len(looks)]
        again = place // len(looks)
        line_style = _LINE_STYLES[again % len(_LINE_STYLES)]
        found[detector, head] = Look(colour, marker, line_style, again % 2 == 1)
    return found


def _head_looks(heads: Iterable[str]) -> dict[str, Look]:
    """Heads of other detectors keep their colours from figure to figure, too."""
    looks: dict[str, Look] = {}
    taken: set[int] = set()
    for head in heads:
        if head in HEAD_COLOURS:
            looks[head] = Look(HEAD_COLOURS[head], HEAD_MARKERS[head])
            continue
        count = len(_OTHER_COLOURS)
        slot = crc32(head.encode()) % count
        if len(taken) < count:
            while slot in taken:
                slot = (slot + 1) % count
        taken.add(slot)
        looks[head] = Look(_OTHER_COLOURS[slot], _OTHER_MARKERS[slot])
    return looks


def _detector_styles(detectors: Sequence[str], pairs: Sequence[Pair]) -> dict[str, int]:
    """Smallest style number a detector that no detector before it with a common head has."""
    heads = {d: {head for name, head in pairs if name == d} for d in detectors}
    styles: dict[str, int] = {}
    for detector in detectors:
        used = {styles[other] for other in styles if heads[other] & heads[detector]}
        styles[detector] = next(i for i in range(len(detectors)) if i not in used)
    return styles


def _shade(colour: str, amount: float) -> str:
    """A colour mixed with black or white; one as dark as black only with white."""
    if amount == 0:
        return colour
    red, green, blue = to_rgb(colour)
    share, white = abs(amount), max(amount, 0.0)
    if max(red, green, blue) < _DARK:
        share = white = amount if amount > 0 else 0.6 * share
    kept = 1 - share
    return to_hex((kept * red + white, kept * green + white, kept * blue + white))
