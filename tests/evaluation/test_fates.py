"""Fates of objects and the recall ladder against a loop over every object, and pycocotools' matching."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import batched_nms

from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from rethink_heads.evaluation.fates import (
    FATES,
    FILE_FATES,
    compare_fates,
    detection_fates,
    fate_counts,
    fate_tables,
    object_fates,
    write_object_fates,
)
from rethink_heads.evaluation.ladder import IOU_NAMES, STAGES, recall_ladder
from rethink_heads.files import read_csv, read_parquet
from rethink_heads.measure.candidates import Candidates
from rethink_heads.measure.detections import DETECTION_TYPES, in_order
from rethink_heads.measure.store import Key
from tests.made_detections import as_results

KEY: Key = ("one", "fc")


@pytest.fixture(scope="module")
def fates(candidates: Candidates, dataset: CocoDataset) -> pd.DataFrame:
    return object_fates(candidates, dataset)


def iou(box: Any, bbox: list[float]) -> float:
    """Of x1, y1, x2, y2 with x, y, width, height."""
    a = [float(v) for v in box]
    b = [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]]
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    common = max(w, 0) * max(h, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + bbox[2] * bbox[3] - common)


@dataclass
class Box:
    """A candidate of a detector's own proposals in one image."""

    proposal: Any
    label: int
    score: float
    box: Any
    outcome: str = "rejected"
    suppressor: Box | None = None


@dataclass
class Loop:
    """One head followed box by box; detections as a frame in falling order of score."""

    images: dict[int, list[Box]]
    detections: pd.DataFrame
    objects: list[dict[str, Any]] = field(default_factory=list)


def followed_by_hand(candidates: Candidates, dataset: CocoDataset, key: Key) -> Loop:
    rule = candidates.rule(key[0])
    images: dict[int, list[Box]] = {image_id: [] for image_id in dataset.image_ids}
    for row in np.flatnonzero(candidates.ranks[key[0]] >= 0):
        images[int(candidates.images[row])].append(
            Box(
                candidates.proposal_boxes[row].tolist(),
                int(candidates.labels[row]),
                float(candidates.scores[key][row]),
                candidates.boxes[key][row].tolist(),
            )
        )
    rows = []
    for image_id, boxes in images.items():
        passing = [box for box in boxes if np.float32(box.score) > np.float32(rule.score_threshold)]
        if not passing:
            continue
        corners = torch.tensor([box.box for box in passing])
        kept = batched_nms(
            corners,
            torch.tensor([box.score for box in passing]),
            torch.tensor([box.label for box in passing]),
            rule.nms_iou,
        ).tolist()
        survivors = [passing[place] for place in kept]
        for box in passing:
            box.outcome = "suppressed"
            for other in survivors:
                x1, y1, x2, y2 = other.box
                overlap = iou(box.box, [x1, y1, x2 - x1, y2 - y1])
                if other is not box and other.label == box.label and overlap > rule.nms_iou:
                    box.suppressor = other
                    break
        survivors.sort(key=lambda box: -box.score)
        for place, box in enumerate(survivors):
            box.outcome = "detected" if place < rule.most else "cut"
            box.suppressor = None
            if place < rule.most:
                rows.append([image_id, *key, box.label, *box.box, box.score])
    frame = pd.DataFrame(rows, columns=list(DETECTION_TYPES)).astype(DETECTION_TYPES)
    return Loop(images, in_order(frame))


def matched_by_pycocotools(
    detections: pd.DataFrame, dataset: CocoDataset, threshold: float
) -> dict[int, tuple[float, int, float]]:
    """By object that is found: the score of its detection, its rank and interpolated precision in its class."""
    path = dataset.annotations_path
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(as_results(detections, dataset)), "bbox")
        evaluation.params.iouThrs = np.array([threshold])
        evaluation.evaluate()
    found = {}
    for category in dataset.category_ids:
        ranking = []
        for each in evaluation.evalImgs:
            if each is None or each["category_id"] != category:
                continue
            if each["aRng"] != evaluation.params.areaRng[0]:
                continue
            for place, score in enumerate(each["dtScores"]):
                if not each["dtIgnore"][0, place]:
                    match = int(each["dtMatches"][0, place])
                    ranking.append((-score, each["image_id"], place, match))
        # By falling score, those of equal score by image.
        ranking.sort()
        true = np.array([match > 0 for *_, match in ranking])
        precision = true.cumsum() / np.arange(1, len(true) + 1)
        for place, (negative, _, _, match) in enumerate(ranking):
            if match > 0:
                found[match] = (-negative, place + 1, float(precision[place:].max()))
    return found


