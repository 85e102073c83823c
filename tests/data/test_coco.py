"""CocoDataset against pycocotools on real images, on hand-made files good and bad, and of some of its classes."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from rethink_heads.data import coco
from rethink_heads.data.coco import BoxCounts, CocoDataset, Sample
from rethink_heads.data.coco_json import read_json
from rethink_heads.data.sources import resolve_split
from rethink_heads.errors import UserError
from rethink_heads.files import sha256
from tests.made_detections import CLASSES, as_dataset, make_dataset

REAL_SPLITS = [("bccd", "test"), ("coco-sample", "val")]


def box_record(object_id: int, bbox: list[float], image_id: int = 7, **more: Any) -> dict[str, Any]:
    return {"id": object_id, "image_id": image_id, "category_id": 5, "bbox": bbox, **more}


@pytest.fixture
def content() -> dict[str, Any]:
    """A COCO file: two images of 40 x 30 and two categories, out of order."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "annotations": [box_record(1, [1.5, 2, 10, 8.25], area=50.0)],
        "categories": [{"id": 9, "name": "late"}, {"id": 5, "name": "early"}],
    }


def write(folder: Path, content: Any) -> tuple[Path, Path]:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (10, 20, 30)).save(images / name)
    annotations = folder / "annotations.json"
    annotations.write_text(content if isinstance(content, str) else json.dumps(content))
    return annotations, images


@pytest.mark.parametrize(("folder", "split"), REAL_SPLITS)
def test_real_data_agrees_with_pycocotools(shared_data: Path, folder: str, split: str) -> None:
    annotations, images = resolve_split(str(shared_data / folder), split)
    dataset = CocoDataset(annotations, images)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(annotations))
    categories = reference.loadCats(sorted(reference.getCatIds()))
    assert dataset.class_names == tuple(c["name"] for c in categories)
    assert dataset.category_ids == tuple(c["id"] for c in categories)
    assert dataset.image_ids == tuple(i["id"] for i in reference.dataset["images"])
    assert dataset.fingerprint == sha256(annotations)
    total = 0
    for index, image_id in enumerate(dataset.image_ids):
        sample = dataset[index]
        records = reference.loadAnns(reference.getAnnIds(imgIds=[image_id], iscrowd=False))
        info = reference.loadImgs([image_id])[0]
        assert sample.image_id == image_id
        assert sample.image.shape == (3, info["height"], info["width"])
        assert sample.image.dtype == torch.uint8
        xywh = np.array([r["bbox"] for r in records], float).reshape(-1, 4)
        expected = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        expected = expected.clip(0, [info["width"], info["height"]] * 2).astype(np.float32)
        np.testing.assert_array_equal(sample.boxes.numpy(), expected)
        np.testing.assert_array_equal(
            sample.areas.numpy(), np.array([r["area"] for r in records], np.float32)
        )
        assert sample.object_ids.tolist() == [r["id"] for r in records]
        labels = [dataset.category_ids[label] for label in sample.labels.tolist()]
        assert labels == [r["category_id"] for r in records]
        total += len(records)
    assert dataset.box_counts == BoxCounts(total, crowd=0, degenerate=0, outside=0, clipped=0)


