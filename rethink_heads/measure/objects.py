"""Measure one image: its objects' proposals through every head, and the maps of every object.

The image's features are computed once and shared by all its objects. Of every proposal only the
score and the regressed box of the object's class leave the device; they are reduced to moments per
IoU bin at once (:mod:`rethink_heads.measure.moments`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.detectors.base import Detector, Features
from rethink_heads.detectors.classes import class_columns
from rethink_heads.machine import whole_float32
from rethink_heads.measure.moments import bin_covariances, bin_moments, proposal_values
from rethink_heads.measure.responses import (
    Responder,
    cell_responses,
    chunk_size,
    displacement_scores,
    flatten,
    output_correlations,
)
from rethink_heads.measure.sampling import choose, draw, generator, stratify
from rethink_heads.measure.store import Measurements, size_name
from rethink_heads.measure.store_files import MAPS, MOMENTS, ROW_TYPE, ROWS, SAMPLING, Array, Name
from rethink_heads.proposals import grid, iou_bin


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
