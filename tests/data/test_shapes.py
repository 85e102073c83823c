"""The generated set: the same from the same seed, written whole or not at all, and hard enough; its boxes are tight."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.data import shapes
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.shapes import (
    IMAGE_SIZE,
    LEAST_VISIBLE,
    SceneObject,
    draw_scene,
    scene_generator,
    shapes_root,
)
from rethink_heads.data.shapes_drawing import (
    CLASS_NAMES,
    Part,
    contrasting_colour,
    extent,
    make_parts,
    rasterise,
)
from rethink_heads.errors import UserError
from rethink_heads.files import CACHE_VARIABLE

SCENES = 60


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes_root(0, tmp_path_factory.mktemp("cache"), train_images=3, val_images=2)


@pytest.fixture(scope="module")
def scenes() -> list[list[SceneObject]]:
    return [draw_scene(scene_generator(0, "train", index))[1] for index in range(SCENES)]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_layout_and_reading(small_set: Path) -> None:
    names = {p.name for p in small_set.iterdir()}
    assert names == {"annotations", "train", "val"}
    ids = []
    for split, count in (("train", 3), ("val", 2)):
        dataset = CocoDataset(
            small_set / "annotations" / f"instances_{split}.json", small_set / split
        )
        assert len(dataset) == count
        assert dataset.class_names == CLASS_NAMES
        counts = dataset.box_counts
        assert (counts.crowd, counts.degenerate, counts.outside, counts.clipped) == (0, 0, 0, 0)
        for sample in dataset:
            assert sample.image.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
            sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
            np.testing.assert_allclose(sample.areas, sides.prod(1))
            ids.extend([sample.image_id, *sample.object_ids.tolist()])
    assert len(set(ids)) == len(ids)


def test_same_seed_gives_the_same_bytes_in_another_process(small_set: Path, tmp_path: Path) -> None:
    code = "from rethink_heads.data.shapes import shapes_root; print(shapes_root(0, None, 3, 2))"
    environment = {
        **os.environ,
        CACHE_VARIABLE: str(tmp_path),
        "PYTHONHASHSEED": "123",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    again = Path(done.stdout.strip())
    assert again.parent == tmp_path
    assert again.name == small_set.name
    assert contents(again) == contents(small_set)


def test_images_depend_on_seed_split_and_number_alone(small_set: Path, tmp_path: Path) -> None:
    larger, smaller = contents(shapes_root(0, tmp_path, 4, 1)), contents(small_set)
    shared = {name for name in larger if name.startswith("train")} & set(smaller)
    assert len(shared) == 3
    assert all(larger[name] == smaller[name] for name in shared)
    other = contents(shapes_root(1, tmp_path, 1, 1))
    images = [data for name, data in (*smaller.items(), *other.items()) if name.endswith(".jpg")]
    assert len(set(images)) == len(images)


def test_a_set_that_is_there_is_not_drawn_again(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(rng: np.random.Generator) -> tuple[np.ndarray, list[SceneObject]]:
        """Another process makes it."""
        monkeypatch.setattr(shapes, "draw_scene", draw_scene)
        shapes_root(0, tmp_path, train_images=1, val_images=1)
        return draw_scene(rng)

    monkeypatch.setattr(shapes, "draw_scene", meanwhile)
    root = shapes_root(0, tmp_path, train_images=1, val_images=1)
    assert list(tmp_path.iterdir()) == [root]
    monkeypatch.setattr(shapes, "draw_scene", None)
    assert shapes_root(0, small_set.parent, train_images=3, val_images=2) == small_set


@pytest.mark.parametrize(
    "interruption", [KeyboardInterrupt, OSError(28, "No space left on device")]
)
def test_interrupted_generation_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interruption: BaseException | type[BaseException],
) -> None:
    drawn = []

    def interrupted(rng: np.random.Generator) -> tuple[np.ndarray, list[SceneObject]]:
        drawn.append(1)
        if len(drawn) == 2:
            raise interruption
        return draw_scene(rng)

    monkeypatch.setattr(shapes, "draw_scene", interrupted)
    with pytest.raises((KeyboardInterrupt, UserError)) as caught:
        shapes_root(0, tmp_path, train_images=1, val_images=1)
    if caught.type is UserError:
        assert "No space left on device" in str(caught.value)
        assert CACHE_VARIABLE in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shapes, "draw_scene", draw_scene)
    root = shapes_root(0, tmp_path, train_images=1, val_images=1)
    assert len(list(root.rglob("*.jpg"))) == 2


@pytest.mark.parametrize(("seed", "train", "val"), [(-1, 1, 1), (0, 0, 1), (0, 1, 0)])
def test_bad_arguments(tmp_path: Path, seed: int, train: int, val: int) -> None:
    with pytest.raises(UserError, match="cannot generate shapes"):
        shapes_root(seed, tmp_path, train, val)


def test_the_scenes_are_as_varied_as_they_should_be(scenes: list[list[SceneObject]]) -> None:
    items = [item for objects in scenes for item in objects]
    names = [item.class_name for item in items]
    shares = [names.count(name) / len(names) for name in CLASS_NAMES]
    assert min(shares) > 0.06
    assert max(shares) < 0.25
    assert {len(objects) for objects in scenes} == {2, 3, 4, 5, 6, 7}
    boxes = np.array([item.box for item in items])
    visible = np.array([item.visible for item in items])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= IMAGE_SIZE).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() > 4
    # Small, medium and large objects.
    areas = sides.prod(1)
    assert 0.3 < (areas < 32**2).mean() < 0.5
    assert 0.12 < (areas >= 96**2).mean() < 0.3
    assert np.sqrt(areas.min()) < 14
    assert np.sqrt(areas.max()) > 160
    # Occlusion, truncation and nesting do happen.
    assert visible.min() >= LEAST_VISIBLE
    assert visible.max() <= 1
    assert 0.08 < (visible < 0.97).mean() < 0.4
    at_border = (boxes[:, :2] == 0).any(1) | (boxes[:, 2:] == IMAGE_SIZE).any(1)
    assert 0.02 < at_border.mean() < 0.25


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


@settings(max_examples=30, deadline=None)
@given(
    background=st.tuples(*[st.floats(0, 255)] * 3),
    seed=st.integers(0, 2**31),
)
def test_colours_stand_out(background: tuple[float, float, float], seed: int) -> None:
    colour = contrasting_colour(np.array(background), np.random.default_rng(seed))
    assert np.linalg.norm(colour - background) >= 55