def test_boxes_labels_and_areas(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"].append({**box_record(2, [0, 0, 4, 5], image_id=3), "category_id": 9})
    dataset = CocoDataset(*write(tmp_path, content))
    assert dataset.class_names == ("early", "late")
    assert dataset.category_ids == (5, 9)
    assert dataset.image_ids == (7, 3)
    first, second = dataset[0], dataset[1]
    assert first.boxes.tolist() == [[1.5, 2.0, 11.5, 10.25]]
    assert first.areas.tolist() == [50.0]
    assert first.labels.tolist() == [0]
    assert second.labels.tolist() == [1]
    assert second.areas.tolist() == [20.0]
    assert first.image[:, 0, 0].tolist() == [10, 20, 30]
    empty = dataset.subset(2).with_classes(["early"])[-1]
    assert (empty.image_id, empty.boxes.shape) == (3, (0, 4))
    assert empty.labels.shape == empty.areas.shape == empty.object_ids.shape == (0,)
    dtypes = (first.boxes.dtype, first.labels.dtype, first.areas.dtype, first.object_ids.dtype)
    assert dtypes == (torch.float32, torch.int64, torch.float32, torch.int64)


def test_left_out_and_clipped_boxes_are_counted(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"] = [
        box_record(1, [5, 5, 10, 10]),
        box_record(2, [5, 5, 10, 10], iscrowd=1),
        box_record(3, [5, 5, 0, 10]),
        box_record(4, [5, 5, 10, -2]),
        box_record(5, [5, 5, 10, 0.05]),
        box_record(6, [50, 5, 10, 10]),
        box_record(7, [5, -20, 10, 19]),
        box_record(8, [-4, 25, 10, 10]),
        box_record(9, [30, 20, 10.001, 10.0]),
        box_record(10, [-3, -3, 0, 0], image_id=3),
        box_record(11, [35, 0, 10, 10], image_id=3),
    ]
    dataset = CocoDataset(*write(tmp_path, content))
    assert dataset.box_counts == BoxCounts(objects=4, crowd=1, degenerate=4, outside=2, clipped=2)
    sample = dataset[0]
    assert sample.object_ids.tolist() == [1, 8, 9]
    assert sample.boxes.tolist() == [[5, 5, 15, 15], [0, 25, 6, 30], [30, 20, 40, 30]]
    # Without an area in the file: that of the clipped box.
    assert sample.areas.tolist() == [100.0, 30.0, 100.0]
    assert dataset.subset(1).box_counts == BoxCounts(
        objects=3, crowd=1, degenerate=3, outside=2, clipped=1
    )
    # What evaluation goes by: as the file has it, with the crowd.
    annotated = dataset.annotated
    assert annotated.boxes[:, 0].tolist() == [5, 5, -4, 30, 35]
    assert annotated.images.tolist() == [0, 0, 0, 0, 1]
    assert annotated.crowd.tolist() == [False, True, False, False, False]
    assert annotated.boxes[2].tolist() == [-4, 25, 10, 10]
    assert np.isnan(annotated.areas).all()
    assert dataset.subset(1).annotated.boxes[:, 0].tolist() == [5, 5, -4, 30]


def test_subsets_and_classes(tmp_path: Path, content: dict[str, Any]) -> None:
    late = box_record(2, [0, 0, 4, 5], image_id=3, segmentation=[[0, 0, 4, 0, 4, 5]], area=7.5)
    content["annotations"] += [{**late, "category_id": 9}]
    dataset = CocoDataset(*write(tmp_path, content))
    subset = dataset.subset(1)
    assert (len(dataset), len(subset), len(dataset.subset(99))) == (2, 1, 2)
    assert [s.image_id for s in subset] == list(subset.image_ids) == [7]
    assert subset.class_names == dataset.class_names
    assert subset.fingerprint == dataset.fingerprint
    with pytest.raises(UserError, match="cannot take 0 images"):
        dataset.subset(0)
    assert dataset.annotated.labels.tolist() == [0, 1]
    chosen = dataset.with_classes(["late"]).annotated
    assert (chosen.labels.tolist(), chosen.boxes.tolist()) == ([0], [[0, 0, 4, 5]])
    assert (chosen.images.tolist(), chosen.areas.tolist()) == ([1], [7.5])


def test_works_in_data_loader_workers(tmp_path: Path, content: dict[str, Any]) -> None:
    dataset = CocoDataset(*write(tmp_path, content))
    dataset[0]
    assert pickle.loads(pickle.dumps(dataset))[0].boxes.tolist() == dataset[0].boxes.tolist()
    loader: DataLoader[Sample] = DataLoader(dataset, batch_size=None, num_workers=1)
    assert [sample.image_id for sample in loader] == [7, 3]


@pytest.mark.parametrize(
    ("file_name", "on_disk"), [("sub/a.png", "sub/a.png"), ("Ko\u0308ln.png", "K\u00f6ln.png")]
)
def test_images_in_subfolders_and_with_accents_are_found(
    tmp_path: Path, content: dict[str, Any], file_name: str, on_disk: str
) -> None:
    content["images"][0]["file_name"] = file_name
    paths = write(tmp_path, content)
    (paths[1] / "sub").mkdir()
    (paths[1] / "a.png").rename(paths[1] / on_disk)
    assert CocoDataset(*paths)[0].image_id == 7


def test_missing_files(tmp_path: Path, content: dict[str, Any]) -> None:
    annotations, images = write(tmp_path, content)
    with pytest.raises(UserError, match=r"no such annotation file: .*none\.json"):
        CocoDataset(tmp_path / "none.json", images)
    with pytest.raises(UserError, match=r"no such folder of images: .*nowhere"):
        CocoDataset(annotations, tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no files that are read"):
        CocoDataset(images, images)
    dataset = CocoDataset(annotations, images)
    (images / "b.png").unlink()
    with pytest.raises(UserError, match=r"image b\.png is not in .*\(1 of the 2 images"):
        CocoDataset(annotations, images)
    with pytest.raises(UserError, match=r"no such image: .*b\.png"):
        dataset[1]
    Image.new("RGB", (30, 40)).save(images / "a.png")
    with pytest.raises(UserError, match=r"a\.png is 30x40 px but .* states 40x30"):
        dataset[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ('{"images": ' + "[" * 100_000, "is nested too deeply"),
        ('{"images": 1' + "0" * 5000 + "}", "holds a number of thousands of digits"),
        ('{"images": [], "images": []}', "an entry has the key 'images' twice"),
        (
            '{"images": [{"id": 7, "width": 1, "width": 2}]}',
            r"an entry \(id 7\) has the key 'width' twice",
        ),
        ("\x00\x01", "is not JSON"),
        ("[]", "is not COCO: it holds a list"),
        ("{}", "has no 'images' and 'annotations' and 'categories'"),
        ('{"images": [], "categories": []}', "has no 'annotations'"),
        ('{"images": 3, "annotations": [], "categories": []}', "'images' is not a list"),
        ('{"images": [], "annotations": [4], "categories": []}', "entry 1 of 'annotations' is 4"),
        ('{"images": [], "annotations": [], "categories": []}', "is empty: it lists no images"),
        (
            '{"images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}], "annotations": [],'
            ' "categories": []}',
            "no usable objects",
        ),
    ],
)
def test_files_that_are_not_coco(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CocoDataset(*write(tmp_path, text))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("annotations", {"image_id": 99}, "annotation 1 names image 99"),
        ("annotations", {"category_id": 99}, "annotation 1 names category 99"),
        ("annotations", {"id": "x"}, "id 'x' of annotation number 1 of the list is not a whole"),
        ("annotations", {"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\] of annotation 1"),
        ("annotations", {"area": float("nan")}, "area nan of annotation 1"),
        ("annotations", {"bbox": [1, 2, float("nan"), 3]}, "nan, 3] of annotation 1 is not four"),
        ("annotations", {"bbox": [1, 2, 1e300, 3]}, "annotation 1 is not .* at most 16,777,216 px"),
        ("annotations", {"bbox": [1, 2, True, 3]}, "of annotation 1 is not four numbers"),
        ("annotations", {"iscrowd": 2}, "iscrowd of annotation 1 is 2, not 0 or 1"),
        ("annotations", {"image_id": 7.5}, "image_id 7.5 of annotation 1 is not a whole number"),
        ("images", {"width": 0}, "states 0x30 px for image 7, which cannot be"),
        ("images", {"width": 13000, "height": 13000}, "for image 7, more than 67,108,864 pixels"),
        ("images", {"width": "wide"}, "width 'wide' of image 7 is not a whole number"),
        ("images", {"file_name": 5}, "file_name of image 7 is 5, not a text"),
        ("images", {"file_name": "a\0.png"}, r"of image 7 is 'a\\x00.png', with characters"),
        ("images", {"file_name": "\ud800.png"}, "file_name of image 7 is .*, with characters"),
        ("images", {"file_name": "x" * 300}, r"image x+ \.\.\. x+ is not in"),
        ("images", {"file_name": "b.png"}, "2 image entries share the file_name b.png"),
        ("categories", {"name": ["late"]}, r"the name of category 9 is \['late'\], not a text"),
        ("categories", {"name": " "}, "the name of category 9 is ' ', not a text"),
        ("annotations", {"area": 1e300}, r"area 1e\+300 of annotation 1 is not a size"),
        ("annotations", {"id": 2**63}, "id 9223372036854775808 of annotation number 1 .* 64 bits"),
        ("images", {"width": 10**400}, r"width 10+\.\.\.0+ of image 7 is beyond 64 bits"),
        ("annotations", {"bbox": None}, "annotation 1 has no 'bbox'"),
        ("annotations", {"iscrowd": 1}, r"no usable objects \(1 crowd, 0 of zero size"),
        ("annotations", {"bbox": [90, 90, 5, 5]}, "no usable objects .*1 outside the image"),
        ("images", {"id": 3}, "2 image entries share the id 3; give"),
        ("images", {"width": None}, "image 7 has no 'width'"),
        ("categories", {"id": 5}, "2 category entries share the id 5; give"),
        ("categories", {"name": None}, "category 9 has no 'name'"),
        # Not a class called None.
        ("categories", {"name": "null"}, "the name of category 9 is null, not a text"),
    ],
)
def test_bad_entries(
    tmp_path: Path, content: dict[str, Any], kind: str, change: dict[str, Any], message: str
) -> None:
    entry = content[kind][0]
    for key, value in change.items():
        entry[key] = None if value == "null" else value
        if value is None:
            del entry[key]
    with pytest.raises(UserError, match=message) as caught:
        CocoDataset(*write(tmp_path, content))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": 1}, r"2 annotation entries share the id 1 \(and 2 more are shared\)"),
        ({"image_id": 99}, r"annotation 4 names image 99, .* \(as do 2 more annotations\)"),
        ({"category_id": 99}, r"annotation 4 names category 99, .* \(as do 2 more annotations\)"),
    ],
)
def test_the_first_of_several_is_named_and_the_others_counted(
    tmp_path: Path, content: dict[str, Any], change: dict[str, int], says: str
) -> None:
    entries = [box_record(number, [1, 2, 3, 4]) for number in range(1, 7)]
    for number, entry in enumerate(entries[3:], 1):
        entry.update({"id": number} if "id" in change else change)
    content["annotations"] = entries
    with pytest.raises(UserError, match=says):
        CocoDataset(*write(tmp_path, content))


