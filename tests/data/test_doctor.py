"""The doctor names each planted mistake by the option that fixes it, and leaves healthy files alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.doctor import check_reading, find_misreadings
from rethink_heads.data.result_files import read_results
from rethink_heads.errors import UserError
from tests.results_files import Detector, Entry, make_results, make_truth, write_json

Truth = dict[str, Any]
Mistake = Callable[[Entry, Truth], Entry]


def box(change: Callable[[float, float, float, float, float, float], list[float]]) -> Mistake:
    """A mistake of boxes: from x, y, w, h and the image's width and height to other numbers."""

    def plant(entry: Entry, truth: Truth) -> Entry:
        image = image_of(entry, truth)
        return {"bbox": change(*entry["bbox"], image["width"], image["height"])}

    return plant


def image_of(entry: Entry, truth: Truth) -> Entry:
    by_id = truth.setdefault("by_id", {image["id"]: image for image in truth["images"]})
    return by_id[entry["image_id"]]


def scaled(factor: Callable[[float, float], float], pad: bool = False, side: int = 640) -> Mistake:
    """Boxes in an image that was scaled, perhaps into the middle of a square."""

    def change(x: float, y: float, w: float, h: float, iw: float, ih: float) -> list[float]:
        f = factor(iw, ih)
        left, top = ((side - iw * f) / 2, (side - ih * f) / 2) if pad else (0, 0)
        return [x * f + left, y * f + top, w * f, h * f]

    return box(change)


def category(first: int) -> Mistake:
    """Classes counted in the order of their ids."""
    return lambda entry, truth: {
        "category_id": first
        + sorted(each["id"] for each in truth["categories"]).index(entry["category_id"])
    }


def images_counted(entry: Entry, truth: Truth) -> Entry:
    return {"image_id": [image["id"] for image in truth["images"]].index(entry["image_id"])}


def both(first: Mistake, second: Mistake) -> Mistake:
    return lambda entry, truth: first(entry, truth) | second(entry, truth)


