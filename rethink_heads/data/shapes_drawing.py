"""Outlines of the classes of ``shapes``, and their drawing: anti-aliased stamps, textures, backgrounds and strokes.

Outlines are polygons around the origin, y down, in px. The classes are chosen so that a part of one looks like the
whole of another: a disc is half a pair, a pair is two thirds of a triple, a square is a house without its roof, a
target holds a disc and has a ring's outside. A detector has to look at the whole extent to tell them apart, also at
high IoU. Each class stays itself when it is flipped from left to right.

A canvas is (H, W, 3) float32 with values 0..255; functions draw into it in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

# Below this extent in px an edge counts for more, so it is sampled more finely.
FINE_EXTENT = 96
CLASS_NAMES = ("disc", "pair", "triple", "ring", "target", "square", "triangle", "house")

_CIRCLE = np.linspace(0.0, 2 * np.pi, 72, endpoint=False)
_CIRCLE_POINTS = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=1)
_SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


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


def _ellipse(radius: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    return _CIRCLE_POINTS * radius + np.asarray(centre)


def _outlines(class_name: str, rng: np.random.Generator) -> list[Part]:
    """Return the parts of a class with random proportions, about 2 px wide or high."""
    match class_name:
        case "disc":
            return [Part(_ellipse(1.0))]
        case "pair" | "triple":
            # Touching discs of like size in a row, lying or standing, just below 2 radii apart: a gap makes them
            # separate objects.
            count = 2 if class_name == "pair" else 3
            spacing = rng.uniform(1.8, 1.96)
            radii = rng.uniform(0.93, 1.07, size=count)
            positions = spacing * (np.arange(count) - (count - 1) / 2)
            standing = rng.random() < 0.4
            return [
                Part(_ellipse(radius, (0.0, position) if standing else (position, 0.0)))
                for radius, position in zip(radii, positions, strict=True)
            ]
        case "ring":
            return [Part(_ellipse(1.0), _ellipse(rng.uniform(0.45, 0.65)))]
        case "target":
            hole = rng.uniform(0.79, 0.85)
            bull = Part(_ellipse(hole - rng.uniform(0.13, 0.22)))
            return [Part(_ellipse(1.0), _ellipse(hole)), bull]
        case "square":
            return [Part(_SQUARE)]
        case "triangle":
            apex = rng.uniform(-0.25, 0.25)
            return [Part(np.array([[apex, -0.95], [1.0, 0.95], [-1.0, 0.95]]))]
        case _:
            roof, eaves, apex = rng.uniform((0.85, 1.0, -0.2), (1.35, 1.2, 0.2))
            corners = [[apex, -1.0 - roof], [eaves, -1.0], [-eaves, -1.0]]
            return [Part(_SQUARE), Part(np.array(corners))]


def make_parts(class_name: str, size: float, rng: np.random.Generator) -> list[Part]:
    """Return the parts of one object of a class, with random aspect ratio and proportions, centred on the origin.

    ``size`` is the square root of its box's area, in px, before a random rotation by up to 12 degrees.
    """
    parts = _outlines(class_name, rng)
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


@dataclass(frozen=True)
class Stamp:
    """A rasterised object before anything covers it or cuts it off.

    Attributes:
        left, top: integer position of the mask's first pixel on the canvas; may be negative.
        mask: (h, w) float32 0..1, coverage of each pixel.
        edge: (h, w) float32 0..1, coverage by the outline; within the mask.
        parts: (h, w) int, the last drawn part at each pixel.
        box: xyxy of the mask in px on the canvas, to the sampling's precision (1/4 or 1/2 px).
    """

    left: int
    top: int
    mask: np.ndarray
    edge: np.ndarray
    parts: np.ndarray
    box: tuple[float, float, float, float]

    def moved(self, right: int, down: int) -> Stamp:
        """Return the stamp moved by whole pixels."""
        left, top, box_right, bottom = self.box
        box = (left + right, top + down, box_right + right, bottom + down)
        return replace(self, left=self.left + right, top=self.top + down, box=box)


def rasterise(
    parts: list[Part],
    centre: tuple[float, float],
    outline: float = 0.0,
    cut: tuple[float, float] | None = None,
) -> Stamp:
    """Rasterise parts moved to ``centre`` (x, y px), with an outline of that many px.

    ``cut`` (angle in radians, fraction) keeps only that fraction of the area: what lies farthest
    along the angle's direction is taken away by a straight cut.
    """
    points = np.concatenate([part.outline for part in parts]) + centre
    left, top = np.floor(points.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(points.max(axis=0)).astype(int) + 2
    width, height = int(right - left), int(bottom - top)
    factor = 4 if max(width, height) < FINE_EXTENT else 2

    fill = Image.new("L", (width * factor, height * factor))
    lines = Image.new("L", fill.size)
    fill_draw, line_draw = ImageDraw.Draw(fill), ImageDraw.Draw(lines)
    # A line is centred on the outline and its outer half is masked away: hence twice the width.
    line_width = round(2 * outline * factor)
    for number, part in enumerate(parts, start=1):
        polygons = [(part.outline, number)]
        if part.hole is not None:
            polygons.append((part.hole, 0))
        for polygon, value in polygons:
            corners = ((polygon + centre - (left, top)) * factor).ravel().tolist()
            fill_draw.polygon(corners, fill=value)
            if line_width:
                # One corner beyond the first point, so that it is joined like the others.
                path = corners + corners[:4]
                line_draw.line(path, fill=1, width=line_width, joint="curve")
    numbers = np.array(fill)
    if cut is not None:
        angle, fraction = cut
        along = _along(numbers.shape[0], numbers.shape[1], angle)
        # Every eighth sample places the cut well enough and costs an eighth.
        limit = np.quantile(along[numbers > 0][::8], fraction)
        numbers = np.where(along <= limit, numbers, np.uint8(0))
    inside = numbers > 0
    mask = _coverage(inside, factor)
    on_line = np.asarray(lines, dtype=bool)
    edge = _coverage(inside & on_line, factor) if line_width else np.zeros_like(mask)
    columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
    box = (
        float(left + columns[0] / factor),
        float(top + rows[0] / factor),
        float(left + (columns[-1] + 1) / factor),
        float(top + (rows[-1] + 1) / factor),
    )
    return Stamp(int(left), int(top), mask, edge, _part_numbers(numbers, factor), box)


def _coverage(inside: np.ndarray, factor: int) -> np.ndarray:
    """Return the share of set samples in each factor x factor cell, float32."""
    # PIL's reduce does in C what a mean over a reshaped array does ten times slower.
    samples = Image.fromarray(inside.astype(np.uint8) * np.uint8(240))
    return np.asarray(samples.reduce(factor), dtype=np.float32) / 240


def _part_numbers(numbers: np.ndarray, factor: int) -> np.ndarray:
    """Return the index of the last drawn part in each factor x factor cell, 0 where there is none.

    ``numbers`` holds the index plus one at each sample, 0 outside.
    """
    cells = numbers[::factor, ::factor].copy()
    for row in range(factor):
        for column in range(factor):
            np.maximum(cells, numbers[row::factor, column::factor], out=cells)
    return np.maximum(cells, 1) - 1


def paint(canvas: np.ndarray, stamp: Stamp, rng: np.random.Generator) -> None:
    """Paint a stamp with a random light colour, texture, shading and edge; none says its class."""
    window, inner = visible_window(stamp, canvas.shape[0], canvas.shape[1])
    below = canvas[window]
    mask = stamp.mask[inner][..., None]
    colour = contrasting_colour(below.mean((0, 1)), rng)
    tones = np.ones(8, np.float32)
    if rng.random() < 0.3:
        tones = rng.uniform(0.8, 1.2, size=8).astype(np.float32)
    height, width = stamp.mask.shape
    surface = colour * (tones[stamp.parts] * fill_texture(height, width, rng))[..., None]
    if stamp.edge.any():
        edge_colour = colour * rng.uniform(0.35, 0.65)
        edge = stamp.edge[..., None]
        surface = surface * (1 - edge) + edge_colour * edge
    canvas[window] = below * (1 - mask) + surface[inner].clip(0, 255) * mask


def visible_window(
    stamp: Stamp, height: int, width: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where a stamp lies on the canvas, and that same area within the stamp's arrays."""
    top, left = max(stamp.top, 0), max(stamp.left, 0)
    bottom = max(min(stamp.top + stamp.mask.shape[0], height), top)
    right = max(min(stamp.left + stamp.mask.shape[1], width), left)
    inner = (
        slice(top - stamp.top, bottom - stamp.top),
        slice(left - stamp.left, right - stamp.left),
    )
    return (slice(top, bottom), slice(left, right)), inner