def fates_by_hand(
    candidates: Candidates, dataset: CocoDataset, key: Key, threshold: float
) -> list[dict[str, Any]]:
    loop = followed_by_hand(candidates, dataset, key)
    found = matched_by_pycocotools(loop.detections, dataset, threshold)
    annotations = json.loads(dataset.annotations_path.read_text())["annotations"]
    names = ("suppressor_score", "suppressor_iou", "suppressor_object", "rank", "precision")
    rows = []
    for each in annotations:
        if each["iscrowd"]:
            continue
        label = dataset.category_ids.index(each["category_id"])
        boxes = loop.images[each["image_id"]]
        own = [box for box in boxes if box.label == label]
        best = {
            "proposals": [iou(b.proposal, each["bbox"]) for b in own],
            "regressed": [iou(b.box, each["bbox"]) for b in own],
            "classified": [iou(b.box, each["bbox"]) for b in own if b.outcome != "rejected"],
            "after_nms": [
                iou(b.box, each["bbox"]) for b in own if b.outcome in ("cut", "detected")
            ],
            "detections": [iou(b.box, each["bbox"]) for b in own if b.outcome == "detected"],
        }
        row: dict[str, Any] = {"object_id": each["id"], "other_class": "", "other_score": np.nan}
        row |= dict.fromkeys(names, np.nan)
        row |= {f"iou_{stage}": max(ious, default=0.0) for stage, ious in best.items()}
        fitting = [box for box in own if iou(box.box, each["bbox"]) >= threshold]
        others = []
        for box in boxes:
            if box.label == label or box.outcome == "rejected":
                continue
            overlap = iou(box.box, each["bbox"])
            rivals = [
                iou(box.box, a["bbox"])
                for a in annotations
                if a["image_id"] == each["image_id"] and not a["iscrowd"]
                and dataset.category_ids.index(a["category_id"]) == box.label
            ]  # fmt: skip
            if overlap >= threshold and overlap > max(rivals, default=0.0):
                others.append(box)
        row["score"] = max((box.score for box in fitting), default=np.nan)
        outcomes = {box.outcome for box in fitting}
        if each["id"] in found:
            row["score"], row["rank"], row["precision"] = found[each["id"]]
            row["fate"] = "outranked" if row["precision"] < 0.5 else "found"
        elif "detected" in outcomes:
            row["fate"] = "taken"
        elif "cut" in outcomes:
            row["fate"] = "cut"
        elif "suppressed" in outcomes:
            row["fate"] = "suppressed"
            best_box = max(
                (box for box in fitting if box.outcome == "suppressed"), key=lambda box: box.score
            )
            by = best_box.suppressor
            assert by is not None
            row["suppressor_score"], row["suppressor_iou"] = by.score, iou(by.box, each["bbox"])
            fits = [
                (iou(by.box, a["bbox"]), a["id"])
                for a in annotations
                if a["image_id"] == each["image_id"] and not a["iscrowd"]
                and a["category_id"] == each["category_id"]
                and iou(by.box, a["bbox"]) >= threshold
            ]  # fmt: skip
            row["suppressor_object"] = max(fits)[1] if fits else -1
        elif fitting and others:
            row["fate"] = "wrong_class"
            top = max(others, key=lambda box: box.score)
            row["other_class"] = dataset.class_names[top.label]
            row["other_score"] = top.score
        elif fitting:
            row["fate"] = "below_threshold"
        else:
            row["fate"] = "regressed_away" if row["iou_proposals"] >= threshold else "no_proposal"
        rows.append(row)
    return rows


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_every_fate_is_that_of_a_loop_over_the_boxes(
    candidates: Candidates, dataset: CocoDataset, threshold: float
) -> None:
    found = object_fates(candidates, dataset, iou_threshold=threshold)
    seen: set[str] = set()
    for key in candidates.keys:
        own = found[(found["detector"] == key[0]) & (found["head"] == key[1])]
        expected = pd.DataFrame(fates_by_hand(candidates, dataset, key, threshold))
        own = own.set_index("object_id").loc[expected["object_id"]].reset_index()
        assert own["fate"].tolist() == expected["fate"].tolist()
        assert own["other_class"].tolist() == expected["other_class"].fillna("").tolist()
        for name in (
            *(f"iou_{stage}" for stage in STAGES),
            "score", "rank", "precision", "suppressor_score", "suppressor_iou", "other_score",
        ):  # fmt: skip
            np.testing.assert_allclose(own[name], expected[name], rtol=1e-6, err_msg=name)
        its_object = expected["suppressor_object"].fillna(-1).astype(int)
        assert own["suppressor_object"].tolist() == its_object.tolist()
        seen |= {*own["fate"]}
    assert seen == {*FATES}


def test_the_ladder_is_that_of_a_loop_over_the_boxes(
    candidates: Candidates, dataset: CocoDataset
) -> None:
    found = recall_ladder(candidates, dataset, replicates=20)
    rows = found[(found["detector"] == KEY[0]) & (found["head"] == KEY[1])]
    rows = rows[rows["size"] == "all"].set_index(["stage", "iou"])
    recalls: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for name in IOU_NAMES[:-1]:
        threshold = float(name)
        objects = fates_by_hand(candidates, dataset, KEY, threshold)
        for stage in STAGES[:-1]:
            there = [row[f"iou_{stage}"] >= threshold for row in objects]
            recalls[stage].append(float(np.mean(there)))
        found_there = [row["fate"] in ("found", "outranked") for row in objects]
        recalls["detections"].append(float(np.mean(found_there)))
    for stage, values in recalls.items():
        for name, value in zip(IOU_NAMES, [*values, np.mean(values)], strict=True):
            assert rows.loc[(stage, name), "recall"] == pytest.approx(value)
    means = [float(np.mean(recalls[stage])) for stage in STAGES]
    assert means[1] > means[2] > means[3] > means[4] > 0


