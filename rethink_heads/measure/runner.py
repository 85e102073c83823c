"""Measure a detector on a dataset: resumable, reused when nothing changed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.detectors.answers import on_image
from rethink_heads.detectors.base import (
    CAPABILITIES,
    Detector,
    SupportsWeightMaps,
    missing,
    supports,
)
from rethink_heads.detectors.classes import class_columns
from rethink_heads.detectors.fingerprint import fingerprint
from rethink_heads.distributed import Processes, processes, single_process
from rethink_heads.errors import UserError
from rethink_heads.measure.by_image import ImageWork, rename_detector, work_by_image
from rethink_heads.measure.objects import ObjectMeasurer
from rethink_heads.measure.provenance import provenance_of
from rethink_heads.measure.responses import flatten, is_square, weight_correlations
from rethink_heads.measure.store import Measurements
from rethink_heads.measure.store_files import (
    WEIGHTS,
    Array,
    Name,
    join_parts,
    stored_provenance,
    write_part,
)

logger = logging.getLogger(__name__)


def measure(
    detector: Detector,
    dataset: CocoDataset,
    detector_name: str = "detector",
    config: MeasuringConfig | None = None,
    seed: int = 0,
    folder: Path | None = None,
    provenance: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Measurements:
    """Measure a detector's heads on a dataset's objects; see `Measurements` for what is measured.

    Each image's part is kept under `folder`/parts until all are put together in `folder`. An interrupted call loses
    only the image under way and goes on when called again. Complete measurements of the same provenance are read
    instead of measured again; those of another provenance stay until the new ones are complete.

    Processes that torchrun started, on one machine or several, share the images where a `folder` is given, which all of
    them must see. The first returns the measurements; the others, as soon as no image is left for them, none of them.
    The measurements are the same to the bit for any number of processes with equally many threads each, on machines
    of one kind: see :mod:`rethink_heads.measure.by_image`.

    Args:
        detector: its class names must be the dataset's, unless the dataset was matched with it
            (:func:`rethink_heads.detectors.classes.share_classes`).
        dataset: cut to the first `config.images` images.
        detector_name: the name that the measurements call it by, a run's.
        config: which objects and proposals are measured; None: all of them.
        seed: of the choices among objects, proposals and rows.
        folder: where the measurements are kept; None keeps them nowhere, and an interruption loses them.
        provenance: what else the measurements depend on, above all the hash of the weights; None is
            that hash alone. The data, the configuration, the seed and the versions are added.
        progress: report on standard error.

    Raises:
        UserError: the class names differ, there is no object, or `folder` cannot be written.
    """
    class_columns(detector, dataset)
    config = MeasuringConfig() if config is None else config
    if provenance is None:
        provenance = {"weights": fingerprint(detector)}
    if config.images is not None:
        dataset = dataset.subset(config.images)
    if dataset.box_counts.objects == 0:
        raise UserError(
            f"no objects to measure in the first {len(dataset)} images of "
            f"{dataset.where}; take more images (--max-images)"
        )
    # Without a folder that all of them see, each process is by itself.
    together = single_process() if folder is None else processes()
    provenance = {**provenance_of(dataset, config, seed, together), **provenance}
    measurer = ObjectMeasurer(detector, dataset, detector_name, config, seed)
    if folder is None:
        with tempfile.TemporaryDirectory() as passing:
            # Of each process alone: the others do not see it.
            _measure_into(measurer, dataset, Path(passing), provenance, progress, together)
            # Into memory, for the files pass.
            measured = Measurements.load(Path(passing)).copy()
    else:
        _measure_into(measurer, dataset, folder, provenance, progress, together)
        rename_detector(folder, detector_name)
        if not together.is_first:
            nothing = Measurements.empty()
            nothing.provenance = provenance
            return nothing
        measured = Measurements.load(folder)
    _warn_of_missing_maps(measured, detector, detector_name)
    return measured


def _measure_into(
    measurer: ObjectMeasurer,
    dataset: CocoDataset,
    folder: Path,
    provenance: dict[str, str],
    progress: bool,
    together: Processes,
) -> None:
    """Measure into a folder, unless it holds complete measurements of this provenance."""
    name = measurer.detector_name

    def measure_image(sample: Sample) -> tuple[Callable[[Path], None], int]:
        with on_image(name, sample.image_id):
            part = measurer.measure(sample)
        arrays = {each: np.asarray(part.array(each)) for each in part.names}
        return partial(write_part, part.objects, arrays), len(part.objects)

    def merge(parts: list[Path]) -> None:
        with torch.inference_mode():
            maps = weight_correlations(measurer.detector)
        weights: dict[Name, Array] = {
            (WEIGHTS, name, branch, "weight_correlation"): flatten(values)
            for branch, values in maps.items()
        }
        join_parts(parts, folder, name, weights, provenance)

    if isinstance(measurer.detector, torch.nn.Module):
        measurer.detector.eval()
    work = ImageWork(dataset, provenance, measure_image, f"measuring {name}", "objects", progress)
    work_by_image(work, folder / "parts", lambda: stored_provenance(folder), merge, together)


def _warn_of_missing_maps(measured: Measurements, detector: Detector, detector_name: str) -> None:
    """Say which analyses the detector, or each head of it, has to go without."""
    if not isinstance(detector, SupportsWeightMaps):
        logger.warning("%s: %s", detector_name, missing("weight_maps"))
    elif non_square := [
        name for name, each in detector.weight_maps().items() if not is_square(each)
    ]:
        logger.warning(
            "%s: the RoI positions of %s are in no square, so it goes without %s of these",
            detector_name,
            ", ".join(non_square),
            CAPABILITIES["weight_maps"][1],
        )
    if not supports(detector, "output_maps"):
        logger.warning("%s: %s", detector_name, missing("output_maps"))
    elif not measured.map_keys("spatial_correlation"):
        logger.warning(
            "%s: none of its heads has an output map with RoI positions in a square, so it goes without %s",
            detector_name,
            CAPABILITIES["output_maps"][1],
        )
    if not measured.map_keys("cell_score"):
        logger.warning(
            "%s: it shows no RoI features (`pool` gives none), or their positions are not one square for"
            " all branches, so it goes without the responses to zeroed RoI positions",
            detector_name,
        )