MISTAKES: dict[str, tuple[Mistake, dict[str, str]]] = {
    "corners": (box(lambda x, y, w, h, iw, ih: [x, y, x + w, y + h]), {"box_format": "xyxy"}),
    "centre and size": (
        box(lambda x, y, w, h, iw, ih: [x + w / 2, y + h / 2, w, h]),
        {"box_format": "cxcywh"},
    ),
    "corners, y first": (
        box(lambda x, y, w, h, iw, ih: [y, x, y + h, x + w]),
        {"box_format": "yxyx"},
    ),
    "normalised": (
        box(lambda x, y, w, h, iw, ih: [x / iw, y / ih, w / iw, h / ih]),
        {"box_frame": "normalised"},
    ),
    "normalised corners, y first": (
        box(lambda x, y, w, h, iw, ih: [y / ih, x / iw, (y + h) / ih, (x + w) / iw]),
        {"box_format": "yxyx", "box_frame": "normalised"},
    ),
    "YOLO's numbers in JSON": (
        box(lambda x, y, w, h, iw, ih: [(x + w / 2) / iw, (y + h / 2) / ih, w / iw, h / ih]),
        {"box_format": "cxcywh", "box_frame": "normalised"},
    ),
    "stretched": (
        box(lambda x, y, w, h, iw, ih: [x * 300 / iw, y * 300 / ih, w * 300 / iw, h * 300 / ih]),
        {"box_frame": "300x300"},
    ),
    "stretched to an unusual size": (
        box(lambda x, y, w, h, iw, ih: [x * 731 / iw, y * 413 / ih, w * 731 / iw, h * 413 / ih]),
        {"box_frame": "731x413"},
    ),
    "longer side": (scaled(lambda iw, ih: 1333 / max(iw, ih)), {"box_frame": "long:1333"}),
    "letterbox": (
        scaled(lambda iw, ih: 640 / max(iw, ih), pad=True),
        {"box_frame": "letterbox:640"},
    ),
    "shorter side": (
        scaled(lambda iw, ih: min(800 / min(iw, ih), 1333 / max(iw, ih))),
        {"box_frame": "short:800:1333"},
    ),
    "corners in a stretched image": (
        box(
            lambda x, y, w, h, iw, ih: [
                x * 512 / iw,
                y * 512 / ih,
                (x + w) * 512 / iw,
                (y + h) * 512 / ih,
            ]
        ),
        {"box_format": "xyxy", "box_frame": "512x512"},
    ),
    "classes from 0": (category(0), {"category_ids": "contiguous"}),
    "classes from 1 without gaps": (category(1), {"category_ids": "contiguous-from-1"}),
    "class names": (
        lambda entry, truth: {"category_id": f"Class_{entry['category_id']}"},
        {"category_ids": "names"},
    ),
    "ids as text": (lambda e, t: {"image_id": str(e["image_id"])}, {"image_ids": "names"}),
    "file names": (lambda e, t: {"image_id": image_of(e, t)["file_name"]}, {"image_ids": "names"}),
    "paths": (
        lambda e, t: {"image_id": f"/data/val/{image_of(e, t)['file_name']}"},
        {"image_ids": "names"},
    ),
    "stems": (lambda e, t: {"image_id": f"{e['image_id']:012d}"}, {"image_ids": "names"}),
    "images counted": (images_counted, {"image_ids": "order"}),
    "per cent": (lambda e, t: {"score": 100 * e["score"]}, {"score_scale": "percent"}),
    "logits": (
        lambda e, t: {"score": float(np.log(e["score"] / (1 - e["score"])))},
        {"score_scale": "logit"},
    ),
    "corners and classes from 0": (
        both(box(lambda x, y, w, h, iw, ih: [x, y, x + w, y + h]), category(0)),
        {"box_format": "xyxy", "category_ids": "contiguous"},
    ),
    "normalised, counted, per cent": (
        both(
            both(
                box(lambda x, y, w, h, iw, ih: [x / iw, y / ih, (x + w) / iw, (y + h) / ih]),
                images_counted,
            ),
            lambda e, t: {"score": 100 * e["score"]},
        ),
        {
            "box_format": "xyxy",
            "box_frame": "normalised",
            "image_ids": "order",
            "score_scale": "percent",
        },
    ),
}