def contrasting_colour(
    background: np.ndarray, rng: np.random.Generator, distance: float = 55.0
) -> np.ndarray:
    """Draw a light RGB colour (3,) float32 at least ``distance`` from ``background``.

    Objects are light and backgrounds dark, so that a small network learns edges in minutes and has
    time left for what is hard on purpose: telling wholes from parts.
    """
    candidates = rng.uniform(110, 250, size=(12, 3)).astype(np.float32)
    far = np.linalg.norm(candidates - background, axis=1) >= distance
    return candidates[int(np.argmax(far))]


def fill_texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return an (height, width) float32 texture around 1: flat, striped or noisy, and shaded."""
    kind = rng.choice(3, p=[0.6, 0.2, 0.2])
    texture = np.ones((height, width), np.float32)
    if kind == 1:
        period = float(np.clip(np.hypot(height, width) * rng.uniform(0.08, 0.3), 3.0, 28.0))
        texture += rng.uniform(0.08, 0.2) * stripes(height, width, period, rng)
    elif kind == 2:
        texture += rng.uniform(0.05, 0.2) * smooth_noise(height, width, rng)
    if rng.random() < 0.5:
        texture *= 1 + rng.uniform(0.05, 0.2) * slope(height, width, rng)
    return texture


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a (size, size, 3) float32 background: noise, with a gradient or stripes in some."""
    base = rng.uniform(20, 80, size=3).astype(np.float32)
    tint = rng.uniform(0.5, 1.0, size=3).astype(np.float32)
    canvas = base + (rng.uniform(4, 16) * smooth_noise(size, size, rng))[..., None] * tint
    if rng.random() < 0.3:
        canvas += (rng.uniform(4, 12) * stripes(size, size, rng.uniform(6, 50), rng))[..., None]
    if rng.random() < 0.6:
        direction = rng.uniform(-20, 20, size=3).astype(np.float32)
        canvas += slope(size, size, rng)[..., None] * direction
    return canvas.clip(0, 255)


