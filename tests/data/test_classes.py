"""A dataset of some of its classes, against the same file without the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from tests.made_detections import CLASSES, as_dataset, make_dataset

COMMON_FIXTURE = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SOME = st.sets(st.sampled_from(CLASSES), min_size=1)


def without_others(folder: Path, dataset: CocoDataset, names: set[str]) -> CocoDataset:
    """The dataset of a file from which the other classes' records were deleted."""
    content: dict[str, Any] = json.loads(dataset.annotations_path.read_text())
    kept = [c for c in content["categories"] if c["name"] in names]
    ids = {c["id"] for c in kept}
    objects = [a for a in content["annotations"] if a["category_id"] in ids]
    return as_dataset(folder, {**content, "categories": kept, "annotations": objects})


def objects_of(dataset: CocoDataset) -> list[list[Any]]:
    """What each image holds, without its pixels."""
    tables = map(dataset.objects, range(len(dataset)))
    columns = [(each.corners, each.labels, each.object_areas, each.ids) for each in tables]
    return [[column.tolist() for column in each] for each in columns]


@COMMON_FIXTURE
@given(names=SOME, seed=st.integers(0, 3))
def test_it_is_the_dataset_of_a_file_without_the_others(
    tmp_path: Path, names: set[str], seed: int
) -> None:
    whole = make_dataset(tmp_path / str(seed), images=7, seed=seed)
    chosen = whole.with_classes(names)
    expected = without_others(tmp_path / str(seed) / "less", whole, names)
    assert chosen.class_names == expected.class_names
    assert chosen.category_ids == expected.category_ids
    assert objects_of(chosen) == objects_of(expected)
    assert chosen.indices_with_objects() == expected.indices_with_objects()
    counts, before = chosen.box_counts, whole.box_counts
    assert counts.objects == expected.box_counts.objects
    assert counts.clipped == expected.box_counts.clipped
    assert counts.objects + counts.other_classes == before.objects
    assert (counts.crowd, before.other_classes) == (before.crowd, 0)


@COMMON_FIXTURE
@given(names=SOME, other=SOME, images=st.integers(1, 6))
def test_choosing_again_and_cutting_commute(
    tmp_path: Path, names: set[str], other: set[str], images: int
) -> None:
    whole = make_dataset(tmp_path, images=7)
    once = whole.with_classes(names & other or names)
    twice = whole.with_classes(names).with_classes(names & other or names)
    assert (once.fingerprint, once.class_names) == (twice.fingerprint, twice.class_names)
    assert once.box_counts == twice.box_counts
    assert objects_of(once) == objects_of(twice)
    cut, late = whole.with_classes(names).subset(images), whole.subset(images).with_classes(names)
    assert (cut.image_ids, cut.box_counts) == (late.image_ids, late.box_counts)


def test_the_fingerprint_changes_with_the_classes_only(tmp_path: Path) -> None:
    whole = make_dataset(tmp_path)
    assert whole.with_classes(CLASSES[::-1]).fingerprint == whole.fingerprint
    prints = {
        whole.with_classes(names).fingerprint for names in (CLASSES[:2], CLASSES[1:], ["cat"])
    }
    assert len(prints | {whole.fingerprint}) == 4
    assert all(len(one) == 64 for one in prints)
    assert whole.with_classes(CLASSES).box_counts == whole.box_counts


def test_unknown_classes_and_none(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    with pytest.raises(UserError, match=r"has no class 'cow'; it has cat, dog, owl$"):
        dataset.with_classes(["cow", "dog"])
    with pytest.raises(UserError, match=r"no objects of the classes \(none\)"):
        dataset.with_classes([])