def options(changes: dict[str, str]) -> str:
    """As the command line has them."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changes.items())


def asked(text: str) -> set[str]:
    """Options with their values, in any order."""
    return {part.strip() for part in text.split("--")}


def open_truth(content: Truth, folder: Path) -> CocoDataset:
    return CocoDataset(write_json(content, folder / "truth.json"), None)


@pytest.mark.parametrize("quality", ["good", "poor"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named_and_its_option_mends_it(
    name: str, quality: str, tmp_path: Path
) -> None:
    plant, changes = MISTAKES[name]
    content = make_truth(seed=len(name), images=120)
    detector = Detector() if quality == "good" else Detector(0.12, 0.5, 0.3, 3)
    healthy = make_results(content, detector, seed=3)
    planted = [entry | plant(entry, content) for entry in healthy]
    content.pop("by_id", None)
    dataset = open_truth(content, tmp_path)
    results = read_results(write_json(planted, tmp_path / "planted.json"))
    found = " ".join(each.options for each in find_misreadings(results, dataset, results.reading))
    assert asked(found) == asked(options(changes))
    reading = replace(results.reading, **changes)
    check_reading(results, dataset, reading)
    fixed = results.detections(dataset, reading, "file")
    original = read_results(write_json(healthy, tmp_path / "healthy.json"))
    expected = original.detections(dataset, original.reading, "file")
    pd.testing.assert_frame_equal(fixed, expected, rtol=1e-6, atol=1e-6)


HEALTHY = [
    Detector(),
    Detector(noise=0.3, recall=0.5, confusion=0.5, random=20),
    # One that has learned nothing at all.
    Detector(recall=0.0, random=10),
    Detector(noise=0.02, recall=0.1, confusion=0.0, random=0),
    Detector(noise=0.5, recall=0.9, confusion=0.9, random=2, clips=False),
]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("detector", HEALTHY)
def test_healthy_files_are_left_alone(detector: Detector, seed: int, tmp_path: Path) -> None:
    """Many and few images, one class and many, ids with and without gaps, few detections, objects that fill images."""
    content = make_truth(
        seed,
        images=(4, 30, 120)[seed % 3],
        classes=(1, 2, 20)[seed % 3 - 1],
        gaps=seed % 2 == 0,
        objects=(1, 6, 12)[seed // 2 % 3],
        large=seed in (3, 7),
    )
    entries = make_results(content, detector, seed)
    if seed == 5:
        entries = entries[:3]
    dataset = open_truth(content, tmp_path)
    results = read_results(write_json(entries, tmp_path / "healthy.json"))
    assert list(find_misreadings(results, dataset, results.reading)) == []


def test_results_of_another_split_have_no_option(tmp_path: Path) -> None:
    content, other = make_truth(seed=1), make_truth(seed=2)
    dataset = open_truth(content, tmp_path)
    results = read_results(write_json(make_results(other), tmp_path / "other.json"))
    with pytest.raises(UserError, match=r"of another split, it seems; give the ground truth that"):
        check_reading(results, dataset, results.reading)


def test_results_on_more_images_and_classes_can_be_cut(tmp_path: Path) -> None:
    content = make_truth(seed=1, images=40)
    entries = make_results(content)
    less = {image["id"] for image in content["images"][:25]}
    dropped = content["categories"][-1]["id"]
    cut = {
        "images": content["images"][:25],
        "categories": content["categories"][:-1],
        "annotations": [
            each
            for each in content["annotations"]
            if each["image_id"] in less and each["category_id"] != dropped
        ],
    }
    dataset = open_truth(cut, tmp_path)
    results = read_results(write_json(entries, tmp_path / "more.json"))
    with pytest.raises(UserError, match=r"give --leave-out-unknown"):
        check_reading(results, dataset, results.reading)
    check_reading(results, dataset, results.reading, leave_out_unknown=True)
    frame = results.detections(dataset, results.reading, "file", leave_out_unknown=True)
    wanted = [e for e in entries if e["image_id"] in less and e["category_id"] != dropped]
    assert len(frame) == len(wanted)


def test_boxes_that_fit_no_reading_are_told_of(tmp_path: Path) -> None:
    content = make_truth(seed=1, images=40)
    entries = [
        entry | {"bbox": [1000 + entry["bbox"][0], *entry["bbox"][1:]]}
        for entry in make_results(content)
    ]
    dataset = open_truth(content, tmp_path)
    results = read_results(write_json(entries, tmp_path / "far.json"))
    with pytest.raises(UserError, match=r"100% of the boxes have their centre outside the image"):
        check_reading(results, dataset, results.reading)


def test_the_message_has_the_evidence(tmp_path: Path) -> None:
    content = make_truth(seed=4, images=60)
    plant, _ = MISTAKES["corners"]
    planted = [entry | plant(entry, content) for entry in make_results(content)]
    content.pop("by_id")
    dataset = open_truth(content, tmp_path)
    results = read_results(write_json(planted, tmp_path / "results.json"))
    with pytest.raises(UserError) as raised:
        check_reading(results, dataset, results.reading)
    said = str(raised.value)
    share = re.search(
        r"as xyxy (\d+)% of the boxes overlap an object, as read \(as xywh\) (\d+)%", said
    )
    assert share is not None
    assert int(share[1]) > 80
    assert int(share[2]) < 10
    assert said.endswith("give --box-format xyxy, or --as-written to read it so all the same")
