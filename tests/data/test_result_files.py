"""Files of detections and folders of ground truth in every layout say the same boxes; what is wrong is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import rethink_heads as rh
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.doctor import check_reading
from rethink_heads.data.result_files import read_results, write_coco_results
from rethink_heads.data.results import parse_frame, to_original
from rethink_heads.data.yolo import LabelOptions
from rethink_heads.errors import UserError
from tests.made_detections import (
    as_results,
    make_dataset,
    make_detections,
    pycocotools_precision,
)
from tests.results_files import make_results, make_truth, write_json
from tests.tiny_voc import image_xml, object_xml

Truth = dict[str, Any]


def read(path: Path, dataset: CocoDataset, names: str | None = None) -> pd.DataFrame:
    results = read_results(path, names)
    check_reading(results, dataset, results.reading)
    return results.detections(dataset, results.reading, "file")


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same detections, in whatever order those of equal scores are."""
    keys = ["image_id", "score", "label", "x1"]
    pd.testing.assert_frame_equal(
        found.sort_values(keys, ignore_index=True),
        expected.sort_values(keys, ignore_index=True),
        rtol=0,
        atol=1e-6,
    )


@pytest.fixture
def truth() -> Truth:
    return make_truth(seed=3, images=40)


@pytest.fixture
def dataset(truth: Truth, tmp_path: Path) -> CocoDataset:
    return CocoDataset(write_json(truth, tmp_path / "truth.json"), None)


@pytest.fixture
def expected(truth: Truth, dataset: CocoDataset, tmp_path: Path) -> pd.DataFrame:
    return read(write_json(make_results(truth), tmp_path / "file.json"), dataset)


def write_yolo_results(truth: Truth, folder: Path, names: list[str]) -> Path:
    """As YOLO's validation leaves labels, with confidences."""
    folder.mkdir()
    images = {image["id"]: image for image in truth["images"]}
    called = {category["id"]: category["name"] for category in truth["categories"]}
    for entry in make_results(truth):
        image = images[entry["image_id"]]
        x, y, w, h = entry["bbox"]
        box = ((x + w / 2) / image["width"], (y + h / 2) / image["height"])
        box += (w / image["width"], h / image["height"])
        label = names.index(called[entry["category_id"]])
        with (folder / f"{Path(image['file_name']).stem}.txt").open("a") as stream:
            stream.write(f"{label} {' '.join(map(repr, box))} {entry['score']}\n")
    return folder


def test_yolo_results_are_coco_s(
    truth: Truth, dataset: CocoDataset, expected: pd.DataFrame, tmp_path: Path
) -> None:
    names = [category["name"] for category in truth["categories"]]
    assert_same(read(write_yolo_results(truth, tmp_path / "labels", names), dataset), expected)
    (tmp_path / "data.yaml").write_text(json.dumps({"names": names[::-1]}))
    other = write_yolo_results(truth, tmp_path / "predictions", names[::-1])
    assert_same(read(other, dataset, str(tmp_path / "data.yaml")), expected)
    # Without their names the classes are counted in the order of the annotations: that they are not is seen.
    with pytest.raises(UserError, match=r"\(6\) are none .*, numbered from 1 in the order"):
        read(write_yolo_results(truth, tmp_path / "shifted", ["", *names[:-1], names[-1]]), dataset)


