"""The outlines of the classes of ``shapes``: polygons around the origin, y down, in px.

The classes are chosen so that a part of one looks like the whole of another: a disc is half a pair,
a pair is two thirds of a triple, a square is a house without its roof, a target holds a disc and
has a ring's outside. A detector has to look at the whole extent to tell them apart, also at high
IoU. Each class stays itself when it is flipped from left to right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASS_NAMES = ("disc", "pair", "triple", "ring", "target", "square", "triangle", "house")

_CIRCLE = np.linspace(0.0, 2 * np.pi, 72, endpoint=False)
_CIRCLE_POINTS = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=1)


@dataclass(frozen=True)
class Part:
    """One filled polygon of an object.

    Attributes:
        outline: (N, 2) corners x, y.
        hole: (M, 2) corners of a polygon cut out of it, or None.
    """

    outline: np.ndarray
    hole: np.ndarray | None = None

    def transformed(self, matrix: np.ndarray, shift: np.ndarray) -> Part:
        """Return the part with each point p at ``matrix @ p + shift``."""
        hole = None if self.hole is None else self.hole @ matrix.T + shift
        return Part(self.outline @ matrix.T + shift, hole)


def make_parts(class_name: str, size: float, rng: np.random.Generator) -> list[Part]:
    """Return the parts of one object of a class, centred on the origin.

    ``size`` is the square root of its box's area, in px, before a rotation by up to 12 degrees.
    Aspect ratio, proportions and rotation are drawn from ``rng``.
    """
    parts = _BUILDERS[class_name](rng)
    aspect = np.exp(rng.uniform(-0.22, 0.22))
    width, height = np.ptp(_points(parts), axis=0) * (aspect, 1.0)
    scale = size / np.sqrt(width * height)
    angle = np.deg2rad(rng.uniform(-12.0, 12.0))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.diag([scale * aspect, scale])
    parts = [part.transformed(matrix, np.zeros(2)) for part in parts]
    corners = _points(parts)
    centre = (corners.min(axis=0) + corners.max(axis=0)) / 2
    return [part.transformed(np.eye(2), -centre) for part in parts]


def extent(parts: list[Part]) -> tuple[float, float]:
    """Return the width and height of the parts' common box, in px."""
    width, height = np.ptp(_points(parts), axis=0)
    return float(width), float(height)


def _points(parts: list[Part]) -> np.ndarray:
    return np.concatenate([part.outline for part in parts])


def _ellipse(radius: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    return _CIRCLE_POINTS * radius + np.asarray(centre)


def _disc(rng: np.random.Generator) -> list[Part]:
    return [Part(_ellipse(1.0))]


def _row(count: int, rng: np.random.Generator) -> list[Part]:
    """Touching discs of like size in a row, lying or standing."""
    # Just below 2 radii: the discs must touch, for a gap makes them separate objects.
    spacing = rng.uniform(1.8, 1.96)
    radii = rng.uniform(0.93, 1.07, size=count)
    positions = spacing * (np.arange(count) - (count - 1) / 2)
    standing = rng.random() < 0.4
    return [
        Part(_ellipse(radius, (0.0, position) if standing else (position, 0.0)))
        for radius, position in zip(radii, positions, strict=True)
    ]


def _pair(rng: np.random.Generator) -> list[Part]:
    return _row(2, rng)


def _triple(rng: np.random.Generator) -> list[Part]:
    return _row(3, rng)


def _ring(rng: np.random.Generator) -> list[Part]:
    return [Part(_ellipse(1.0), _ellipse(rng.uniform(0.45, 0.65)))]


def _target(rng: np.random.Generator) -> list[Part]:
    hole = rng.uniform(0.79, 0.85)
    return [Part(_ellipse(1.0), _ellipse(hole)), Part(_ellipse(hole - rng.uniform(0.13, 0.22)))]


def _square(rng: np.random.Generator) -> list[Part]:
    return [Part(_rectangle(-1.0, -1.0, 1.0, 1.0))]


def _triangle(rng: np.random.Generator) -> list[Part]:
    apex = rng.uniform(-0.25, 0.25)
    return [Part(np.array([[apex, -0.95], [1.0, 0.95], [-1.0, 0.95]]))]


def _house(rng: np.random.Generator) -> list[Part]:
    roof = rng.uniform(0.85, 1.35)
    eaves = rng.uniform(1.0, 1.2)
    apex = rng.uniform(-0.2, 0.2)
    return [
        Part(_rectangle(-1.0, -1.0, 1.0, 1.0)),
        Part(np.array([[apex, -1.0 - roof], [eaves, -1.0], [-eaves, -1.0]])),
    ]


def _rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


_BUILDERS = {
    "disc": _disc,
    "pair": _pair,
    "triple": _triple,
    "ring": _ring,
    "target": _target,
    "square": _square,
    "triangle": _triangle,
    "house": _house,
}
