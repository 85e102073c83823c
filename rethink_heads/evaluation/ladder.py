"""Objects followed through a detector: proposals, regressed boxes, the threshold of score, NMS, final detections.

The *recall ladder* is the share of the objects that are still there at each of STAGES, at each IoU threshold: those
with a proposal; with a regressed box of their class; with one whose score for the class passes the threshold; with one
that NMS leaves; and those that are found, that is matched to a final detection as COCO matches them. From the third on
each stage's boxes are some of the stage's before, so that what is lost between two of them is lost there. Regression
may gain objects that no proposal fits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.detections import Quantities
from rethink_heads.evaluation.matching import (
    MOST_DETECTIONS,
    THRESHOLDS,
    Flags,
    GroundTruth,
    HeadDetections,
    Indices,
    box_ious,
    by_image,
    equal_pairs,
    match_detections,
    places_within,
)
from rethink_heads.measure.candidates import Candidates, Floats
from rethink_heads.measure.store import SIZES, Key, size_name
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    SHARE,
    Array,
    ImageBootstrap,
    join,
)
from rethink_heads.statistics.sums import ratio
from rethink_heads.suppression import CUT, DETECTED, NO_BOX, REJECTED, suppress

STAGES = ("proposals", "regressed", "classified", "after_nms", "detections")
MEAN_IOU = "mean"
IOU_NAMES = (*(f"{threshold:.2f}" for threshold in THRESHOLDS), MEAN_IOU)
ALL = "all"


@dataclass(frozen=True)
class CandidateOutcomes:
    """One head's candidates on its detector's own proposals, what became of each, and the objects that they overlap.

    Attributes:
        truth: the G objects.
        images: (R,) index of each candidate's image; labels: (R,); scores: (R,); boxes: (R, 4) x, y, width, height.
        outcome: (R,) as of :func:`~rethink_heads.suppression.suppress`.
        suppressor: (R,) the candidate that suppressed each; NO_BOX for none.
        pair_rows, pair_objects: (E,) the candidates and the objects of their image and class, crowds left out.
        proposal_ious, box_ious: (E,) of the pairs' proposals and regressed boxes.
    """

    truth: GroundTruth
    images: Indices
    labels: Indices
    scores: Array
    boxes: Array
    outcome: Indices
    suppressor: Indices
    pair_rows: Indices
    pair_objects: Indices
    proposal_ious: Array
    box_ious: Array

    @cached_property
    def best_ious(self) -> Array:
        """(S, G) the best IoU of each object at each of STAGES, 0 where no candidate is near."""
        outcome = self.outcome[self.pair_rows]
        best = np.zeros((len(STAGES), len(self.truth.labels)))
        reached = (
            outcome >= 0,
            outcome >= 0,
            outcome < REJECTED,
            outcome <= CUT,
            outcome == DETECTED,
        )
        for stage, there in enumerate(reached):
            ious = self.box_ious if stage else self.proposal_ious
            np.maximum.at(best[stage], self.pair_objects[there], ious[there])
        return best

    @cached_property
    def detected_rows(self) -> Indices:
        """(N,) the candidates that are final detections, by image and in each by falling score."""
        rows = np.flatnonzero(self.outcome == DETECTED)
        return rows[np.lexsort((-self.scores[rows], self.images[rows]))]

    @property
    def detections(self) -> HeadDetections:
        """The final detections, in the order of ``detected_rows``."""
        rows = self.detected_rows
        return HeadDetections(
            self.images[rows], self.labels[rows], self.scores[rows], self.boxes[rows]
        )

    @cached_property
    def present(self) -> Flags:
        """(S, T, G) whether an object is there at each stage and each of COCO's IoU thresholds."""
        present = self.best_ious[:, None] >= THRESHOLDS[:, None]
        matches = match_detections(self.truth, self.detections, sizes=1)
        present[-1] = False
        threshold, detection = np.nonzero(matches.true[0])
        present[-1, threshold, matches.objects[0, threshold, detection]] = True
        return np.asarray(present)


