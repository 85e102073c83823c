"""Swaps against torchvision's NMS and pycocotools' precision."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.ops import batched_nms

from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from rethink_heads.evaluation.average_precision import AP_NAMES, compare_precision, precision_table
from rethink_heads.evaluation.swaps import swap_matrix, swap_tables
from rethink_heads.measure.candidates import Candidates
from rethink_heads.measure.detections import DETECTION_TYPES, in_order
from rethink_heads.measure.store import Key
from tests.made_detections import as_results, pycocotools_precision


def swapped_by_torchvision(candidates: Candidates, scores: Key, boxes: Key) -> pd.DataFrame:
    """The swap's detections, under the head's name "scores+boxes"."""
    rule, rows = candidates.rule(scores[0]), []
    for image_id in np.unique(candidates.images):
        chosen = (candidates.images == image_id) & (
            candidates.scores[scores] > rule.score_threshold
        )
        corners = torch.from_numpy(candidates.boxes[boxes][chosen])
        likely = torch.from_numpy(candidates.scores[scores][chosen])
        labels = torch.from_numpy(candidates.labels[chosen])
        for place in batched_nms(corners, likely, labels, rule.nms_iou)[: rule.most].tolist():
            name = f"{'/'.join(scores)}+{'/'.join(boxes)}"
            found = [image_id, "swap", name, int(labels[place])]
            rows.append([*found, *corners[place].tolist(), float(likely[place])])
    frame = pd.DataFrame(rows, columns=list(DETECTION_TYPES))
    return in_order(frame.astype(DETECTION_TYPES))


@pytest.mark.parametrize("proposals", [None, "one"])
def test_precision_is_that_of_pycocotools(
    candidates: Candidates, dataset: CocoDataset, proposals: str | None
) -> None:
    found = swap_matrix(candidates, dataset, proposals=proposals, replicates=10)
    assert len(found) == 9 * len(AP_NAMES)
    own = candidates if proposals is None else candidates.proposed_by(proposals)
    for scores, boxes in product(candidates.keys, repeat=2):
        results = as_results(swapped_by_torchvision(own, scores, boxes), dataset)
        expected = pycocotools_precision(dataset.annotations_path, results)
        rows = found[(found["scores"] == "/".join(scores)) & (found["boxes"] == "/".join(boxes))]
        assert rows["metric"].tolist() == list(AP_NAMES)
        np.testing.assert_allclose(rows["value"], list(expected.values()), atol=1e-12)
    assert found["value"].nunique() > 9


def test_differences_are_paired_with_each_head_alone(
    candidates: Candidates, dataset: CocoDataset
) -> None:
    a, b = ("one", "fc"), ("two", "fc")
    tables = swap_tables(candidates, dataset, keys=[a, b], replicates=100, seed=2)
    swaps, found = tables["swaps"], tables["swap_comparisons"]
    frame = pd.concat(
        [
            swapped_by_torchvision(candidates, scores, boxes)
            for scores, boxes in product((a, b), repeat=2)
        ]
    )
    table = precision_table(frame, dataset, replicates=100, seed=2).set_index(["head", "metric"])
    for row in swaps.itertuples():
        expected = table.loc[(f"{row.scores}+{row.boxes}", row.metric)]
        assert [row.value, row.value_low, row.value_high, row.images] == pytest.approx(
            expected[["value", "value_low", "value_high", "images"]].tolist()
        )
    assert len(found) == 2 * 2 * len(AP_NAMES)
    for (scores, boxes, alone), rows in found.groupby(["scores", "boxes", "against"]):
        heads = (f"{scores}+{boxes}", f"{alone}+{alone}")
        expected = compare_precision(
            frame, dataset, *(("swap", head) for head in heads), replicates=100, seed=2
        ).drop(columns=["metric", "a", "b"])
        pd.testing.assert_frame_equal(
            rows[expected.columns].reset_index(drop=True), expected, check_exact=False
        )


def test_a_head_that_is_not_there_is_told(candidates: Candidates, dataset: CocoDataset) -> None:
    with pytest.raises(UserError, match="no candidates of one/double"):
        swap_tables(candidates, dataset, keys=[("one", "double")])
    with pytest.raises(UserError, match="no proposals of three"):
        swap_tables(candidates, dataset, proposals="three")


def test_one_head_has_nothing_to_be_swapped_with(
    candidates: Candidates, dataset: CocoDataset
) -> None:
    tables = swap_tables(candidates, dataset, keys=[("one", "fc")], replicates=10)
    assert {*tables} == {"swaps"}


def test_heads_with_the_same_scores_have_the_same_swaps(
    candidates: Candidates, dataset: CocoDataset
) -> None:
    """As the double head has fc-head's scores and conv-head's boxes."""
    fc, conv = ("one", "fc"), ("one", "conv")
    scores = {**candidates.scores, conv: candidates.scores[fc]}
    alike = Candidates(
        candidates.sources, candidates.images, candidates.proposals, candidates.labels,
        candidates.proposal_boxes, candidates.ranks, scores, candidates.boxes,
    )  # fmt: skip
    found = swap_matrix(alike, dataset, replicates=10)
    fcs, convs = (found[found["scores"] == "/".join(key)] for key in (fc, conv))
    pd.testing.assert_frame_equal(
        fcs.drop(columns="scores").reset_index(drop=True),
        convs.drop(columns="scores").reset_index(drop=True),
    )
