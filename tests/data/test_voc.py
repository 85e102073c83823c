"""VOC folders read directly: splits, boxes, difficult objects against pycocotools, and mistakes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.result_files import read_results
from rethink_heads.data.sources import resolve_split
from rethink_heads.data.voc import VOC_CLASSES, read_voc_xml
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import precision_table
from tests.made_detections import pycocotools_precision
from tests.results_files import write_json
from tests.tiny_voc import HEIGHT, WIDTH, box_xml, image_xml, object_xml, write_devkit, write_voc

PUBLISHED_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person"
    " pottedplant sheep sofa train tvmonitor"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETHINK_HEADS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    return write_devkit(tmp_path / "VOCdevkit")


def read(source: Path, split: str) -> CocoDataset:
    return CocoDataset(*resolve_split(str(source), split))


def one_image(tmp_path: Path, xml: str) -> Path:
    root = tmp_path / "one" / "VOC2007"
    write_voc(root, {"000001": xml}, {"trainval": ["000001"]})
    return root


def annotations(source: Path, split: str) -> list[dict[str, Any]]:
    return json.loads(resolve_split(str(source), split)[0].read_bytes())["annotations"]


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("trainval07", [700000001, 700000002, 700000003]),
        ("trainval2007", [700000001, 700000002, 700000003]),
        ("train07", [700000001, 700000002]),
        ("test07", [700000004, 700000005]),
        ("trainval12", [1208000001]),
        ("trainval0712", [700000001, 700000002, 700000003, 1208000001]),
        ("07+12", [700000001, 700000002, 700000003, 1208000001]),
        ("07++12", [700000001, 700000002, 700000003, 700000004, 700000005, 1208000001]),
        ("test07+trainval12", [700000004, 700000005, 1208000001]),
    ],
)
def test_splits(devkit: Path, split: str, ids: list[int]) -> None:
    dataset = read(devkit, split)
    assert dataset.image_ids == tuple(ids)
    assert dataset.class_names == tuple(PUBLISHED_CLASSES.split())
    assert dataset.box_counts.objects == len(ids)
    assert dataset.images_path == devkit
    # By its year alone, and from the folder that holds the devkit.
    assert resolve_split(str(devkit.parent), split) == resolve_split(str(devkit), split)
    # Each image is read: its size is the one stated.
    for index in range(len(dataset)):
        assert dataset[index].image.shape == (3, HEIGHT, WIDTH)


def test_splits_that_are_not_there_and_folders_of_other_names(devkit: Path) -> None:
    says = "no split test12: it has test07, train07, trainval07, trai"
    with pytest.raises(UserError, match=says):
        resolve_split(str(devkit), "test12")
    expected = read(devkit, "trainval12").image_ids
    (devkit / "VOC2012").rename(devkit / "mine")
    says = r"no split trainval12 \(of 07\+12\): it has test07, train07"
    with pytest.raises(UserError, match=says):
        resolve_split(str(devkit), "07+12")
    (devkit / "VOC2007").rename(devkit.parent / "elsewhere")
    assert read(devkit, "trainval").image_ids == tuple(i - 12 * 10**8 for i in expected)
    with pytest.raises(UserError, match=r"has no split val: it has"):
        resolve_split(str(devkit), "val")


@pytest.mark.parametrize("split", ["test", "test07", "test2007"])
def test_a_year_by_itself_is_the_same_data(devkit: Path, split: str) -> None:
    assert resolve_split(str(devkit / "VOC2007"), split) == resolve_split(str(devkit), "test07")


def test_a_folder_without_a_year_in_its_name(tmp_path: Path) -> None:
    xml = image_xml(object_xml("cow", (1, 1, 9, 9)))
    write_voc(tmp_path / "farm", {"img-7": xml, "000007": xml}, {"train": ["img-7", "000007"]})
    dataset = read(tmp_path / "farm", "train")
    assert dataset.images_path == tmp_path / "farm"
    assert dataset.image_ids[1] == 7
    assert dataset.image_ids[0] >= 2**40  # a hash of the name, apart from all numbers
    assert dataset[0].object_ids.tolist() == [dataset.image_ids[0] * 1000 + 1]


def test_boxes_classes_and_flags(tmp_path: Path) -> None:
    part = f"<part><name>head</name>{box_xml((2, 2, 3, 3))}</part>"
    source = one_image(
        tmp_path,
        image_xml(
            object_xml("tvmonitor", (1, 1, WIDTH, HEIGHT)),  # the whole image
            object_xml("person", (45.70, 7, 50.70, 12), more=f"{part}<difficult>0</difficult>"),
            object_xml("aeroplane", (3, 4, 3, 4), more=""),  # one pixel, no flag
            object_xml("dog", (10, 11, 20, 31), more="<difficult>1</difficult>"),
        ),
    )
    expected = [
        ("tvmonitor", [0, 0, WIDTH, HEIGHT], 0),
        ("person", [44.7, 6, 6.0, 6], 0),
        ("aeroplane", [2, 3, 1, 1], 0),
        ("dog", [9, 10, 11, 21], 1),
    ]
    found = annotations(source, "trainval")
    assert len(found) == len(expected)
    for record, (name, box, difficult) in zip(found, expected, strict=True):
        assert VOC_CLASSES[record["category_id"] - 1] == name
        assert record["bbox"] == pytest.approx(box, abs=1e-9)
        assert record["area"] == pytest.approx(box[2] * box[3], abs=1e-9)
        assert (record["iscrowd"], record["difficult"]) == (difficult, difficult)
    # Neither training nor predefined proposals see the difficult one.
    dataset = read(source, "trainval")
    assert [dataset.class_names[label] for label in dataset[0].labels] == [
        n for n, *_ in expected[:3]
    ]
    assert (dataset.box_counts.objects, dataset.box_counts.crowd) == (3, 1)


@given(st.tuples(*(st.integers(1, n) for n in (WIDTH, HEIGHT, WIDTH, HEIGHT))))
@settings(max_examples=30, deadline=None)
def test_a_box_covers_the_pixels_that_voc_counts(corners: tuple[int, int, int, int]) -> None:
    x1, y1 = min(corners[0], corners[2]), min(corners[1], corners[3])
    x2, y2 = max(corners[0], corners[2]), max(corners[1], corners[3])
    path = Path(os.environ["RETHINK_HEADS_CACHE"]).parent / "one.xml"
    path.write_text(image_xml(object_xml("cat", (x1, y1, x2, y2))))
    x, y, width, height = read_voc_xml(path)[1][0].box
    # VOC counts pixels from one, the last included.
    centres = np.arange(max(WIDTH, HEIGHT)) + 0.5
    assert np.flatnonzero((centres > x) & (centres < x + width)).tolist() == list(range(x1 - 1, x2))
    assert np.flatnonzero((centres > y) & (centres < y + height)).tolist() == list(
        range(y1 - 1, y2)
    )
    assert width * height == (x2 - x1 + 1) * (y2 - y1 + 1)


def test_a_difficult_object_is_neither_hit_nor_miss_nor_false_positive(tmp_path: Path) -> None:
    """In COCO's evaluation, by pycocotools as well as by the package's."""

    def root(name: str, *difficult: str) -> Path:
        easy = object_xml("cat", (1, 1, 20, 20))
        xmls = {"000001": image_xml(easy, *difficult), "000002": image_xml(easy)}
        write_voc(tmp_path / name / "VOC2007", xmls, {"test": list(xmls)})
        return resolve_split(str(tmp_path / name / "VOC2007"), "test")[0]

    def detection(box: list[float], score: float, number: int = 1) -> dict[str, Any]:
        image_id = 700_000_000 + number
        return {"image_id": image_id, "category_id": 8, "bbox": box, "score": score}

    def average_precision(path: Path, found: list[dict[str, Any]]) -> dict[str, float]:
        dataset = CocoDataset(path, None)
        results = read_results(write_json(found, tmp_path / "results.json"))
        frame = results.detections(dataset, results.reading, "file")
        return precision_table(frame, dataset, replicates=0).set_index("metric")["value"].to_dict()

    hard = object_xml("cat", (31, 21, 50, 40), "<difficult>1</difficult>")
    without, path = root("without"), root("with", hard)
    hits = [detection([0, 0, 20, 20], 0.5), detection([0, 0, 20, 19], 0.4, number=2)]
    expected = pytest.approx(average_precision(without, hits), nan_ok=True)
    # Not found: no miss. Found several times, above all hits: no false positive.
    on_it = [detection([30, 20, 20, 20], 0.9), detection([30, 20, 19, 20], 0.8)]
    assert average_precision(path, hits) == expected
    assert average_precision(path, hits + on_it) == expected
    assert average_precision(without, hits + on_it)["AP50"] < 0.7
    # The one difference from VOC's own evaluation: a part of it is ignored too, whatever its IoU.
    a_part = [detection([35, 25, 4, 4], 0.95)]
    assert average_precision(path, hits + a_part) == expected
    # As any crowd box, it never takes a detection from an object that counts.
    assert average_precision(path, hits)["AP50"] == pytest.approx(1.0)
    every = hits + on_it + a_part
    assert pycocotools_precision(path, every) == pytest.approx(
        average_precision(path, every), nan_ok=True
    )


def test_it_is_converted_once_and_again_after_a_change(devkit: Path, cache: Path) -> None:
    path, _ = resolve_split(str(devkit), "trainval07")
    assert path.parent.parent == cache
    before = path.stat().st_mtime_ns
    assert resolve_split(str(devkit), "trainval07")[0] == path
    assert path.stat().st_mtime_ns == before
    changed = devkit / "VOC2007" / "Annotations" / "000001.xml"
    changed.write_text(image_xml(object_xml("sofa", (2, 2, 30, 30))))
    again, _ = resolve_split(str(devkit), "trainval07")
    assert sorted(p.name for p in path.parent.iterdir()) == sorted({path.name, again.name})
    first = json.loads(again.read_bytes())["annotations"][0]
    assert VOC_CLASSES[first["category_id"] - 1] == "sofa"
    # As well after a change of an image.
    image = devkit / "VOC2007" / "JPEGImages" / "000001.jpg"
    Image.new("RGB", (HEIGHT, HEIGHT)).save(image)
    with pytest.raises(UserError, match=r"000001\.xml states 64x48 px but .*000001\.jpg is 48x48"):
        resolve_split(str(devkit), "trainval07")
    Image.new("RGB", (WIDTH, HEIGHT)).save(image)
    assert resolve_split(str(devkit), "trainval07")[0] not in (path, again)


def test_a_cache_that_cannot_be_written(devkit: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(
        UserError, match=r"cannot write the converted annotations .*RETHINK_HEADS_CAC"
    ):
        resolve_split(str(devkit), "test07")


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("<annotation><size>", r"000001\.xml is not XML that can be read \(no element found"),
        ("", "is not XML"),
        (image_xml(object_xml(" ", (1, 1, 5, 5))), "the <name> of object 1 is '', not a text"),
        ("<html></html>", "is not VOC's: it holds <html>"),
        (image_xml(width=-1), "an image of -1 x 48 px cannot be"),
        (image_xml(width=63), r"000001\.xml states 63x48 px but .*000001\.jpg is 64x48"),
        (
            image_xml(object_xml("cat", (1, 1, HEIGHT, WIDTH)), width=HEIGHT, height=WIDTH),
            "states 48x64 px but .* is 64x48, so its boxes",
        ),
        (image_xml("<object><name>cat</name></object>"), r"object 1 \(cat\) has no <xmin>"),
        (
            image_xml(object_xml("cat", (1, 1, "wide", 5))),
            "<xmax> of object 1 .cat. is 'wide', not a",
        ),
        (image_xml(object_xml("cat", (1, 1, "nan", 5))), "is 'nan', not a number"),
        (
            image_xml(object_xml("cat", (1, 1, 5, 5), "<difficult>2</difficult>")),
            "is '2', not 0 or 1",
        ),
    ],
)
def test_a_broken_annotation_is_one_sentence(tmp_path: Path, xml: str, says: str) -> None:
    source = one_image(tmp_path, xml)
    with pytest.raises(UserError, match=says) as raised:
        resolve_split(str(source), "trainval")
    assert "\n" not in str(raised.value)
    assert "000001.xml" in str(raised.value)


def test_missing_files_are_named(devkit: Path) -> None:
    year = devkit / "VOC2007"
    (year / "JPEGImages" / "000002.jpg").unlink()
    with pytest.raises(
        UserError, match=r"no such image: .*VOC2007/JPEGImages/000002\.jpg \(1 of the 3"
    ):
        read(devkit, "trainval07")
    (year / "Annotations" / "000003.xml").unlink()
    with pytest.raises(
        UserError, match=r"no such annotation file: .*000003\.xml \(1 of the 3 images"
    ):
        read(devkit, "trainval07")
    main = year / "ImageSets" / "Main"
    (main / "test.txt").write_text("\n")
    with pytest.raises(UserError, match=r"test\.txt is empty: it lists no images"):
        read(devkit, "test07")
    (main / "trainval.txt").write_text("000001\n000002\n000001\n")
    with pytest.raises(UserError, match=r"lists image 000001 of .* twice"):
        read(devkit, "trainval07")
    with pytest.raises(UserError, match="twice; join splits that have no image in common"):
        read(devkit, "train07+trainval07")
    (year / "JPEGImages").rename(devkit / "images")
    with pytest.raises(UserError, match=r"no such folder: .*VOC2007/JPEGImages"):
        read(devkit, "train07")


def test_a_split_of_difficult_objects_alone(tmp_path: Path) -> None:
    hard = object_xml("cat", (1, 1, 9, 9), "<difficult>1</difficult>")
    # The folder is named, not the conversion in the cache.
    says = rf"^{tmp_path}/one \(trainval07\) has no usable objects \(1 cr"
    with pytest.raises(UserError, match=says):
        read(one_image(tmp_path, image_xml(hard)), "trainval")


@pytest.mark.parametrize("suffix", [".png", ".JPG"])
def test_images_of_any_suffix(devkit: Path, suffix: str) -> None:
    images = devkit / "VOC2007" / "JPEGImages"
    for path in list(images.iterdir()):
        with Image.open(path) as image:
            image.load()
        path.unlink()
        image.save(path.with_suffix(suffix))
    (images / "notes.txt").touch()
    dataset = read(devkit, "trainval07")
    assert dataset[0].image.shape == (3, HEIGHT, WIDTH)
    # Of two that differ in the suffix alone, VOC's own.
    image.save(images / "000001.jpg")
    image.save(images / "000001.gif")
    assert read(devkit, "trainval07")._file_names[0].endswith("000001.jpg")


def test_classes_of_ones_own_are_the_same_in_all_splits(
    devkit: Path, caplog: pytest.LogCaptureFixture
) -> None:
    year = devkit / "VOC2007"
    xml = image_xml(object_xml("license", (1, 1, 9, 9)), object_xml("person", (1, 1, 9, 9)))
    write_voc(year, {"000009": xml}, {"val": ["000009"], "license_val": ["000009  1"]})
    (year / "ImageSets" / "Main" / "broken.txt").write_text("\n")
    (year / "Annotations" / "000010.xml").write_text("no XML, and on no list")
    splits = ("trainval07", "test07", "trainval12", "val07")
    (names,) = {read(devkit, split).class_names for split in splits}
    assert {"license", "person"} < set(names) <= {"cat", "dog", "license", "person"}
    assert names == tuple(sorted(names))
    dataset = read(devkit, "val07")
    assert "classes that are not VOC's (the first: license), so its classes are" in caplog.text
    assert [names[label] for label in dataset[0].labels] == ["license", "person"]
    # A list of one class is no split, whatever the class.
    with pytest.raises(UserError, match=r"has no split license_val: .*val07"):
        resolve_split(str(devkit), "license_val")


@pytest.mark.parametrize(
    ("stem", "line", "encoding"),
    [
        ("my image 1", "my image 1", "utf-8"),
        ("my image", "my image  1", "utf-8"),
        ("000001", "000001  -1", "utf-8-sig"),
        ("000001", "000001.jpg", "utf-16"),
        ("v1.2", "v1.2", "utf-8"),
        ("Ko\u0308ln", "K\u00f6ln", "utf-8-sig"),
        ("K\u00f6ln", "Ko\u0308ln", "utf-16"),
    ],
)
def test_names_and_byte_order_marks(tmp_path: Path, stem: str, line: str, encoding: str) -> None:
    write_voc(tmp_path / "VOC2007", {stem: ""}, {})
    path = tmp_path / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    path.write_bytes(f"{line}\r\n\r\n".encode(encoding))
    xml = image_xml(object_xml("cat", (1, 1, 9, 9)))
    (tmp_path / "VOC2007" / "Annotations" / f"{stem}.xml").write_bytes(xml.encode(encoding))
    assert read(tmp_path, "test07")[0].boxes.tolist() == [[0, 0, 9, 9]]


@pytest.mark.parametrize(("width", "height"), [(HEIGHT, WIDTH), (0, 0), (0, HEIGHT)])
def test_sizes_that_are_swapped_or_left_out_are_the_images_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, width: int, height: int
) -> None:
    xml = image_xml(object_xml("cat", (1, 1, WIDTH, HEIGHT)), width=width, height=height)
    dataset = read(one_image(tmp_path, xml), "trainval")
    assert dataset[0].boxes.tolist() == [[0, 0, WIDTH, HEIGHT]]
    assert dataset.box_counts.clipped == 0
    assert r"000001.xml (1 such files) is missing or has its sides swapped" in caplog.text
    # A photo that is turned by its EXIF orientation has the sides that it states.
    xml = image_xml(object_xml("cat", (1, 1, 9, 9)), width=HEIGHT, height=WIDTH)
    source = one_image(tmp_path, xml)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(source / "JPEGImages" / "000001.jpg", exif=exif)
    assert read(source, "trainval")[0].image.shape == (3, WIDTH, HEIGHT)