def follow(candidates: Candidates, truth: GroundTruth, key: Key) -> CandidateOutcomes:
    """Follow the objects through one head, on its detector's own proposals.
    Raises UserError where the head is not there.
    """
    candidates.check(key)
    own = candidates.proposed_by(key[0])
    # Of images that are evaluated: candidates may be of more.
    images = truth.index(own.images)
    inside = np.isin(own.images, truth.image_ids)
    images, labels = images[inside], own.labels[inside]
    scores, boxes = own.scores[key][inside], own.boxes[key][inside]
    rule = candidates.rule(key[0])
    outcome = np.full(len(images), REJECTED)
    suppressor = np.full(len(images), NO_BOX)
    for rows in by_image(images):
        found = suppress(scores[rows], labels[rows], boxes[rows], rule)
        outcome[rows] = found.outcome
        is_suppressed = found.suppressor != NO_BOX
        suppressor[rows[is_suppressed]] = rows[found.suppressor[is_suppressed]]
    detected = np.flatnonzero(outcome == DETECTED)
    detected = detected[np.argsort(-scores[detected], kind="stable")]
    # COCO does not look at them.
    is_beyond = beyond_most(images[detected], labels[detected], truth.class_count)
    outcome[detected[is_beyond]] = CUT
    sides = to_sides(boxes)
    no_crowds, classes = np.flatnonzero(~truth.crowd), truth.class_count
    object_keys = truth.images[no_crowds] * classes + truth.labels[no_crowds]
    pair_rows, pair_objects = equal_pairs(images * classes + labels, object_keys)
    pair_objects = no_crowds[pair_objects]
    objects = truth.boxes[pair_objects]
    proposals = to_sides(own.proposal_boxes[inside])
    return CandidateOutcomes(
        truth,
        images,
        labels,
        scores.astype(np.float64),
        sides,
        outcome,
        suppressor,
        pair_rows,
        pair_objects,
        box_ious(proposals[pair_rows], objects),
        box_ious(sides[pair_rows], objects),
    )


def beyond_most(images: Indices, labels: Indices, classes: int) -> Flags:
    """Whether each of N detections, the better ones first, has a hundred better ones of its image and class."""
    return np.asarray(places_within(images * classes + labels) >= MOST_DETECTIONS)


def to_sides(corners: Floats | Array) -> Array:
    """Boxes (N, 4) xyxy as x, y, width, height, float64."""
    exact = corners.astype(np.float64)
    return np.column_stack([exact[:, :2], exact[:, 2:] - exact[:, :2]])


def size_groups(truth: GroundTruth) -> list[tuple[str, Flags]]:
    """The sizes, "all" first, and which objects (G,) are of each; a size without objects is left out."""
    sizes = np.array([size_name(area) for area in truth.areas.tolist()], dtype=object)
    groups = [(ALL, ~truth.crowd), *((name, ~truth.crowd & (sizes == name)) for name in SIZES)]
    return [(name, chosen) for name, chosen in groups if chosen.any()]


def recall_ladder(
    candidates: Candidates, dataset: CocoDataset, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """The share of the objects that is still there at each stage, of every head, with 95% intervals over images.

    Args:
        candidates: of :func:`~rethink_heads.measure.candidate_runner.measure_candidates`.
        dataset: what they are of.
        replicates, seed: of the bootstrap over the dataset's images.

    Returns:
        A row a head, size ("all", "small", "medium", "large"), stage (of STAGES) and IoU threshold ("0.50" to "0.95",
        and "mean" of these ten) with "detector", "head", "size", "stage", "iou", "recall", "recall_low", "recall_high"
        and "objects".
    """
    truth = GroundTruth(dataset)
    bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
    rows = [recalls(follow(candidates, truth, key), bootstrap).rows(key) for key in candidates.keys]
    return pd.concat(rows, ignore_index=True)


def compare_ladders(
    candidates: Candidates,
    dataset: CocoDataset,
    a: Key,
    b: Key,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The recalls of two heads and their differences a - b on the same draws of images.

    Returns:
        A row a size, stage and IoU threshold with "size", "stage", "iou", "a", "b" (as "detector/head"), "value_a",
        "value_b", "difference", "difference_low", "difference_high" and "excludes_zero".

    Raises:
        UserError: a head is not there.
    """
    truth = GroundTruth(dataset)
    bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
    first, second = (recalls(follow(candidates, truth, key), bootstrap) for key in (a, b))
    return first.less(second, a, b)


def recalls(followed: CandidateOutcomes, bootstrap: ImageBootstrap) -> Quantities:
    """One head's rows of :func:`recall_ladder`: a row a size, stage and IoU threshold."""
    truth, present = followed.truth, followed.present.astype(np.float64)
    present = np.concatenate([present, present.mean(axis=1, keepdims=True)], axis=1)
    ids, groups, found = truth.image_ids[truth.images], size_groups(truth), []
    for _, chosen in groups:
        columns = np.stack([np.ones(present.shape), present], axis=-1)[:, :, chosen]
        sums = bootstrap.sum_by_image(ids[chosen], np.moveaxis(columns, 2, 0))
        found.append(bootstrap.resample(sums, ratio, SHARE))
    places = list(itertools.product(dict(groups), STAGES, IOU_NAMES))
    keys = dict(zip(("size", "stage", "iou"), zip(*places, strict=True), strict=True))
    objects = np.repeat([chosen.sum() for _, chosen in groups], len(STAGES) * len(IOU_NAMES))
    return Quantities(join(found), keys, "recall", {"objects": objects})
