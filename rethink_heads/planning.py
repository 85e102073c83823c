"""What a study will take, before it is begun: seconds, memory and disk, from a few objects measured on this machine.

Images and objects are counted from the annotation file. One object of each size at a time, each in another image, is
measured as a study would measure it, from reading the image to the merged files, under each number of proposals that is
planned for; again with other objects while a budget of time lasts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.base import Detector
from rethink_heads.errors import UserError
from rethink_heads.measure.by_image import provenance_of
from rethink_heads.measure.responses import Responder, weight_correlations
from rethink_heads.measure.runner import ObjectMeasurer
from rethink_heads.measure.sampling import choose, generator
from rethink_heads.measure.store import SIZES, Measurements, size_name
from rethink_heads.measure.store_files import join_parts, write_part

Argument = TypeVar("Argument")
Result = TypeVar("Result")

MIB = 2**20
FLOAT_BYTES = 4
WARM_UP_PROPOSALS = 200
BUDGET_SECONDS = 60.0
MOST_ROUNDS = 5
STANDARD_ERRORS = 2.0
# Relative standard deviation where a single trial says nothing of how much others would differ.
UNKNOWN_SPREAD = 0.5


@dataclass(frozen=True)
class Counts:
    """What is to be measured.

    Attributes:
        images: that hold a measured object.
        empty_images: without one; they are read and nothing else.
        objects: by size.
        most_objects: of one image.
    """

    images: int
    empty_images: int
    objects: Mapping[str, int]
    most_objects: int

    @property
    def all_objects(self) -> int:
        return sum(self.objects.values())


@dataclass
class Calibration:
    """What measuring with one number of proposals takes on this machine.

    Attributes:
        proposals: an object; None is the whole grid.
        object_seconds: of each object that was tried, by size, beside reading its image and its features.
        image_seconds: of reading an image and of its features, one for each object that was tried.
        part_seconds: of writing an image's part, and of merging it in the end.
        fixed_bytes, object_bytes: of the results, which are written as one object an image.
        part_bytes: of an object's part, from which the results are merged.
        base_memory_mb: of this process with the detector, before anything was measured, in MiB.
        memory_mb: peak of this process while objects were measured, in MiB.
        device_memory_mb: that of its GPU, in MiB; None on a CPU.
    """

    proposals: int | None
    object_seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    image_seconds: list[float] = field(default_factory=list)
    part_seconds: float = 0.0
    fixed_bytes: float = 0.0
    object_bytes: float = 0.0
    part_bytes: float = 0.0
    base_memory_mb: float = 0.0
    memory_mb: float = 0.0
    device_memory_mb: float | None = None

    def weigh(
        self, detector: Detector, parts: Sequence[Measurements], provenance: dict[str, str]
    ) -> None:
        """Write what was measured of some objects, and note the bytes and the seconds that it takes."""
        weight_values = sum(values.numel() for values in weight_correlations(detector).values())
        empty, _, _ = _written([Measurements.empty()], provenance)
        merged, apart, seconds = _written(parts, provenance)
        self.fixed_bytes = empty + FLOAT_BYTES * weight_values
        self.object_bytes = (merged - empty) / len(parts)
        self.part_bytes, self.part_seconds = apart / len(parts), seconds / len(parts)


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


def count(dataset: CocoDataset, config: MeasuringConfig, seed: int) -> Counts:
    """Count the images and the objects that measuring with these settings takes.
    Raises UserError where there is no object.
    """
    if config.images is not None:
        dataset = dataset.subset(config.images)
    by_size = dict.fromkeys(SIZES, 0)
    images = most = 0
    for index, image_id in enumerate(dataset.image_ids):
        areas = dataset.object_areas(index)
        random = generator("objects", seed, image_id)
        chosen = choose(len(areas), config.objects_per_image, random).tolist()
        for at in chosen:
            by_size[size_name(float(areas[at]))] += 1
        images += bool(chosen)
        most = max(most, len(chosen))
    if not images:
        raise UserError(
            f"no objects to measure in the first {len(dataset)} images of {dataset.where};"
            " take more images (--max-images)"
        )
    return Counts(images, len(dataset) - images, by_size, most)


def calibrate(
    detector: Detector,
    dataset: CocoDataset,
    config: MeasuringConfig,
    settings: Sequence[int | None],
    seed: int = 0,
    budget: float = BUDGET_SECONDS,
) -> list[Calibration]:
    """Measure a few objects under each setting.

    Args:
        detector: in evaluation mode; its weights do not matter, its sizes do.
        settings: proposals an object; None is the whole grid.
        budget: seconds after which no other round of objects is begun; the first is always finished.

    Returns:
        One for each setting, in their order.
    """
    if config.images is not None:
        dataset = dataset.subset(config.images)
    base = restart_peak(detector.device)
    # Weights are laid out once for all settings, as a study does it once for all images: no part of any object's time.
    responder = Responder(detector, config.memory_mb, config.precision)
    measurers = []
    for proposals in (*settings, WARM_UP_PROPOSALS):
        own = config.model_copy(update={"proposals_per_object": proposals})
        measurers.append(ObjectMeasurer(detector, dataset, "calibration", own, seed))
        # In the place of the one that it would make of the same detector, memory and precision.
        vars(measurers[-1])["responder"] = responder
    warm_up = measurers.pop()
    found = [Calibration(proposals, base_memory_mb=base) for proposals in settings]
    measured: list[list[Measurements]] = [[] for _ in settings]
    begun = time.perf_counter()
    for number, objects in enumerate(islice(_rounds(dataset, seed), MOST_ROUNDS)):
        spent = time.perf_counter() - begun
        # Another round takes about as long as those before it.
        if number and spent * (number + 1) / number > budget:
            break
        for size, index, at in objects:
            sample, reading = _timed(dataset.__getitem__, index)
            names = ("boxes", "labels", "areas", "object_ids")
            one = {name: getattr(sample, name)[at : at + 1] for name in names}
            sample = dataclasses.replace(sample, **one)
            if not number:
                # The first time memory is got and kernels are chosen.
                warm_up.measure(sample)
            with torch.inference_mode():
                _, extracting = _timed(responder.extract, sample.image)
            for each, its, parts in zip(found, measurers, measured, strict=True):
                restart_peak(detector.device)
                part, seconds = _timed(its.measure, sample)
                parts.append(part)
                each.image_seconds.append(reading + extracting)
                each.object_seconds[size].append(max(seconds - extracting, 0.0))
                each.memory_mb = max(peak_mb(), each.memory_mb)
                if detector.device.type == "cuda":
                    peak = torch.cuda.max_memory_allocated(detector.device) / MIB
                    each.device_memory_mb = max(peak, each.device_memory_mb or 0.0)
    for each, its, parts in zip(found, measurers, measured, strict=True):
        # Of one image: only its length counts here, and images are not all to be read for it.
        each.weigh(detector, parts, provenance_of(dataset.subset(1), its.config, seed))
    return found


def estimate(
    calibration: Calibration, counts: Counts, devices: Sequence[int], memory_bound_mb: int
) -> Estimate:
    """What a study of so many images and objects takes.

    seconds = (images x image + sum over sizes of objects x object of that size) / devices + merging, which one process
    does. Images are handed out one at a time, so no device waits longer than for one image at the end.
    """
    # A size of which there are no objects to calibrate on has none to be measured either.
    tried = calibration.object_seconds
    trials = {size: tried[size] for size in SIZES if size in tried}
    means = {size: statistics.fmean(seconds) for size, seconds in trials.items()}
    image = statistics.fmean(calibration.image_seconds)
    by_size = {size: counts.objects[size] * mean for size, mean in means.items()}
    serial = counts.images * calibration.part_seconds
    work = counts.images * image + sum(by_size.values())
    longest = image + counts.most_objects * max(means.values())
    images_error = counts.images * image * _spread(calibration.image_seconds)
    variance = images_error**2 / len(calibration.image_seconds)
    spread = _pooled_spread(trials)
    variance += sum((by_size[size] * spread) ** 2 / len(trials[size]) for size in trials)
    disk = calibration.fixed_bytes + counts.all_objects * calibration.object_bytes
    parts = counts.all_objects * calibration.part_bytes
    return Estimate(
        calibration.proposals,
        means,
        image,
        {number: max(work / number, min(longest, work)) + serial for number in devices},
        STANDARD_ERRORS * math.sqrt(variance) / (work + serial),
        max(calibration.memory_mb, calibration.base_memory_mb + memory_bound_mb),
        calibration.device_memory_mb,
        disk / MIB,
        (disk + parts) / MIB,
    )


def _pooled_spread(trials: Mapping[str, Sequence[float]]) -> float:
    """Relative standard deviation of objects' seconds about their size's mean; of the sizes' means if each has one."""
    means = {size: statistics.fmean(seconds) for size, seconds in trials.items()}
    freedom = sum(map(len, trials.values())) - len(trials)
    if not freedom:
        return _spread(list(means.values()))
    deviations = [
        (each / means[size] - 1) ** 2
        for size, seconds in trials.items()
        for each in seconds
        if means[size] > 0
    ]
    return math.sqrt(sum(deviations) / freedom)