def test_voc_results_are_coco_s(
    truth: Truth, dataset: CocoDataset, expected: pd.DataFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    called = {category["id"]: category["name"] for category in truth["categories"]}
    for entry in make_results(truth):
        x, y, w, h = entry["bbox"]
        path = folder / f"comp3_det_test_{called[entry['category_id']]}.txt"
        with path.open("a") as stream:
            corners = " ".join(map(repr, (x + 1, y + 1, x + w, y + h)))
            stream.write(f"{entry['image_id']:012d} {entry['score']} {corners}\n")
    assert_same(read(folder, dataset), expected)
    first = called[truth["categories"][0]["id"]]
    one = read(folder / f"comp3_det_test_{first}.txt", dataset)
    assert_same(one, expected[expected["label"] == 0])


def test_yolo_ground_truth_is_coco_s(truth: Truth, dataset: CocoDataset, tmp_path: Path) -> None:
    """With the images' sizes from images, from an option's file, and names from a file above the labels."""
    root = tmp_path / "yolo"
    labels, images = root / "labels" / "val", root / "images" / "val"
    labels.mkdir(parents=True)
    images.mkdir(parents=True)
    numbers = [category["id"] for category in truth["categories"]]
    lines = []
    for image in truth["images"]:
        width, height = image["width"], image["height"]
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        text = ""
        for found in own:
            x, y, w, h = found["bbox"]
            box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            text += f"{numbers.index(found['category_id'])} {' '.join(map(repr, box))}\n"
        if own:
            (labels / f"{image['id']:012d}.txt").write_text(text)
        Image.new("L", (width, height)).save(images / image["file_name"])
        lines.append(f"{image['file_name']} {width} {height}\n")
    names = {n: category["name"] for n, category in enumerate(truth["categories"])}
    (root / "data.yaml").write_text(json.dumps({"names": names}))
    (tmp_path / "sizes.txt").write_text("".join(lines))

    found = CocoDataset(labels, None)
    assert found.class_names == dataset.class_names
    assert sorted(found.image_ids) == sorted(dataset.image_ids)
    place = [found.image_ids.index(image_id) for image_id in dataset.image_ids]
    assert [found.sizes[row] for row in place] == dataset.sizes
    for row, other in enumerate(place):
        own = dataset.annotated
        ours, theirs = own.boxes[own.images == row], found.annotated
        assert found.annotated.boxes[theirs.images == other] == pytest.approx(ours, abs=1e-9)
        assert (
            theirs.labels[theirs.images == other].tolist() == own.labels[own.images == row].tolist()
        )
    # Images can be read, where there are some.
    assert CocoDataset(labels, images)[0].image.shape[0] == 3
    for path in images.iterdir():
        path.unlink()
    stated = CocoDataset(labels, None, LabelOptions(size=str(tmp_path / "sizes.txt")))
    with_objects = {a["image_id"] for a in truth["annotations"]}
    assert set(stated.image_ids) == with_objects
    assert stated.box_counts.objects == found.box_counts.objects
    with pytest.raises(UserError, match=r"the size of image .* is not known.*--image-size"):
        CocoDataset(labels, None)
    with pytest.raises(UserError, match="needed here: give --images"):
        stated[0]


def test_voc_ground_truth_needs_no_image_lists(tmp_path: Path) -> None:
    folder = tmp_path / "Annotations"
    folder.mkdir()
    (folder / "a b.xml").write_text(image_xml(object_xml("kite", (11, 6, 30, 25))))
    difficult = object_xml("ant", (1, 1, 10, 10), "<difficult>1</difficult>")
    (folder / "c.xml").write_text(image_xml(difficult, object_xml("kite", (2, 2, 9, 9))))
    for path in (folder, tmp_path):
        found = CocoDataset(path, None)
        assert found.class_names == ("ant", "kite")
        assert found.image_ids == (1, 2)
        assert found.file_names == ["a b", "c"]
        assert found.annotated.boxes.tolist() == [[10, 5, 20, 20], [0, 0, 10, 10], [1, 1, 8, 8]]
        assert found.annotated.crowd.tolist() == [False, True, False]


def test_written_results_are_read_as_they_were(tmp_path: Path) -> None:
    """Numbers to the last digit, and so COCO's AP."""
    dataset = make_dataset(tmp_path / "data")
    frame = make_detections(dataset, detector="file", head="detections")
    path = tmp_path / "saved.json"
    write_coco_results(frame, dataset.category_ids, path)
    entries = json.loads(path.read_text())
    assert entries == as_results(frame, dataset)
    found = read_results(path)
    again = found.detections(dataset, found.reading, "file")
    pd.testing.assert_frame_equal(again, frame, rtol=0, atol=1e-9)
    precision = pycocotools_precision(dataset.annotations_path, entries)
    assert (
        precision["AP"]
        == pycocotools_precision(dataset.annotations_path, as_results(again, dataset))["AP"]
    )


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["300x200", "long:640", "letterbox:416", "short:800:1333", "normalised"]),
    st.integers(20, 2000),
    st.integers(20, 2000),
)
def test_frames_put_the_whole_image_into_itself(text: str, width: int, height: int) -> None:
    """The image's own corners, wherever a resized image has them, are those of the original."""
    if text == "300x200":
        corners = [0.0, 0.0, 300.0, 200.0]
    elif text == "normalised":
        corners = [0.0, 0.0, 1.0, 1.0]
    else:
        longest = max(width, height)
        factor = {"long:640": 640 / longest, "letterbox:416": 416 / longest}.get(
            text, min(800 / min(width, height), 1333 / longest)
        )
        right, bottom = width * factor, height * factor
        x, y = ((416 - right) / 2, (416 - bottom) / 2) if "letter" in text else (0.0, 0.0)
        corners = [x, y, x + right, y + bottom]
    sizes = np.array([[width, height]], float)
    found = to_original(np.array([corners]), parse_frame(text), sizes)
    assert found[0].tolist() == pytest.approx([0, 0, width, height], abs=1e-6)


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
DEEP = "[" * 100_000 + "]" * 100_000
BAD: list[tuple[str, str]] = [
    ("{", r"is not JSON"),
    (DEEP, r"is nested too deeply"),
    ("[1" + "0" * 5000 + "]", r"thousands of digits"),
    (
        '{"annotations": [], "images": []}',
        r"it holds a dict with 'annotations', 'images', not a list",
    ),
    ('"text"', r"it holds a str, not a list"),
    ("[[1]]", r"entry 1 is \[1\], not an object"),
    ('[{"image_id": 1, "image_id": 2}]', r"has the key 'image_id' twice"),
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"bbox": [1, 2, 3]}, r"has the bbox \[1, 2, 3\], not four numbers"),
    ({"bbox": {"x": 1}}, r"has the bbox \{'x': 1\}, not four numbers"),
    ({"bbox": [1, 2, 3, True]}, r"has true in its bbox, not a number"),
    ({"bbox": [1, 2, "3", 4]}, r"has '3' in its bbox, not a number"),
    ({"bbox": [1, 2, float("nan"), 4]}, r"has nan in its bbox, not a number of at most"),
    (
        {"bbox": [1, 2, 10**400, 4]},
        r"has 10{20,} \.\.\. 0+ in its bbox, not a number of at most 16,777,216",
    ),
    ({"bbox": [1, 2, 1e30, 4]}, r"has 1e\+30 in its bbox, not a number of at most"),
    ({"score": None}, r"has null in its score, not a number"),
    ({"score": float("inf")}, r"has inf in its score"),
    ({"category_id": True}, r"has the category_id true, neither a number nor a name"),
    ({"category_id": 1.5}, r"has the category_id 1.5, not a whole number"),
    ({"image_id": [1]}, r"has the image_id \[1\], neither a number nor a name"),
    ({"image_id": 10**400}, r"has the image_id .*, not a whole number"),
    ({"image_id": float("inf")}, r"has the image_id inf, not a whole number"),
    ({"image_id": 2**70}, r"has the image_id .*, not a whole number"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_no_results_json_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(path)


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_entry_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_json([GOOD, GOOD | change, GOOD], tmp_path / "results.json")
    with pytest.raises(UserError, match=rf"results\.json: entry 2 {message}"):
        read_results(path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = SCALARS | st.lists(SCALARS | st.lists(SCALARS, max_size=5), max_size=5)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "image_id": st.just(1) | ANYTHING,
        "category_id": st.just(1) | ANYTHING,
        "bbox": st.lists(st.floats(0, 50) | SCALARS, min_size=4, max_size=4) | ANYTHING,
        "score": st.floats(0, 1) | ANYTHING,
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ENTRIES | ANYTHING, max_size=4))
def test_any_json_is_read_or_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 60, "height": 60}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20]}],
    }
    dataset = CocoDataset(write_json(truth, folder / "truth.json"), None)
    path = write_json([GOOD, *entries], folder / "results.json")
    message, frame = "", pd.DataFrame({"score": [0.5], "x1": [0.0], "x2": [1.0]})
    try:
        frame = rh.read_detections(path, dataset)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert frame["score"].between(-1e9, 1e9).all()
    assert (frame["x2"] >= frame["x1"]).all()


