"""What a report holds of findings: objects, the boxes around them, pictures within a budget."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rethink_heads.evaluation.matching import box_ious
from rethink_heads.report.contents import Findings, absent_screens, write_report
from rethink_heads.report.heads import Heads, verdict
from rethink_heads.report.page_tables import (
    BOX_IOU,
    BOXES_EACH,
    box_table,
    density_table,
    object_heads_table,
    object_table,
    proposal_table,
)
from rethink_heads.statistics.by_iou import object_correlations
from tests.made_candidates import crowded_dataset, make_candidates
from tests.report.page_reader import KEYS, element, equal, make_findings, read_page
from tests.synthetic_measurements import synthetic_measurements


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return make_findings(tmp_path_factory.mktemp("data"))


def test_objects_are_those_that_are_to_be_found(found: Findings) -> None:
    objects = object_table(found.dataset)
    counts = found.dataset.box_counts
    assert len(objects) == counts.objects
    assert counts.crowd > 0
    assert objects["object_id"].is_unique
    assert objects["image_id"].is_monotonic_increasing
    assert set(objects["size"]) == {"small", "medium", "large"}


def test_the_best_detection_and_that_of_the_best_score_are_a_loop_s(found: Findings) -> None:
    objects = object_table(found.dataset)
    table = object_heads_table(objects, KEYS, found.dataset, detections=found.detections)
    assert len(table) == len(KEYS) * len(objects)
    assert table["object_id"].tolist() == objects["object_id"].tolist() * len(KEYS)
    names = list(found.dataset.class_names)
    assert found.detections is not None
    different = 0
    for key in KEYS:
        rows = table[(table["detector"] == key[0]) & (table["head"] == key[1])]
        for row, one in zip(rows.itertuples(), objects.itertuples(), strict=True):
            own = found.detections[found.detections["image_id"] == one.image_id]
            own = own[(own["detector"] == key[0]) & (own["head"] == key[1])]
            own = own[own["label"] == names.index(one.class_name)]
            sides = np.column_stack([own["x1"], own["y1"], own.x2 - own.x1, own.y2 - own.y1])
            ious = box_ious(sides, np.array([one.x, one.y, one.w, one.h], np.float64))
            fits = ious >= 0.5
            best = ious[fits].max() if fits.any() else np.nan
            top = ious[fits][own["score"].to_numpy()[fits].argmax()] if fits.any() else np.nan
            assert (row.best_iou, row.top_iou) == pytest.approx((best, top), abs=1e-5, nan_ok=True)
            different += best > top
    assert different > 0


def test_measurements_and_fates_are_beside_each_object(found: Findings) -> None:
    objects = object_table(found.dataset)
    table = object_heads_table(objects, KEYS, found.dataset, fates=found.fates)
    assert found.fates is not None
    own = found.fates.set_index(["detector", "head", "object_id"])["fate"]
    keys = pd.MultiIndex.from_frame(table[["detector", "head", "object_id"]])
    assert table["fate"].tolist() == own.loc[keys].tolist()

    measurements = synthetic_measurements()
    ids = measurements.objects["object_id"].tolist()
    some = object_heads_table(
        pd.DataFrame({"object_id": [*ids[:3], -5]}), measurements.keys, found.dataset, measurements
    )
    expected = object_correlations(measurements).set_index(["detector", "head", "object_id"])
    for row in some.itertuples():
        if row.object_id == -5:
            assert np.isnan(row.pcc)
        else:
            assert row.pcc == expected.loc[(row.detector, row.head, row.object_id), "pcc"]


def test_boxes_are_the_nearest_of_any_class(found: Findings) -> None:
    objects = object_table(found.dataset)
    chosen = objects["object_id"].tolist()[::3]
    boxes = box_table(found.dataset, KEYS, chosen, found.detections)
    assert set(boxes["object_id"]) <= set(chosen)
    assert boxes.groupby(["detector", "head", "object_id"]).size().max() <= BOXES_EACH
    assert boxes["iou"].min() >= BOX_IOU
    joined = boxes.merge(objects, on="object_id", suffixes=("", "_object"))
    sides = joined[list("xywh")].to_numpy(np.float64)
    of_objects = joined[[f"{name}_object" for name in "xywh"]].to_numpy(np.float64)
    assert joined["iou"].to_numpy() == pytest.approx(box_ious(sides, of_objects), abs=1e-4)
    assert (joined["class_name"] != joined["class_name_object"]).any()


def test_the_best_proposal_and_box_before_nms_are_shown(tmp_path: Path) -> None:
    dataset = crowded_dataset(tmp_path, images=12)
    candidates, key = make_candidates(dataset), ("one", "conv")
    objects = object_table(dataset)
    boxes = box_table(dataset, [key], objects["object_id"].tolist(), candidates=candidates)
    own = candidates.proposed_by("one")
    for stage, there in (("proposal", own.proposal_boxes), ("regressed", own.boxes[key])):
        best = {}
        sides = np.column_stack([there[:, :2], there[:, 2:] - there[:, :2]]).astype(np.float64)
        for row in objects.itertuples():
            label = dataset.class_names.index(row.class_name)
            near = sides[(own.images == row.image_id) & (own.labels == label)]
            ious = box_ious(near, np.array([row.x, row.y, row.w, row.h], np.float64))
            if len(ious) and ious.max() >= 0.1:
                best[row.object_id] = ious.max()
        found = boxes[boxes["stage"] == stage].set_index("object_id")["iou"]
        assert found.to_dict() == pytest.approx(best, abs=1e-5)


def test_proposals_are_sampled_and_density_adds_up_to_one() -> None:
    measurements = synthetic_measurements()
    chosen = measurements.objects["object_id"].tolist()[:4]
    proposals = proposal_table(measurements, measurements.keys, chosen)
    counts = proposals.groupby(["detector", "head", "object_id"]).size()
    assert counts.max() <= 40
    assert set(proposals["object_id"]) == set(chosen)
    density = density_table(measurements.keys, measurements)
    names = ["detector", "head", "stage", "size", "iou_bin"]
    assert density.groupby(names)["share"].sum().to_numpy() == pytest.approx(1)
    key = measurements.keys[0]
    rows = measurements.rows(key)
    column = rows[(rows["iou"] >= 0.5) & (rows["iou"] < 0.55)]
    high = column["weight"][column["score"] >= 0.95].sum() / column["weight"].sum()
    own = density[(density["detector"] == key[0]) & (density["head"] == key[1])]
    cell = own[(own["size"] == "all") & (own["iou_bin"] == 10) & (own["score_bin"] == 19)]
    assert cell["share"].sum() == pytest.approx(high)


@pytest.mark.parametrize("budget", [0.0, 0.02, 12.0])
def test_pictures_keep_to_their_budget(found: Findings, tmp_path: Path, budget: float) -> None:
    path = write_report(tmp_path / "report.html", found, crops_mb=budget)
    crops = element(path, "crops")
    assert len(crops) * 4 / 3 <= budget * 1e6
    header, tables = read_page(path)
    objects = tables["objects"]
    numbers = objects["crop"][objects["crop"] >= 0]
    assert sorted(numbers) == list(range(len(header["crops"])))
    assert (len(numbers) == len(objects)) == (budget == 12)
    start = 0
    for row, end in zip(
        objects[objects["crop"] >= 0].sort_values("crop").itertuples(), header["crops"], strict=True
    ):
        picture = Image.open(io.BytesIO(crops[start:end]))
        assert picture.width / picture.height == pytest.approx(row.crop_w / row.crop_h, rel=0.1)
        assert row.crop_x <= row.x
        assert row.crop_x + row.crop_w >= row.x + row.w - 1
        start = end


def test_the_same_report_has_the_same_bytes(found: Findings, tmp_path: Path) -> None:
    first, second = (write_report(tmp_path / f"{name}.html", found) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_tables_are_those_of_the_findings_to_the_last_digit(
    found: Findings, tmp_path: Path
) -> None:
    header, tables = read_page(write_report(tmp_path / "report.html", found, crops_mb=0))
    for name, frame in found.tables.items():
        for column in frame if len(frame) else ():
            assert equal(tables[name][column], frame[column]), (name, column)
    assert [one["label"] for one in header["series"]] == ["near", "far"]
    assert header["classes"] == list(found.dataset.class_names)
    assert any("Only 20 images" in warning for warning in header["warnings"])
    first, second, *_ = header["sentences"]
    ap = found.tables["ap"].query("metric == 'AP'").set_index("detector")["value"]
    assert first["text"].startswith(f"AP, %: near {100 * ap['near']:.1f} [")
    lost = found.tables["lost_precision"].query("detector == 'near'")
    most = lost.sort_values("share").iloc[-1]
    assert f" {100 * most['share']:.1f} [" in second["text"]
    alone = f"(fixing it alone would add {100 * (most['oracle'] - ap['near']):.1f})"
    assert alone in second["text"]


def test_a_page_says_where_pcc_within_objects_contradicts_that_of_all_proposals() -> None:
    keys = [("run", "fc"), ("run", "conv")]
    pcc = pd.DataFrame(keys, columns=["detector", "head"]).assign(size="all", iou_low=0.0)
    for name, values in (("pcc", [0.6, 0.5]), ("object_pcc", [0.7, 0.8])):
        for end, shift in (("", 0.0), ("_low", -0.01), ("_high", 0.01)):
            pcc[name + end] = np.array(values) + shift
    shared = {"size": "all", "iou_low": 0.0, "a": "run/fc", "b": "run/conv", "excludes_zero": True}
    differences = [("pcc", 0.1, 0.08, 0.12), ("object_pcc", -0.1, -0.12, -0.08)]
    names = ["statistic", "difference", "difference_low", "difference_high"]
    tables = {"pcc": pcc, "comparisons": pd.DataFrame(differences, columns=names).assign(**shared)}
    pooled, within, *_ = (each.text for each in verdict(tables, Heads(keys), percent=True))
    assert pooled.startswith("PCC of score and IoU over all predefined proposals: fc 0.600 [")
    assert pooled.endswith("fc - conv 0.100 [0.080, 0.120].")
    assert within.startswith("PCC within each object, mean of objects: conv 0.800 [")
    assert within.endswith("conv - fc 0.100 [0.080, 0.120].")


def test_untrusted_names_are_no_markup(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    found = make_findings(tmp_path / "data", images=6, class_name=evil)
    path = write_report(tmp_path / "report.html", found, title="</title><script>alert(2)</script>")
    text = path.read_text(encoding="utf-8")
    assert evil not in text
    assert "alert(2)</script>" not in text
    assert evil in read_page(path)[1]["objects"]["class_name"].tolist()


def test_linked_images_are_addressed_from_the_page(found: Findings, tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", found, crops_mb=0, link_images=True)
    header, tables = read_page(path)
    first = tables["images"].iloc[0]
    assert (path.parent / header["images"] / first["address"]).is_file()
    assert tables["images"]["image_id"].tolist() == list(found.dataset.image_ids)


def test_without_detections_or_images_the_rest_is_there(found: Findings, tmp_path: Path) -> None:
    measurements = synthetic_measurements()
    bare = dataclasses.replace(
        found,
        keys=measurements.keys,
        tables={},
        detections=None,
        fates=None,
        measurements=measurements,
    )
    header, tables = read_page(write_report(tmp_path / "report.html", bare))
    assert {"objects", "object_heads", "proposals", "score_density"} <= set(tables)
    assert "detections" not in tables
    assert header["sentences"] == []
    assert "diagnose" in absent_screens({})["lost"]
