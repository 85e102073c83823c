"""plan and its command: the arithmetic on made-up numbers, and against a small study that is really measured."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.config import Config, MeasuringConfig, load_preset
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import split_paths
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.measure.runner import measure
from rethink_heads.planning import (
    Calibration,
    Counts,
    calibrate,
    count,
    estimate,
    peak_mb,
    restart_peak,
)
from tests.command_line import call, call_json, fails, untrained_run
from tests.tiny_coco import CLASSES, SMALL_SETTINGS, write_annotations, write_coco

IMAGES, OBJECTS_OF_LAST = 10, 5
DISK_TOLERANCE = 0.2

COUNTS = Counts(
    images=10, empty_images=2, objects={"small": 20, "medium": 5, "large": 0}, most_objects=4
)


def calibration(image_seconds: list[float], **object_seconds: list[float]) -> Calibration:
    return Calibration(
        proposals=None,
        object_seconds=object_seconds,
        image_seconds=image_seconds,
        part_seconds=0.5,
        fixed_bytes=2.0**20,
        object_bytes=2.0**20,
        part_bytes=2.0**21,
        base_memory_mb=300.0,
        memory_mb=700.0,
    )


def test_seconds_memory_and_disk_add_up() -> None:
    tried = calibration([1.0, 1.0], medium=[4.0, 4.0], small=[2.0, 2.0])
    found = estimate(tried, COUNTS, (1, 2, 1000), memory_bound_mb=512)
    assert found.object_seconds == {"small": 2.0, "medium": 4.0}
    work, merging, longest = 10 * 1.0 + 20 * 2.0 + 5 * 4.0, 10 * 0.5, 1.0 + 4 * 4.0
    assert found.seconds == {1: work + merging, 2: work / 2 + merging, 1000: longest + merging}
    assert found.uncertainty == 0
    assert found.memory_mb == 300 + 512
    # The peak that was seen is the least.
    assert estimate(tried, COUNTS, (1,), memory_bound_mb=10).memory_mb == 700
    assert (found.disk_mb, found.disk_while_measuring_mb) == (1 + 25, 1 + 25 + 2 * 25)


def test_uncertainty_is_two_standard_errors_of_the_mean() -> None:
    only_small = Counts(
        images=0, empty_images=0, objects={"small": 8, "medium": 0, "large": 0}, most_objects=8
    )
    found = estimate(calibration([1.0, 1.0], small=[1.0, 3.0]), only_small, (1,), 1)
    # A standard deviation of sqrt(2) about a mean of 2, from two objects.
    assert found.uncertainty == pytest.approx(2 * (2**0.5 / 2) / 2**0.5)


def test_one_object_says_little_of_others() -> None:
    one = estimate(calibration([1.0], small=[1.0]), COUNTS, (1,), 1)
    same = estimate(calibration([1.0] * 4, small=[1.0] * 4), COUNTS, (1,), 1)
    assert one.uncertainty > same.uncertainty


@settings(deadline=None)
@given(
    seconds=st.lists(st.floats(0.01, 100), min_size=1, max_size=6),
    image=st.floats(0.01, 10),
    devices=st.lists(st.integers(1, 1000), min_size=2, max_size=5, unique=True),
)
def test_more_devices_are_never_slower_nor_faster_than_their_number(
    seconds: list[float], image: float, devices: list[int]
) -> None:
    tried = calibration([image], small=seconds, medium=seconds[:1])
    found = estimate(tried, COUNTS, [1, *devices], 512).seconds
    for number in devices:
        assert found[number] <= found[1] * (1 + 1e-12)
        assert found[number] * number >= found[1] * (1 - 1e-12)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_peak_is_forgotten() -> None:
    start = restart_peak(torch.device("cpu"))
    # Pages of its own: an allocator may answer with memory that the process already holds.
    with mmap.mmap(-1, 200 * 2**20) as block:
        for _ in range(200):
            block.write(b"1" * 2**20)
    assert peak_mb() - start > 190
    after = restart_peak(torch.device("cpu"))
    assert after - start < 50
    assert peak_mb() - after < 50


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images: the last has five objects of all sizes, the first none."""
    folder = tmp_path_factory.mktemp("data")
    content = write_coco(folder, images=IMAGES)
    areas = (10, 1500, 2000, 10_000)
    last = content["annotations"][-1]
    more = [{**last, "id": 100 + place, "area": area} for place, area in enumerate(areas)]
    content["annotations"] = [*content["annotations"][1:], *more]
    write_annotations(folder, content)
    return folder


@pytest.fixture(scope="module")
def config(data: Path) -> Config:
    return load_preset("shapes-tiny", "fc", [*SMALL_SETTINGS, f"data.source={data}"])


@pytest.fixture(scope="module")
def detector(config: Config) -> RCNN:
    torch.manual_seed(0)
    return build_detector(config, CLASSES).eval()


@pytest.fixture(scope="module")
def dataset(config: Config) -> CocoDataset:
    return CocoDataset(*split_paths(config.data, "test"))