def test_files_tell_what_became_of_the_objects_that_are_detected(
    candidates: Candidates, dataset: CocoDataset, fates: pd.DataFrame
) -> None:
    detections = followed_by_hand(candidates, dataset, KEY).detections
    found = detection_fates(detections, dataset).set_index("object_id")
    own = fates[(fates["detector"] == KEY[0]) & (fates["head"] == KEY[1])].set_index("object_id")
    assert {*found["fate"]} == {*FILE_FATES}
    for fate in ("found", "outranked", "taken"):
        assert {*found.index[found["fate"] == fate]} == {*own.index[own["fate"] == fate]}
    np.testing.assert_allclose(found["iou_detections"], own["iou_detections"], rtol=1e-6)
    assert (found["iou_detections"][found["fate"] == "missed"] < 0.1).all()
    assert found["iou_detections"][found["fate"] == "not_localized"].between(0.1, 0.5).all()
    wrong = found[found["fate"] == "wrong_class"]
    for object_id, row in wrong.iterrows():
        image = detections[detections["image_id"] == row["image_id"]]
        names = np.array(dataset.class_names)[image["label"]]
        same = image[(names == row["other_class"]) & (image["score"] == row["other_score"])]
        annotation = next(
            a
            for a in json.loads(dataset.annotations_path.read_text())["annotations"]
            if a["id"] == object_id
        )
        ious = [iou(box, annotation["bbox"]) for box in same[["x1", "y1", "x2", "y2"]].to_numpy()]
        assert max(ious) >= 0.5
        assert row["other_class"] != row["class_name"]


def test_counts_add_up_and_compare_the_same_objects(
    candidates: Candidates, dataset: CocoDataset, fates: pd.DataFrame
) -> None:
    counts = fate_counts(fates, dataset, replicates=200)
    for _, group in counts.groupby(["detector", "head", "size", "class_name"]):
        assert group["fate"].tolist() == list(FATES)
        assert group["count"].sum() == group["objects"].iloc[0]
        np.testing.assert_allclose(group["share"], group["count"] / group["objects"])
    found = counts.query("size == 'small' and class_name == 'all' and head == 'conv'")
    own = fates.query("size == 'small' and head == 'conv'")
    for row in found.itertuples():
        assert row.count == (own["fate"] == row.fate).sum()
    a, b = candidates.keys[:2]
    compared = compare_fates(fates, dataset, a, b, replicates=200)
    whole = compared.query("size == 'all' and class_name == 'all'").set_index("fate")
    shares = counts.query("size == 'all' and class_name == 'all'").set_index(["head", "fate"])
    one = shares[shares["detector"] == "one"]["share"]
    for fate, row in whole.iterrows():
        assert row["difference"] == pytest.approx(one["fc", fate] - one["conv", fate])
    same = compare_fates(fates, dataset, a, a, replicates=200)
    assert (same["difference"] == 0).all()
    assert not same["excludes_zero"].any()


def test_tables_are_those_of_the_functions(candidates: Candidates, dataset: CocoDataset) -> None:
    a, b = candidates.keys[:2]
    tables = fate_tables(candidates, dataset, [(a, b)], replicates=50, seed=3)
    fates = object_fates(candidates, dataset)
    expected = {
        "object_fates": fates,
        "fates": fate_counts(fates, dataset, replicates=50, seed=3),
        "recall_ladder": recall_ladder(candidates, dataset, replicates=50, seed=3),
        "fate_comparisons": compare_fates(fates, dataset, a, b, replicates=50, seed=3),
    }
    assert {*tables} == {*expected, "recall_ladder_comparisons"}
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(tables[name], frame)
    ladder = tables["recall_ladder"].query("size == 'all' and detector == 'one'")
    differences = tables["recall_ladder_comparisons"].query("size == 'all'")
    recalls = [ladder[ladder["head"] == head]["recall"].to_numpy() for head in ("fc", "conv")]
    np.testing.assert_allclose(differences["difference"], recalls[0] - recalls[1])
    # The same proposals, so no difference and no interval there.
    proposals = differences[differences["stage"] == "proposals"]
    assert (proposals["difference"] == 0).all()
    assert not proposals["excludes_zero"].any()
    with pytest.raises(UserError, match="no candidates of one/double; there are those of one/fc"):
        fate_tables(candidates, dataset, [(a, ("one", "double"))], replicates=5)


def test_objects_fates_are_read_again(fates: pd.DataFrame, tmp_path: Path) -> None:
    text, table = write_object_fates(fates, tmp_path)
    pd.testing.assert_frame_equal(read_parquet(table)[0], fates)
    again = read_csv(text)
    assert again.columns.tolist() == fates.columns.tolist()
    np.testing.assert_array_equal(again["iou_regressed"], fates["iou_regressed"])
