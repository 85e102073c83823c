"""Swaps: average precision of one head's scores with another head's boxes, on the same proposals, before NMS.

Every head says of each proposal and class how probable the class is and where its box would be. A swap takes the scores
of one head and the boxes of another, possibly of two detectors with features of their own, and makes detections of them
by the rule of the scores' detector. What fc-head's scores gain from conv-head's boxes forecasts what a Double-Head
gains before one is trained: it has both, but features that were trained for both together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.average_precision import average_precisions
from rethink_heads.evaluation.detections import Quantities
from rethink_heads.evaluation.ladder import to_sides
from rethink_heads.evaluation.matching import GroundTruth, HeadDetections, by_image
from rethink_heads.measure.candidates import Candidates
from rethink_heads.measure.store import Key
from rethink_heads.statistics.bootstrap import REPLICATES, ImageBootstrap, difference_columns
from rethink_heads.suppression import DETECTED, suppress


def swapped_detections(
    candidates: Candidates, truth: GroundTruth, scores: Key, boxes: Key
) -> HeadDetections:
    """Final detections of one head's scores with another's boxes. Raises UserError where a head is not there.

    Args:
        candidates: on whose proposals; :meth:`.Candidates.proposed_by` has those of one detector.
        truth: whose images.
        scores, boxes: (detector, head); the rule is that of the scores' detector.
    """
    candidates.check(scores)
    candidates.check(boxes)
    rule = candidates.rule(scores[0])
    its_scores, its_boxes = candidates.scores[scores], candidates.boxes[boxes]
    rows = np.flatnonzero(
        (its_scores > rule.score_threshold) & np.isin(candidates.images, truth.image_ids)
    )
    detected = []
    for places in by_image(candidates.images[rows]):
        some = rows[places]
        found = suppress(its_scores[some], candidates.labels[some], its_boxes[some], rule)
        some = some[found.outcome == DETECTED]
        detected.append(some[np.argsort(-its_scores[some], kind="stable")])
    chosen = np.concatenate(detected) if detected else np.empty(0, np.int64)
    return HeadDetections(
        truth.index(candidates.images[chosen]),
        candidates.labels[chosen],
        its_scores[chosen].astype(np.float64),
        to_sides(its_boxes[chosen]),
    )


def swap_matrix(
    candidates: Candidates,
    dataset: CocoDataset,
    *,
    proposals: str | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Average precisions of every head's scores with every head's boxes: the frame "swaps" of :func:`swap_tables`."""
    found = swap_tables(candidates, dataset, proposals=proposals, replicates=replicates, seed=seed)
    return found["swaps"]


def swap_tables(
    candidates: Candidates,
    dataset: CocoDataset,
    *,
    proposals: str | None = None,
    keys: Iterable[Key] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Average precisions of every head's scores with every head's boxes, and what each swap gains over a head alone.

    Args:
        candidates: of :func:`~rethink_heads.measure.candidate_runner.measure_candidates`.
        dataset: what they are of.
        proposals: the detector whose proposals are taken; None: those of all detectors together.
        keys: (detector, head) of those that are swapped; None: all.
        replicates, seed: of the bootstrap over the dataset's images.

    Returns:
        In "swaps" a row a pair and metric ("AP", "AP50", "AP75", "APs", "APm", "APl") with "scores", "boxes" (as
        "detector/head"), "metric", "value", "value_low", "value_high" and "images".

        In "swap_comparisons" each swap of two heads less each of them alone, on the same proposals and draws of images,
        with "metric", "scores", "boxes", "against" (the head alone), "value_a" (of the swap), "value_b", "difference",
        "difference_low", "difference_high" and "excludes_zero".

    Raises:
        UserError: a head or the detector is not there.
    """
    chosen = tuple(candidates.keys if keys is None else keys)
    for key in chosen:
        candidates.check(key)
    if proposals is not None:
        candidates = candidates.proposed_by(proposals)
    truth = GroundTruth(dataset)
    bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
    found: dict[tuple[Key, Key], Quantities] = {}
    for scores, boxes in itertools.product(chosen, chosen):
        # Heads with one classifier, or one regressor, have the same swaps.
        same = _same_as(candidates, scores, boxes, found)
        found[scores, boxes] = (
            found[same]
            if same
            else average_precisions(
                swapped_detections(candidates, truth, scores, boxes), truth, bootstrap
            )
        )
    swaps, comparisons = [], []
    for (scores, boxes), swap in found.items():
        names = {"scores": "/".join(scores), "boxes": "/".join(boxes)}
        rows = swap.rows((names["scores"], names["boxes"]))
        swaps.append(rows.rename(columns={"detector": "scores", "head": "boxes"}))
        for alone in (scores, boxes) if scores != boxes else ():
            differences = difference_columns(swap.resampled, found[alone, alone].resampled)
            columns = {**names, **swap.keys, "against": "/".join(alone), **differences}
            comparisons.append(pd.DataFrame(columns))
    tables = {"swaps": swaps, "swap_comparisons": comparisons}
    return {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items() if frames}


def _same_as(
    candidates: Candidates, scores: Key, boxes: Key, found: Iterable[tuple[Key, Key]]
) -> tuple[Key, Key] | None:
    """The swap, of those found, that has the same scores and boxes."""
    for other_scores, other_boxes in found:
        if (
            other_scores[0] == scores[0]
            and np.array_equal(candidates.scores[other_scores], candidates.scores[scores])
            and np.array_equal(candidates.boxes[other_boxes], candidates.boxes[boxes])
        ):
            return other_scores, other_boxes
    return None