def smooth_noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return (height, width) float32 noise of several octaves, about -1..1."""
    total = np.zeros((height, width), np.float32)
    cells, weight = int(rng.integers(2, 5)), 1.0
    persistence = rng.uniform(0.45, 0.8)
    while cells <= max(height, width) // 2 and cells <= 96:
        grid = rng.uniform(-1, 1, size=(cells, cells)).astype(np.float32)
        octave = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
        total += np.float32(weight) * np.asarray(octave)
        cells, weight = cells * 3, weight * persistence
    return total


def stripes(height: int, width: int, period: float, rng: np.random.Generator) -> np.ndarray:
    """Return an (height, width) float32 wave of a period in px at a random angle, -1..1."""
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    along = _along(height, width, angle)
    wave = np.sin(along * np.float32(2 * np.pi / period) + np.float32(phase))
    return np.sign(wave) if rng.random() < 0.4 else wave


def slope(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return an (height, width) float32 plane from -1 to 1 in a random direction."""
    along = _along(height, width, rng.uniform(0, 2 * np.pi))
    along -= (along.min() + along.max()) / 2
    return along / max(float(along.max()), 1.0)


def _along(height: int, width: int, angle: float) -> np.ndarray:
    rows = np.arange(height, dtype=np.float32) * np.float32(np.sin(angle))
    columns = np.arange(width, dtype=np.float32) * np.float32(np.cos(angle))
    return rows[:, None] + columns[None, :]


def draw_strokes(canvas: np.ndarray, count: int, rng: np.random.Generator) -> None:
    """Draw ``count`` lines and arcs across the canvas: clutter without a class."""
    height, width = canvas.shape[:2]
    for _ in range(count):
        strokes = Image.new("L", (width * 2, height * 2))
        draw = ImageDraw.Draw(strokes)
        thickness = int(rng.integers(2, 9))
        x, y = rng.uniform(0, 2 * width, size=2), rng.uniform(0, 2 * height, size=2)
        if rng.random() < 0.5:
            draw.line([x[0], y[0], x[1], y[1]], fill=255, width=thickness)
        else:
            radius = rng.uniform(12, width)
            box = [x[0] - radius, y[0] - radius, x[0] + radius, y[0] + radius]
            start = rng.uniform(0, 360)
            draw.arc(box, start, start + rng.uniform(30, 150), fill=255, width=thickness)
        colour = contrasting_colour(canvas[::8, ::8].mean((0, 1)), rng, 30.0)
        coverage = strokes.reduce(2)
        drawn = coverage.getbbox()
        if drawn is None:
            continue
        left, top, right, bottom = drawn
        share = np.asarray(coverage.crop(drawn), dtype=np.float32)[..., None] / 255
        below = canvas[top:bottom, left:right]
        below += (colour - below) * share
