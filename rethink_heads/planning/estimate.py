"""From a calibration to a whole study: seconds, memory and disk, with the uncertainty of the seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rethink_heads.measure.measurements import SIZES
from rethink_heads.planning.calibration import Calibration, Trial
from rethink_heads.planning.counting import Counts

STANDARD_ERRORS = 2.0
# Of a single trial nothing is known of how much others would differ.
UNKNOWN_SPREAD = 0.5


@dataclass(frozen=True)
class Estimate:
    """What a study takes.

    Attributes:
        proposals: an object; None is the whole grid.
        object_seconds: by size, on one device.
        image_seconds: of an image beside its objects.
        seconds: by number of devices.
        uncertainty: share of the seconds by which they may be off, as two standard errors of the calibration.
        memory_mb: of each process, in MiB, at its most.
        device_memory_mb: of each GPU, in MiB; None on a CPU.
        disk_mb: of the measurements, in MiB.
        disk_while_measuring_mb: with the images' parts, which are there until they are merged.
    """

    proposals: int | None
    object_seconds: dict[str, float]
    image_seconds: float
    seconds: dict[int, float]
    uncertainty: float
    memory_mb: float
    device_memory_mb: float | None
    disk_mb: float
    disk_while_measuring_mb: float


def estimate(
    calibration: Calibration, counts: Counts, devices: Sequence[int], memory_bound_mb: int
) -> Estimate:
    """What a study of so many images and objects takes.

    seconds = (images x image + sum over sizes of objects x object of that size) / devices + merging, which one process
    does. Images are handed out one at a time, so no device waits longer than for one image at the end.

    Args:
        calibration: of the machine at hand.
        counts: what is measured.
        devices: numbers of devices like the one at hand.
        memory_bound_mb: ``measuring.memory_mb``, within which results are merged and analysed.
    """
    means = _means(calibration.trials)
    # A size of which there are no objects to calibrate on has none to be measured either.
    objects = {size: counts.objects[size] for size in means}
    of_objects = {size: number * means[size] for size, number in objects.items()}
    image = statistics.fmean(calibration.image_seconds)
    of_images = counts.images * image
    work = sum(of_objects.values()) + of_images
    serial = counts.images * calibration.part_seconds
    whole = work + serial
    longest = image + counts.most_objects * max(means.values())
    variance = sum(
        (value * _relative_error(calibration.trials, size)) ** 2
        for size, value in of_objects.items()
    )
    variance += (of_images * _spread(calibration.image_seconds)) ** 2 / len(
        calibration.image_seconds
    )
    merged = calibration.merged.total(counts.images, counts.all_objects)
    parts = calibration.parts.total(counts.images, counts.all_objects)
    mib = float(2**20)
    return Estimate(
        calibration.proposals,
        {size: means[size] for size in SIZES if size in means},
        image,
        {number: max(work / number, min(longest, work)) + serial for number in devices},
        STANDARD_ERRORS * math.sqrt(variance) / whole,
        max(calibration.memory_mb, calibration.base_memory_mb + memory_bound_mb),
        calibration.device_memory_mb,
        merged / mib,
        (merged + parts) / mib,
    )


def _means(trials: Sequence[Trial]) -> dict[str, float]:
    """Mean seconds by size, of the sizes that were tried."""
    by_size: dict[str, list[float]] = {}
    for trial in trials:
        by_size.setdefault(trial.size, []).append(trial.seconds)
    return {size: statistics.fmean(values) for size, values in by_size.items()}


def _relative_error(trials: Sequence[Trial], size: str) -> float:
    """Standard error of a size's mean seconds, as a share of it.

    The spread is that of the objects of a size about their mean, over all sizes; where only one of each was tried, that
    of the sizes' means.
    """
    means = _means(trials)
    count = sum(trial.size == size for trial in trials)
    within = [
        (trial.seconds / means[trial.size] - 1) ** 2 for trial in trials if means[trial.size] > 0
    ]
    freedom = len(trials) - len(means)
    spread = math.sqrt(sum(within) / freedom) if freedom else _spread(list(means.values()))
    return spread / math.sqrt(count)


def _spread(values: Sequence[float]) -> float:
    """Standard deviation as a share of the mean."""
    mean = statistics.fmean(values)
    if len(values) < 2 or mean <= 0:
        return UNKNOWN_SPREAD
    return statistics.stdev(values) / mean