@pytest.mark.parametrize(
    ("value", "is_crowd"),
    [
        *((value, False) for value in (0, "0", False, 0.0, "false", None)),
        *((value, True) for value in (1, "1", True, 1.0, "True")),
    ],
)
def test_truth_values_as_they_are_meant(
    tmp_path: Path, content: dict[str, Any], value: Any, is_crowd: bool
) -> None:
    content["annotations"].append(box_record(2, [0, 0, 9, 9], iscrowd=value))
    counts = CocoDataset(*write(tmp_path, content)).box_counts
    assert (counts.objects, counts.crowd) == (1 + (not is_crowd), int(is_crowd))


def test_numbers_as_texts_are_the_numbers(tmp_path: Path, content: dict[str, Any]) -> None:
    expected = CocoDataset(*write(tmp_path, content))[0]
    texts = json.loads(json.dumps(content), parse_int=str, parse_float=str)
    found = CocoDataset(*write(tmp_path, texts))
    assert found.image_ids == (7, 3)
    assert found.category_ids == (5, 9)
    assert (found[0].boxes.tolist(), found[0].areas.tolist()) == (
        expected.boxes.tolist(),
        expected.areas.tolist(),
    )
    # As pandas writes whole numbers of a column with gaps.
    floats = json.loads(json.dumps(content), parse_int=float)
    assert CocoDataset(*write(tmp_path, floats)).image_ids == (7, 3)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(tmp_path: Path, content: dict[str, Any], encoding: str) -> None:
    annotations, images = write(tmp_path, content)
    annotations.write_bytes(json.dumps(content).encode(encoding))
    assert CocoDataset(annotations, images).class_names == ("early", "late")