@pytest.mark.parametrize("key", GOOD)
def test_an_entry_that_lacks_something_is_named(key: str, tmp_path: Path) -> None:
    entry = {name: value for name, value in GOOD.items() if name != key}
    path = write_json([GOOD, entry], tmp_path / "results.json")
    with pytest.raises(UserError, match=rf"entry 2 has no '{key}'"):
        read_results(path)


def test_negative_sides_are_named(dataset: CocoDataset, truth: Truth, tmp_path: Path) -> None:
    entries = make_results(truth)
    entries[7]["bbox"][2] = -4
    results = read_results(write_json(entries, tmp_path / "results.json"))
    with pytest.raises(UserError, match=r"entry 8 \(1 of \d+ are so\) has the box .* are negative"):
        results.detections(dataset, results.reading, "file")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1 0.1", r"a\.txt, line 2: 5 numbers and no confidence"),
        ("0 0.5 0.5 0.1 0.1 nan", r"a number that is not finite"),
        ("-1 0.5 0.5 0.1 0.1 0.5", r"'-1' is no class"),
        ("cat 0.5 0.5 0.1 0.1 0.5", r"could not convert string to float: 'cat'"),
        ("0 " + "0.1 " * 20, r"21 numbers, an outline as it seems"),
    ],
)
def test_a_wrong_line_of_yolo_is_named(line: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1 0.9\n{line}\n")
    with pytest.raises(UserError, match=message):
        read_results(folder)


def test_wrong_lines_and_names_of_voc_are_named(tmp_path: Path) -> None:
    path = tmp_path / "comp4_det_val_cat.txt"
    path.write_text("a 0.5 1 2 3 4\nb 0.5 1 2 3\n")
    with pytest.raises(UserError, match=r"cat\.txt, line 2 is 'b 0\.5 1 2 3', not"):
        read_results(path)
    other = tmp_path / "cat.txt"
    other.write_text("a 0.5 1 2 3 4\n")
    with pytest.raises(UserError, match=r"is not named like VOC's results"):
        read_results(other)


def test_from_python(
    truth: Truth, dataset: CocoDataset, expected: pd.DataFrame, tmp_path: Path
) -> None:
    entries = make_results(truth)
    for entry in entries:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x, y, x + w, y + h]
    path = write_json(entries, tmp_path / "file.json")
    with pytest.raises(UserError, match="--box-format xyxy"):
        rh.read_detections(path, dataset)
    assert_same(rh.read_detections(path, dataset, box_format="xyxy"), expected)


def test_no_detections_are_none(dataset: CocoDataset, tmp_path: Path) -> None:
    frame = read(write_json([], tmp_path / "empty.json"), dataset)
    assert frame.empty
