"""From calibrations to estimates: the arithmetic, on numbers that were made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink_heads.planning.calibration import Calibration, Trial
from rethink_heads.planning.counting import Counts
from rethink_heads.planning.estimate import estimate
from rethink_heads.planning.file_sizes import Bytes

COUNTS = Counts(
    images=10, empty_images=2, objects={"small": 20, "medium": 5, "large": 0}, most_objects=4
)


def calibration(trials: list[Trial], image_seconds: list[float]) -> Calibration:
    return Calibration(
        proposals=None,
        trials=trials,
        image_seconds=image_seconds,
        part_seconds=0.5,
        merged=Bytes(2.0**20, 0.0, 2.0**20),
        parts=Bytes(0.0, 2.0**20, 2.0**20),
        base_memory_mb=300.0,
        memory_mb=700.0,
        device_memory_mb=None,
    )


def test_seconds_memory_and_disk_add_up() -> None:
    trials = [Trial("small", 2.0), Trial("medium", 4.0), Trial("small", 2.0), Trial("medium", 4.0)]
    found = estimate(calibration(trials, [1.0, 1.0]), COUNTS, (1, 2, 1000), memory_bound_mb=512)
    assert found.object_seconds == {"small": 2.0, "medium": 4.0}
    work, merging, longest = 10 * 1.0 + 20 * 2.0 + 5 * 4.0, 10 * 0.5, 1.0 + 4 * 4.0
    assert found.seconds == {1: work + merging, 2: work / 2 + merging, 1000: longest + merging}
    assert found.uncertainty == 0
    assert found.memory_mb == 300 + 512
    assert (found.disk_mb, found.disk_while_measuring_mb) == (1 + 25, 1 + 25 + 10 + 25)


def test_the_peak_that_was_seen_is_the_least_memory() -> None:
    found = estimate(calibration([Trial("small", 1.0)], [1.0]), COUNTS, (1,), memory_bound_mb=10)
    assert found.memory_mb == 700


def test_uncertainty_is_two_standard_errors_of_the_mean() -> None:
    only_small = Counts(
        images=0, empty_images=0, objects={"small": 8, "medium": 0, "large": 0}, most_objects=8
    )
    trials = [Trial("small", 1.0), Trial("small", 3.0)]
    found = estimate(calibration(trials, [1.0, 1.0]), only_small, (1,), 1)
    # A standard deviation of sqrt(2) about a mean of 2, from two objects.
    assert found.uncertainty == pytest.approx(2 * (2**0.5 / 2) / 2**0.5)


def test_one_object_says_little_of_others() -> None:
    one = estimate(calibration([Trial("small", 1.0)], [1.0]), COUNTS, (1,), 1)
    alike = [Trial("small", 1.0)] * 4
    assert one.uncertainty > estimate(calibration(alike, [1.0] * 4), COUNTS, (1,), 1).uncertainty


@given(
    seconds=st.lists(st.floats(0.01, 100), min_size=1, max_size=6),
    image=st.floats(0.01, 10),
    devices=st.lists(st.integers(1, 1000), min_size=2, max_size=5, unique=True),
)
def test_more_devices_are_never_slower_nor_faster_than_their_number(
    seconds: list[float], image: float, devices: list[int]
) -> None:
    trials = [Trial("small", value) for value in seconds] + [Trial("medium", seconds[0])]
    found = estimate(calibration(trials, [image]), COUNTS, [1, *devices], 512).seconds
    for number in devices:
        assert found[number] <= found[1] * (1 + 1e-12)
        assert found[number] * number >= found[1] * (1 - 1e-12)