def _spread(values: Sequence[float]) -> float:
    """Standard deviation as a share of the mean."""
    mean = statistics.fmean(values)
    return statistics.stdev(values) / mean if len(values) > 1 and mean > 0 else UNKNOWN_SPREAD


def _rounds(dataset: CocoDataset, seed: int) -> Iterator[list[tuple[str, int, int]]]:
    """Rounds of objects, one of each size that there is, as (size, image's index, object's place in it).

    Of each size, images come once before any of them comes again.
    """
    order = np.random.default_rng(seed).permutation(dataset.indices_with_objects()).tolist()
    objects = pd.DataFrame(
        [
            (size_name(float(area)), index, at)
            for index in order
            for at, area in enumerate(dataset.object_areas(index))
        ],
        columns=["size", "image", "at"],
    )
    again = objects.duplicated(["size", "image"])
    objects = pd.concat([objects[~again], objects[again]])
    kinds = [objects[objects["size"] == size].to_numpy().tolist() for size in SIZES]
    for number in range(max(map(len, kinds))):
        yield [tuple(kind[number % len(kind)]) for kind in kinds if kind]


def _written(
    measured: Sequence[Measurements], provenance: dict[str, str]
) -> tuple[int, int, float]:
    """Bytes of the results and of the parts of some objects, an image each, and the seconds that writing both took."""
    with tempfile.TemporaryDirectory() as passing:
        folder, begun = Path(passing), time.perf_counter()
        paths = [folder / str(number) for number in range(len(measured))]
        for number, (path, part) in enumerate(zip(paths, measured, strict=True)):
            arrays = {name: np.asarray(part.array(name)) for name in part.names}
            write_part(part.objects.assign(image_id=number, object_id=number), arrays, path)
        apart = sum(path.stat().st_size for path in paths)
        join_parts(paths, folder / "merged", "plan", {}, provenance)
        seconds = time.perf_counter() - begun
        merged = sum(path.stat().st_size for path in (folder / "merged").iterdir())
        return merged, apart, seconds


def _timed(work: Callable[[Argument], Result], argument: Argument) -> tuple[Result, float]:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    if cuda:
        torch.cuda.synchronize()
    begun = time.perf_counter()
    result = work(argument)
    if cuda:
        torch.cuda.synchronize()
    return result, time.perf_counter() - begun


def restart_peak(device: torch.device) -> float:
    """Have the peaks of memory count from now on, where the system can; return MiB that this process holds now.

    Where the system cannot (it is not Linux), its peak stays that since the process began, which is returned.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """This process's peak in MiB since :func:`restart_peak`."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    except OSError:
        pass
    # The system counts in KiB, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
