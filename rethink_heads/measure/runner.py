"""Measure a detector on a dataset: resumable, reused when nothing changed.

An image's features are computed once and shared by all its objects, whose proposals go through every head, and whose
maps are made. Of every proposal only the score and the regressed box of the object's class leave the device; they are
reduced to moments per IoU bin at once (:mod:`rethink_heads.measure.moments`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.detectors.answers import on_image
from rethink_heads.detectors.base import (
    CAPABILITIES,
    Detector,
    Features,
    SupportsWeightMaps,
    missing,
    supports,
)
from rethink_heads.detectors.classes import class_columns
from rethink_heads.detectors.fingerprint import fingerprint
from rethink_heads.distributed import Processes, processes, single_process
from rethink_heads.errors import UserError
from rethink_heads.machine import whole_float32
from rethink_heads.measure.by_image import ImageWork, provenance_of, rename_detector, work_by_image
from rethink_heads.measure.moments import bin_covariances, bin_moments, proposal_values
from rethink_heads.measure.responses import (
    Responder,
    cell_responses,
    chunk_size,
    displacement_scores,
    flatten,
    is_square,
    output_correlations,
    weight_correlations,
)
from rethink_heads.measure.sampling import choose, draw, generator, stratify
from rethink_heads.measure.store import Measurements, size_name
from rethink_heads.measure.store_files import (
    MAPS,
    MOMENTS,
    ROW_TYPE,
    ROWS,
    SAMPLING,
    WEIGHTS,
    Array,
    Name,
    join_parts,
    stored_provenance,
    write_part,
)
from rethink_heads.proposals import grid, iou_bin

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


@dataclass(frozen=True)
class ObjectMeasurer:
    """Measures the objects of one image at a time.

    Attributes:
        detector: whose heads are measured.
        dataset: whose objects are measured.
        detector_name: the name that measurements call it by.
        config: which objects and proposals are measured.
        seed: of the choices among objects, proposals and rows.
    """

    detector: Detector
    dataset: CocoDataset
    detector_name: str
    config: MeasuringConfig
    seed: int

    @cached_property
    def columns(self) -> list[int]:
        """By label: the index of its class among the detector's."""
        return class_columns(self.detector, self.dataset).tolist()

    @cached_property
    def responder(self) -> Responder:
        """The detector's heads as they are when it is first asked for."""
        return Responder(self.detector, self.config.memory_mb, self.config.precision)

    def measure(self, sample: Sample) -> Measurements:
        """The measurements of one image's objects, without maps of weights."""
        random = generator("objects", self.seed, sample.image_id)
        chosen = choose(len(sample.boxes), self.config.objects_per_image, random)
        if not len(chosen):
            return Measurements.empty()
        # In the order that measurements have them in.
        chosen = chosen[sample.object_ids[chosen].argsort(stable=True)]
        names = [self.dataset.class_names[label] for label in sample.labels[chosen].tolist()]
        objects = pd.DataFrame(
            {
                "image_id": sample.image_id,
                "object_id": sample.object_ids[chosen].numpy(),
                "class_name": names,
                "size": [size_name(area) for area in sample.areas[chosen].tolist()],
            }
        )
        found: list[dict[Name, Array]] = []
        with torch.inference_mode(), whole_float32():
            features = self.responder.extract(sample.image)
            for number, index in enumerate(chosen.tolist()):
                each = dict(self._measure_proposals(features, sample, index, number))
                each.update(self._measure_maps(features, sample, index))
                found.append(each)
        arrays = {}
        for name in dict.fromkeys(name for each in found for name in each):
            values = [each[name] for each in found if name in each]
            if name[0] == ROWS:
                arrays[name] = np.concatenate(values)
            else:
                # A detector may have shown no map of some objects.
                without = np.full_like(values[0], np.nan)
                arrays[name] = np.stack([each.get(name, without) for each in found])
        return Measurements(objects, arrays)

    def _proposals(self, sample: Sample, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (N, 4), IoUs (N,), weights (N,) and numbers in the grid (N,) of an object's proposals to measure."""
        height, width = sample.image.shape[1:]
        proposals = grid(sample.boxes[index], (height, width), self.config.grid_steps)
        wanted = self.config.proposals_per_object
        if wanted is None:
            every = torch.arange(len(proposals))
            return proposals.boxes, proposals.ious, torch.ones_like(proposals.ious), every
        random = generator("proposals", self.seed, *_ids(sample, index))
        drawn, weights = draw(iou_bin(proposals.ious), wanted, random)
        return proposals.boxes[drawn], proposals.ious[drawn], weights, drawn

    def _measure_proposals(
        self, features: Features, sample: Sample, index: int, number: int
    ) -> Iterator[tuple[Name, Array]]:
        """By head: moments per bin, errors of sampling, and the sampled rows, the same proposals for all heads."""
        boxes, ious, weights, places = self._proposals(sample, index)
        bins = iou_bin(ious)
        random = generator("rows", self.seed, *_ids(sample, index))
        rows, row_weights = stratify(bins, self.config.rows_per_bin, random)
        sampled = np.empty(len(rows), ROW_TYPE)
        sampled["object"], sampled["proposal"] = number, places[rows].numpy()
        sampled["bin"] = bins[rows].numpy()
        sampled["weight"] = (row_weights * weights[rows]).numpy()
        box = sample.boxes[index]
        responses = self.responder(features, boxes, self.columns[int(sample.labels[index])])
        for head, (scores, regressed) in responses.items():
            values = proposal_values(ious, scores, regressed, box)
            for variable in ("iou", "score"):
                sampled[variable] = values[variable][rows.numpy()]
            key = self.detector_name, head
            yield (MOMENTS, *key), bin_moments(values, bins, weights)
            yield (ROWS, *key), sampled.copy()
            if self.config.proposals_per_object is not None:
                yield (SAMPLING, *key), bin_covariances(values, bins, weights)

    def _measure_maps(
        self, features: Features, sample: Sample, index: int
    ) -> Iterator[tuple[Name, Array]]:
        """The maps of an object at its own box."""
        detector, box = self.detector, sample.boxes[index]
        label = self.columns[int(sample.labels[index])]
        exact = detector.pool(features, box[None].to(detector.device))
        chunk = chunk_size(exact, self.config.memory_mb)
        height, width = sample.image.shape[1:]
        correlations = output_correlations(detector, exact)
        displaced = displacement_scores(self.responder, features, box, label, (height, width))
        cells = cell_responses(detector, features, exact, box, label, chunk)
        maps = {(branch, "spatial_correlation"): each for branch, each in correlations.items()}
        maps |= {(head, "displacement_score"): each for head, each in displaced.items()}
        maps |= {(head, "cell_score"): change for head, (change, _) in cells.items()}
        maps |= {(head, "cell_iou"): change for head, (_, change) in cells.items()}
        for name, values in maps.items():
            yield (MAPS, self.detector_name, *name), flatten(values)


def _ids(sample: Sample, index: int) -> tuple[int, int]:
    return sample.image_id, int(sample.object_ids[index])
