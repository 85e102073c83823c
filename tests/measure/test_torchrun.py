"""Real processes under torchrun: one is killed, others go on, and the result is that of one process to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch.distributed

from rethink_heads.measure.detections import measure_stages
from rethink_heads.measure.stage_boxes import load_stages
from rethink_heads.measure.store import Measurements
from tests.measure.conftest import assert_same
from tests.measure.measuring_together import (
    BEFORE_THE_KILL,
    PROVENANCE,
    measure_small,
    small_dataset,
    small_detector,
)
from tests.tiny_coco import write_coco
from tests.torchrun import torchrun

IMAGES = 10

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no distributed package"
)


def identities(parts: Path) -> dict[str, Any]:
    """By part: what is another when its files are written again."""
    return {
        part.name: (part.stat().st_ino, part.stat().st_mtime_ns)
        for part in parts.iterdir()
        if part.suffix != ".json"
    }


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two processes of which one is killed, then four; elsewhere one by itself."""
    base = tmp_path_factory.mktemp("story")
    data, folder = base / "data", base / "measurements"
    write_coco(data, images=IMAGES)
    program = "tests.measure.measuring_together"
    killed = torchrun(program, data, folder, "stops")
    before = identities(folder / "parts")
    finished = torchrun(program, data, folder, "goes-on", processes=4)
    assert finished.returncode == 0, finished.stderr
    alone = measure_small(data, base / "alone")
    stages = measure_stages(
        small_detector(data), small_dataset(data), "tiny", base / "alone", PROVENANCE
    )
    return {
        "killed": killed,
        "before": before,
        "after": identities(folder / "kept-parts"),
        "finished": finished,
        "folder": folder,
        "alone": alone,
        "stages": stages,
    }


def test_a_killed_process_ends_all(story: dict[str, Any]) -> None:
    assert story["killed"].returncode != 0
    assert "Signal 9" in story["killed"].stderr


def test_what_was_unfinished_is_done_again_and_nothing_else(story: dict[str, Any]) -> None:
    before, after = story["before"], story["after"]
    complete = {name for name in before if not name.startswith(".")}
    # Both had made parts, and the one that was killed had begun another.
    assert len(complete) == 2 * BEFORE_THE_KILL
    assert len(before) == len(complete) + 1
    assert set(after) == {str(number) for number in range(1, IMAGES + 1)}
    assert {name for name in after if after[name] == before.get(name)} == complete


def test_the_result_is_that_of_one_process_to_the_bit(story: dict[str, Any]) -> None:
    alone = story["alone"]
    assert len(alone.objects) == IMAGES
    assert_same(Measurements.load(story["folder"]), alone)
    boxes, _ = load_stages(story["folder"])
    assert set(boxes["stage"]) == {"rpn", "detections"}
    pd.testing.assert_frame_equal(boxes, story["stages"], check_exact=True)


def test_the_first_has_the_measurements_and_all_have_the_boxes(story: dict[str, Any]) -> None:
    boxes = len(story["stages"])
    assert sorted(story["finished"].stdout.splitlines()) == [
        f"rank 0: {IMAGES} objects, {boxes} boxes",
        f"rank 1: 0 objects, {boxes} boxes",
        f"rank 2: 0 objects, {boxes} boxes",
        f"rank 3: 0 objects, {boxes} boxes",
    ]


def test_one_process_reports_what_all_have_done(story: dict[str, Any]) -> None:
    lines = [line for line in story["finished"].stderr.splitlines() if "measuring tiny:" in line]
    assert lines[0].endswith("4/10 images done by an earlier run")
    assert "10/10 images (100%), 6 objects" in lines[-1]
    assert len(lines) == len(set(lines))
