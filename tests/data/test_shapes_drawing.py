"""Outlines and stamps of ``shapes``: tight boxes, areas, cuts and contrast."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.data.shapes_drawing import (
    CLASS_NAMES,
    Part,
    contrasting_colour,
    extent,
    make_parts,
    paint,
    rasterise,
    visible_window,
)


@settings(max_examples=40, deadline=None)
@given(
    class_name=st.sampled_from(CLASS_NAMES),
    size=st.floats(11, 150),
    seed=st.integers(0, 2**31),
    x=st.floats(-40, 300),
    y=st.floats(-40, 300),
)
def test_box_is_tight(class_name: str, size: float, seed: int, x: float, y: float) -> None:
    parts = make_parts(class_name, size, np.random.default_rng(seed))
    stamp = rasterise(parts, (x, y))
    rows, columns = np.flatnonzero(stamp.mask.any(1)), np.flatnonzero(stamp.mask.any(0))
    left, top = stamp.left + columns[0], stamp.top + rows[0]
    right, bottom = stamp.left + columns[-1] + 1, stamp.top + rows[-1] + 1
    # The box lies in the outermost pixels that the mask touches ...
    assert left <= stamp.box[0] < left + 1
    assert top <= stamp.box[1] < top + 1
    assert right - 1 < stamp.box[2] <= right
    assert bottom - 1 < stamp.box[3] <= bottom
    # ... and is the polygons' own box, to within a sample (PIL fills the samples on a border).
    points = np.concatenate([part.outline for part in parts]) + np.array([x, y])
    exact = [*points.min(0), *points.max(0)]
    sample = 0.25 if max(stamp.mask.shape) < 96 else 0.5
    np.testing.assert_allclose(stamp.box, exact, atol=1.01 * sample)


@pytest.mark.parametrize("class_name", CLASS_NAMES)
def test_size_is_the_root_of_the_box_area(class_name: str) -> None:
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(50):
        width, height = extent(make_parts(class_name, 60.0, rng))
        ratios.append(np.sqrt(width * height) / 60)
    # Rotation by up to 12 degrees widens the box a little.
    assert min(ratios) > 0.97
    assert max(ratios) < 1.3


@pytest.mark.parametrize("side", [20.0, 150.0])
def test_coverage_of_known_areas(side: float) -> None:
    half = side / 2
    corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    assert rasterise([Part(corners)], (0.3, 0.6)).mask.sum() == pytest.approx(side**2, rel=0.03)
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = half * np.stack([np.cos(angle), np.sin(angle)], 1)
    ring = rasterise([Part(circle, circle / 2)], (0.0, 0.0))
    assert ring.mask.sum() == pytest.approx(np.pi * half**2 * 0.75, rel=0.04)
    middle = np.array(ring.mask.shape) // 2
    assert ring.mask[tuple(middle)] == 0


def test_moved_and_cut_stamps() -> None:
    parts = make_parts("house", 40.0, np.random.default_rng(1))
    moved, drawn = rasterise(parts, (0.25, 0.5)).moved(30, -7), rasterise(parts, (30.25, -6.5))
    assert (moved.box, moved.left, moved.top) == (drawn.box, drawn.left, drawn.top)
    np.testing.assert_array_equal(moved.mask, drawn.mask)
    # A cut keeps its share on the near side.
    parts = make_parts("disc", 60.0, np.random.default_rng(0))
    whole, piece = rasterise(parts, (0.0, 0.0)), rasterise(parts, (0.0, 0.0), cut=(0.0, 0.75))
    assert piece.mask.sum() / whole.mask.sum() == pytest.approx(0.75, abs=0.03)
    assert piece.box[0] == whole.box[0]
    assert piece.box[2] < whole.box[2] - 3


def test_outline_and_part_numbers() -> None:
    stamp = rasterise(make_parts("ring", 80.0, np.random.default_rng(5)), (0.0, 0.0), outline=3.0)
    assert (stamp.edge <= stamp.mask).all()
    solid = stamp.mask > 0.99
    # No pixel at the border of the solid area is without an edge.
    inner = solid.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(solid, step, axis)
    assert stamp.edge[solid & ~inner].min() > 0.9
    house = rasterise(make_parts("house", 60.0, np.random.default_rng(2)), (0.0, 0.0))
    middle = house.mask.shape[1] // 2
    column = house.parts[:, middle][house.mask[:, middle] > 0.99]
    assert (column[0], column[-1]) == (1, 0)
    assert set(np.unique(house.parts)) == {0, 1}


def test_window_at_the_border() -> None:
    square = [Part(np.array([[-5.0, -5.0], [5.0, -5.0], [5.0, 5.0], [-5.0, 5.0]]))]
    canvas = np.zeros((50, 40))
    for centre, pixels in (((0.0, 0.0), 25), ((40.0, 25.0), 50), ((80.0, 25.0), 0)):
        stamp = rasterise(square, centre)
        window, inner = visible_window(stamp, 50, 40)
        assert canvas[window].shape == stamp.mask[inner].shape
        assert stamp.mask[inner].sum() == pytest.approx(pixels, rel=0.15, abs=0.01)


def test_paint_changes_the_mask_and_nothing_else() -> None:
    canvas = np.full((60, 60, 3), 128, np.float32)
    stamp = rasterise(make_parts("target", 40.0, np.random.default_rng(4)), (30.0, 30.0))
    paint(canvas, stamp, np.random.default_rng(4))
    full = np.zeros((60, 60), np.float32)
    window, inner = visible_window(stamp, 60, 60)
    full[window] = stamp.mask[inner]
    changed = np.abs(canvas - 128).max(2)
    assert (changed[full == 0] == 0).all()
    assert np.median(changed[full == 1]) > 20


@settings(max_examples=30, deadline=None)
@given(
    background=st.tuples(*[st.floats(0, 255)] * 3),
    seed=st.integers(0, 2**31),
)
def test_colours_stand_out(background: tuple[float, float, float], seed: int) -> None:
    colour = contrasting_colour(np.array(background), np.random.default_rng(seed))
    assert np.linalg.norm(colour - background) >= 55
