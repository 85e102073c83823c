"""Measure one image: its objects' proposals through every head, and the maps of every object.

The image's features are computed once and shared by all its objects. Of every proposal only the
score and the regressed box of the object's class leave the device; they are reduced to moments per
IoU bin at once (:mod:`rethink_heads.measure.moments`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import Sample
from rethink_heads.detectors.base import Detector, Features, RoIFeatures
from rethink_heads.machine import whole_float32
from rethink_heads.measure.maps import (
    cell_responses,
    displacement_scores,
    flatten,
    output_correlations,
)
from rethink_heads.measure.measurements import Measurements, size_name
from rethink_heads.measure.moments import proposal_values, reduce_values, sampling_covariances
from rethink_heads.measure.responses import Responder, chunk_size
from rethink_heads.measure.sampling import choose, draw, generator, stratify
from rethink_heads.proposals import grid, iou_bin


@dataclass(frozen=True)
class ObjectMeasurer:
    """Measures the objects of one image at a time.

    Attributes:
        detector: whose heads are measured.
        detector_name: the value of the column "detector".
        config: which objects and proposals are measured.
        seed: of the choices among objects, proposals and rows.
    """

    detector: Detector
    detector_name: str
    config: MeasuringConfig
    seed: int

    @cached_property
    def responder(self) -> Responder:
        """The detector's heads as they are when it is first asked for."""
        return Responder(self.detector, self.config.memory_mb, self.config.precision)

    def measure(self, sample: Sample) -> Measurements:
        """The measurements of one image's objects, without maps of weights."""
        objects = choose(
            len(sample.boxes),
            self.config.objects_per_image,
            generator("objects", self.seed, sample.image_id),
        )
        if not len(objects):
            return Measurements.empty()
        bins, rows, maps, errors = [], [], [], []
        with torch.inference_mode(), whole_float32():
            features = self.responder.extract(sample.image)
            for index in objects.tolist():
                target = self._target(sample, index)
                exact = self.detector.pool(features, target.box[None].to(self.detector.device))
                chunk = chunk_size(exact, self.config.memory_mb)
                for moments, sampled, covariances in self._measure_proposals(features, target):
                    bins.append(moments)
                    rows.append(sampled)
                    errors.append(covariances)
                maps += self._measure_maps(features, exact, target, chunk)
        return Measurements(
            bins=pd.concat(bins, ignore_index=True),
            rows=pd.concat(rows, ignore_index=True),
            maps=pd.DataFrame(maps),
            sampling=pd.concat(errors, ignore_index=True),
        )

    def _target(self, sample: Sample, index: int) -> _Target:
        label = int(sample.labels[index])
        names = {
            "image_id": sample.image_id,
            "object_id": int(sample.object_ids[index]),
            "class_name": self.detector.class_names[label],
            "size": size_name(float(sample.areas[index])),
            "detector": self.detector_name,
        }
        height, width = sample.image.shape[1:]
        return _Target(sample.boxes[index], label, (height, width), names)

    def _proposals(self, target: _Target) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4), IoUs (N,) and weights (N,) of the proposals to measure."""
        proposals = grid(target.box, target.image_size, self.config.grid_steps)
        wanted = self.config.proposals_per_object
        if wanted is None:
            return proposals.boxes, proposals.ious, torch.ones_like(proposals.ious)
        chosen, weights = draw(
            iou_bin(proposals.ious), wanted, generator("proposals", self.seed, *target.ids)
        )
        return proposals.boxes[chosen], proposals.ious[chosen], weights

    def _measure_proposals(
        self, features: Features, target: _Target
    ) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
        """By head: moments per bin, the sampled rows, which are the same proposals for all, errors of sampling."""
        boxes, ious, weights = self._proposals(target)
        bins = iou_bin(ious)
        rows, row_weights = stratify(
            bins, self.config.rows_per_bin, generator("rows", self.seed, *target.ids)
        )
        stands_for = {"bin": bins[rows].numpy(), "weight": (row_weights * weights[rows]).numpy()}
        responses = self.responder(features, boxes, target.label)
        for head, (scores, regressed) in responses.items():
            values = proposal_values(ious, scores, regressed, target.box)
            moments = reduce_values(values, bins, weights)
            sampled = {name: column[rows.numpy()] for name, column in values.items()}
            yield (
                moments.assign(**target.names, head=head),
                pd.DataFrame({**stands_for, **sampled}).assign(**target.names, head=head),
                sampling_covariances(values, bins, weights).assign(**target.names, head=head),
            )

    def _measure_maps(
        self, features: Features, exact: RoIFeatures, target: _Target, chunk: int
    ) -> list[dict[str, Any]]:
        """Rows of the frame of maps, given the RoI features of the object's own box."""
        detector, box, label = self.detector, target.box, target.label
        correlations = output_correlations(detector, exact)
        displaced = displacement_scores(self.responder, features, box, label, target.image_size)
        cells = cell_responses(detector, features, exact, box, label, chunk)
        found = [(branch, "spatial_correlation", values) for branch, values in correlations.items()]
        found += [(head, "displacement_score", values) for head, values in displaced.items()]
        found += [(head, "cell_score", change) for head, (change, _) in cells.items()]
        found += [(head, "cell_iou", change) for head, (_, change) in cells.items()]
        return [
            {**target.names, "head": name, "kind": kind, "values": flatten(values)}
            for name, kind, values in found
        ]


@dataclass(frozen=True)
class _Target:
    box: Tensor
    label: int
    image_size: tuple[int, int]
    names: dict[str, Any]

    @property
    def ids(self) -> tuple[int, int]:
        return self.names["image_id"], self.names["object_id"]