@pytest.mark.parametrize("settings", [{}, {"objects_per_image": 2}, {"images": 4}])
def test_counts_are_those_of_what_is_measured(
    detector: RCNN, dataset: CocoDataset, settings: dict[str, int]
) -> None:
    own = MeasuringConfig(grid_steps=3, images=settings.get("images", IMAGES), rows_per_bin=0)
    own = own.model_copy(update=settings)
    counts = count(dataset, own, seed=3)
    objects = measure(detector, dataset, config=own, seed=3, progress=False).objects
    by_size = objects["size"].value_counts().to_dict()
    assert {size: number for size, number in counts.objects.items() if number} == by_size
    assert counts.all_objects == len(objects)
    assert counts.images == objects["image_id"].nunique()
    assert counts.images + counts.empty_images == own.images
    assert counts.most_objects == objects["image_id"].value_counts().max()


def test_disk_is_that_of_a_real_run(
    detector: RCNN, dataset: CocoDataset, config: Config, tmp_path: Path
) -> None:
    own = config.measuring.model_copy(update={"images": None})
    (tried,) = calibrate(detector, dataset, own, [None], budget=0.0)
    assert set(tried.object_seconds) == {"small", "medium", "large"}
    counts = count(dataset, own, seed=0)
    found = estimate(tried, counts, (1, 2), own.memory_mb)
    measure(detector, dataset, "run", own, 0, tmp_path / "measured", progress=False)
    real = sum(path.stat().st_size for path in (tmp_path / "measured").iterdir()) / 2**20
    assert found.disk_mb == pytest.approx(real, rel=DISK_TOLERANCE)
    assert found.disk_while_measuring_mb > found.disk_mb
    assert found.seconds[1] > found.seconds[2] > 0
    assert found.memory_mb > 100


def test_calibration_goes_on_while_there_is_time(detector: RCNN, dataset: CocoDataset) -> None:
    own = MeasuringConfig(grid_steps=3, rows_per_bin=0)
    short, long = (
        calibrate(detector, dataset, own, [20], budget=budget)[0] for budget in (0.0, 600.0)
    )
    assert len(short.image_seconds) == 3
    assert len(long.image_seconds) > len(short.image_seconds)
    assert short.proposals == long.proposals == 20


def planned(*arguments: object) -> dict[str, object]:
    tables = call_json("plan", *arguments, "--seconds", "0")["tables"]
    return {**tables["study"][0], "estimates": tables["estimates"]}


def test_a_preset_is_planned_for_all_proposals_and_samples(data: Path) -> None:
    found = planned("shapes-tiny", "--head", "conv", "--data", data, *SMALL_SETTINGS)
    assert (found["images"], found["images_without_objects"]) == (9, 1)
    assert found["objects"] == {"small": 10, "medium": 2, "large": 1, "all": 13}
    assert (found["heads"], found["grid"]) == (["conv"], 81)
    estimates = found["estimates"]
    assert isinstance(estimates, list)
    assert [each["proposals"] for each in estimates] == [None, 8, 2]
    assert all(list(each["seconds"]) == ["1", "2", "4", "8"] for each in estimates)


def test_a_network_of_timm_is_planned_for_like_a_resnet(data: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    backbone = ("model.backbone=timm:test_resnet", "model.backbone_weights=none")
    arguments = ("--head", "fc", "--data", data, *SMALL_SETTINGS, *backbone, "model.fpn_norm=none")
    found = planned("voc-lite", *arguments)
    assert (found["heads"], found["grid"]) == (["fc"], 81)
    estimates = found["estimates"]
    assert isinstance(estimates, list)
    assert all(each["seconds"]["1"] > each["seconds"]["2"] > 0 for each in estimates)
    assert not list(data.rglob("*.pt"))


def test_a_run_is_planned_for_what_is_asked(config: Config, tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", config)
    before = sorted(tmp_path.rglob("*"))
    found = planned("--run", run.path, "--proposals-per-object", 40, "--devices", 16)
    (only,) = found["estimates"]  # type: ignore[misc]
    assert only["proposals"] == 40
    assert list(only["seconds"]) == ["1", "16"]
    assert sorted(tmp_path.rglob("*")) == before


def test_tables_name_all_that_was_asked_for(data: Path) -> None:
    arguments = ["shapes-tiny", "--head", "fc", "--data", str(data), *SMALL_SETTINGS]
    output = call("plan", *arguments, "--seconds", "0")
    for text in ("9 images with 13 objects", "81 (all)", "8 (1/10.1)", "8 devices", "disk (MiB)"):
        assert text in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give one preset, one --run or one --model"),
        (["shapes-tiny", "--run", "somewhere"], "give one preset, one --run or one --model"),
        (["shapes-tiny", "coco-r50"], "give one preset, and settings as KEY=VALUE"),
        (["--run", "somewhere", "--head", "fc"], "--head belongs to a preset"),
        (["shapes-tiny", "--data", "nowhere"], "no such data folder"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments: list[str], says: str) -> None:
    fails("plan", *arguments, says=says)
