"""Measures a few objects as a study would, and notes the seconds, the bytes and the memory that they took.

One object of each size at a time, each in another image, under each of the settings that are planned for; again with
other objects while a budget of time lasts. What is measured goes through the study's own code, from reading an image to
the merged files.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.detectors.base import Detector
from rethink_heads.measure.maps import weight_correlations
from rethink_heads.measure.measurements import SIZES, Measurements, size_name
from rethink_heads.measure.objects import ObjectMeasurer
from rethink_heads.measure.provenance import provenance_of
from rethink_heads.measure.responses import Responder
from rethink_heads.planning.file_sizes import Bytes, file_sizes
from rethink_heads.planning.peaks import device_peak_mb, peak_mb, start_again

Result = TypeVar("Result")

FLOAT_BYTES = 4
WARM_UP_PROPOSALS = 200
BUDGET_SECONDS = 60.0
MOST_ROUNDS = 5


@dataclass(frozen=True)
class Trial:
    """One object that was measured: its size, and the seconds beside reading its image and its features."""

    size: str
    seconds: float


@dataclass(frozen=True)
class Calibration:
    """What one setting of the proposals takes on this machine.

    Attributes:
        proposals: an object; None is the whole grid.
        trials: the objects that were measured.
        image_seconds: of reading an image and of its features, one for each image.
        part_seconds: of writing an image's part, and of merging it in the end.
        merged, parts: bytes of the results, and of the parts that they are merged from.
        base_memory_mb: of this process with the detector, before anything was measured, in MiB.
        memory_mb: peak of this process while objects were measured under the setting, in MiB.
        device_memory_mb: that of its GPU, in MiB; None on a CPU.
    """

    proposals: int | None
    trials: list[Trial]
    image_seconds: list[float]
    part_seconds: float
    merged: Bytes
    parts: Bytes
    base_memory_mb: float
    memory_mb: float
    device_memory_mb: float | None


@dataclass
class _Setting:
    """One setting's measurer and what it has given so far."""

    proposals: int | None
    measurer: ObjectMeasurer
    trials: list[Trial] = field(default_factory=list)
    measured: list[Measurements] = field(default_factory=list)
    memory_mb: float = 0.0
    device_memory_mb: float | None = None


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
        dataset: whose images and objects are taken, by a choice of ``seed``.
        config: how objects are measured; ``proposals_per_object`` is taken from ``settings``.
        settings: proposals an object; None is the whole grid.
        seed: of the choices.
        budget: seconds after which no other round of objects is begun; the first is always finished.

    Returns:
        One for each setting, in their order.
    """
    if config.images is not None:
        dataset = dataset.subset(config.images)
    base = start_again(detector.device)
    # Weights are laid out once for all settings, as a study does it once for all images: no part of any object's time.
    responder = Responder(detector, config.memory_mb, config.precision)
    made = [_setting(responder, config, proposals, seed) for proposals in settings]
    image_seconds: list[float] = []
    begun = time.perf_counter()
    warm = _setting(responder, config, WARM_UP_PROPOSALS, seed)
    for number, objects in enumerate(islice(_rounds(dataset, seed), MOST_ROUNDS)):
        spent = time.perf_counter() - begun
        # Another round takes about as long as those before it.
        if number and spent * (number + 1) / number > budget:
            break
        for size, index, at in objects:
            sample, read = _timed(partial(_read, dataset, index, at))
            if not number:
                # The first time memory is got and kernels are chosen.
                warm.measurer.measure(sample)
            _, extracting = _timed(partial(_extract, responder, sample))
            image_seconds.append(read + extracting)
            for setting in made:
                _measure(setting, size, sample, extracting)
    return [
        _calibration(
            setting,
            image_seconds,
            base,
            # Of one image: only its length counts here, and images are not all to be read for it.
            provenance_of(dataset.subset(1), setting.measurer.config, seed),
        )
        for setting in made
    ]


def _setting(
    responder: Responder, config: MeasuringConfig, proposals: int | None, seed: int
) -> _Setting:
    own = config.model_copy(update={"proposals_per_object": proposals})
    measurer = ObjectMeasurer(responder.detector, "calibration", own, seed)
    # In the place of the one that it would make of the same detector, memory and precision.
    vars(measurer)["responder"] = responder
    return _Setting(proposals, measurer)


def _rounds(dataset: CocoDataset, seed: int) -> Iterator[list[tuple[str, int, int]]]:
    """Rounds of objects, one of each size that there is, as (size, image's index, object's place in it)."""
    order = np.random.default_rng(seed).permutation(dataset.indices_with_objects()).tolist()
    found: dict[str, list[tuple[str, int, int]]] = {size: [] for size in SIZES}
    for index in order:
        for at, area in enumerate(dataset.object_areas(index)):
            found[size_name(float(area))].append((size_name(float(area)), index, at))
    kinds = [_one_an_image(objects) for objects in found.values() if objects]
    for number in range(max(map(len, kinds))):
        yield [objects[number % len(objects)] for objects in kinds]


def _one_an_image(objects: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The objects, those of images that come for the first time before the others."""
    seen: set[int] = set()
    first: list[tuple[str, int, int]] = []
    others: list[tuple[str, int, int]] = []
    for each in objects:
        (others if each[1] in seen else first).append(each)
        seen.add(each[1])
    return first + others


def _read(dataset: CocoDataset, index: int, at: int) -> Sample:
    """An image with one of its objects."""
    sample, one = dataset[index], slice(at, at + 1)
    return dataclasses.replace(
        sample,
        boxes=sample.boxes[one],
        labels=sample.labels[one],
        areas=sample.areas[one],
        object_ids=sample.object_ids[one],
    )


def _extract(responder: Responder, sample: Sample) -> None:
    with torch.inference_mode():
        responder.extract(sample.image)


def _measure(setting: _Setting, size: str, sample: Sample, extracting: float) -> None:
    device = setting.measurer.detector.device
    start_again(device)
    part, seconds = _timed(lambda: setting.measurer.measure(sample))
    setting.trials.append(Trial(size, max(seconds - extracting, 0.0)))
    setting.measured.append(part)
    setting.memory_mb = max(peak_mb(), setting.memory_mb)
    on_device = device_peak_mb(device)
    if on_device is not None:
        setting.device_memory_mb = max(on_device, setting.device_memory_mb or 0.0)


def _calibration(
    setting: _Setting, image_seconds: list[float], base: float, provenance: dict[str, str]
) -> Calibration:
    merged, parts, seconds = file_sizes(setting.measured, provenance)
    of_weights = weight_correlations(setting.measurer.detector).values()
    fixed = merged.fixed + sum(values.numel() for values in of_weights) * FLOAT_BYTES
    return Calibration(
        setting.proposals,
        setting.trials,
        image_seconds,
        seconds,
        dataclasses.replace(merged, fixed=fixed),
        parts,
        base,
        setting.memory_mb,
        setting.device_memory_mb,
    )


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    _synchronise()
    begun = time.perf_counter()
    result = work()
    _synchronise()
    return result, time.perf_counter() - begun


def _synchronise() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
