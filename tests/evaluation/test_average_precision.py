"""AP against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import AP_NAMES, average_precision


def random_detections(annotations: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Shaken copies of most objects, some of a wrong class, and boxes on nothing."""
    generator = np.random.default_rng(seed)
    categories = [category["id"] for category in annotations["categories"]]
    detections = []
    for annotation in annotations["annotations"]:
        for _ in range(generator.integers(0, 3)):
            x, y, w, h = annotation["bbox"]
            shake = generator.normal(scale=0.08, size=4) * [w, h, w, h]
            box = np.array([x, y, w, h]) + shake
            right = generator.random() < 0.8
            category = annotation["category_id"] if right else generator.choice(categories)
            found = {"image_id": annotation["image_id"], "category_id": int(category)}
            box[2:] = np.maximum(box[2:], 1)
            score = float(np.clip(generator.normal(0.6 if right else 0.4, 0.2), 0.05, 1))
            detections.append({**found, "bbox": box.tolist(), "score": score})
    for image in annotations["images"]:
        corner = generator.random(2) * [image["width"] / 2, image["height"] / 2]
        box = [*corner, *(generator.random(2) * 80 + 5)]
        found = {"image_id": image["id"], "category_id": int(generator.choice(categories))}
        detections.append({**found, "bbox": [float(v) for v in box], "score": 0.3})
    return detections


def reference(
    path: Path, detections: list[dict[str, Any]], image_ids: list[int] | None
) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(AP_NAMES, evaluation.stats[:6], strict=True))
    return {name: float("nan") if value < 0 else float(value) for name, value in values.items()}


def annotation_files(shared_data: Path) -> list[Path]:
    files = sorted(shared_data.glob("*/annotations/instances_*.json"))
    assert files
    return sorted(files, key=lambda file: file.stat().st_size)[:2]


@pytest.mark.parametrize("part", [False, True])
def test_equal_to_pycocotools_on_real_annotations(
    shared_data: Path, part: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed, path in enumerate(annotation_files(shared_data)):
        annotations = json.loads(path.read_text())
        detections = random_detections(annotations, seed)
        image_ids = [image["id"] for image in annotations["images"]][::2] if part else None
        expected = reference(path, detections, image_ids)
        capfd.readouterr()
        found = average_precision(path, detections, image_ids)
        assert capfd.readouterr() == ("", "")
        assert 0.05 < found["AP"] < 0.95
        assert list(found) == list(AP_NAMES)
        np.testing.assert_array_equal(list(found.values()), list(expected.values()))


@pytest.fixture
def two_boxes(tmp_path: Path) -> Path:
    """One image with a small and a medium object of one class, and another image without."""
    objects = [
        {"id": 1, "bbox": [10, 10, 20, 20], "area": 400},
        {"id": 2, "bbox": [50, 50, 60, 60], "area": 3600},
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 200} for i in (1, 2)],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{**o, "image_id": 1, "category_id": 3, "iscrowd": 0} for o in objects],
    }
    path = tmp_path / "instances_val.json"
    path.write_text(json.dumps(content))
    return path


def test_perfect_detections_have_ap_one_and_missing_sizes_are_nan(two_boxes: Path) -> None:
    boxes = ([10, 10, 20, 20], [50, 50, 60, 60])
    detections = [{"image_id": 1, "category_id": 3, "bbox": box, "score": 0.9} for box in boxes]
    found = average_precision(two_boxes, detections)
    assert np.isnan(found.pop("APl"))
    assert found == pytest.approx(dict.fromkeys(found, 1.0))


def test_no_detections_have_ap_zero(two_boxes: Path) -> None:
    found = average_precision(two_boxes, [])
    assert np.isnan(found.pop("APl"))
    assert found == dict.fromkeys(found, 0.0)


def test_images_without_objects_have_no_ap(two_boxes: Path) -> None:
    assert np.isnan(list(average_precision(two_boxes, [], image_ids=[2]).values())).all()


def test_annotations_left_out_are_not_missed(two_boxes: Path) -> None:
    content = json.loads(two_boxes.read_text())
    for object_id, box in ((3, [5, 5, 0, 0]), (4, [500, 5, 20, 20])):
        record = {**content["annotations"][0], "id": object_id, "bbox": box}
        content["annotations"].append(record)
    two_boxes.write_text(json.dumps(content))
    boxes = ([10, 10, 20, 20], [50, 50, 60, 60])
    detections = [{"image_id": 1, "category_id": 3, "bbox": box, "score": 0.9} for box in boxes]
    assert average_precision(two_boxes, detections)["AP"] < 0.6
    found = average_precision(two_boxes, detections, left_out={3, 4})
    assert [found[name] for name in ("AP", "APs", "APm")] == pytest.approx([1.0] * 3)


def test_leaving_out_is_as_if_the_file_lacked_them(shared_data: Path, tmp_path: Path) -> None:
    path = annotation_files(shared_data)[0]
    content = json.loads(path.read_text())
    detections = random_detections(content, 5)
    gone = {annotation["id"] for annotation in content["annotations"][::7]}
    kept = [a for a in content["annotations"] if a["id"] not in gone]
    (tmp_path / "kept.json").write_text(json.dumps({**content, "annotations": kept}))
    expected = reference(tmp_path / "kept.json", detections, None)
    found = average_precision(path, detections, left_out=gone)
    np.testing.assert_array_equal(list(found.values()), list(expected.values()))


def test_bad_input_is_named(two_boxes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such annotation file: .*gone"):
        average_precision(tmp_path / "gone.json", [])
    (tmp_path / "text.json").write_text("no JSON")
    with pytest.raises(UserError, match=r"text\.json is not JSON"):
        average_precision(tmp_path / "text.json", [])
    unknown = {"image_id": 77, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.5}
    with pytest.raises(UserError, match=r"1 images with detections are not in .*first: 77"):
        average_precision(two_boxes, [unknown])