def test_of_categories_of_one_name_the_annotated_is_kept(
    tmp_path: Path, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    content["categories"].insert(0, {"id": 0, "name": "early", "supercategory": "none"})
    dataset = CocoDataset(*write(tmp_path, content))
    assert (dataset.class_names, dataset.category_ids) == (("early", "late"), (5, 9))
    assert (
        "category 0 is left out: no annotation uses it, and category 5 has the same" in caplog.text
    )
    assert dataset[0].labels.tolist() == [0]
    content["annotations"].append({**box_record(2, [0, 0, 9, 9]), "category_id": 0})
    with pytest.raises(UserError, match="categories 0 and 5 are both named 'early' and both have"):
        CocoDataset(*write(tmp_path, content))


def test_annotations_are_parsed_once_until_they_change(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco, "SETTLED_NS", -(10**9))
    parsed = []
    monkeypatch.setattr(coco, "read_json", lambda path: parsed.append(path) or read_json(path))
    paths = write(tmp_path, content)
    assert [CocoDataset(*paths).box_counts.objects for _ in range(2)] == [1, 1]
    assert len(parsed) == 1
    content["annotations"].append(box_record(2, [0, 0, 4, 5]))
    write(tmp_path, content)
    assert CocoDataset(*paths).box_counts.objects == 2


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
def test_some_classes_are_those_of_a_file_without_the_others(
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
