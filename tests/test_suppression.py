"""Threshold, NMS and the cut to the best in NumPy, against torchvision's to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import box_iou

from rethink_heads.suppression import (
    CUT,
    DETECTED,
    NO_BOX,
    REJECTED,
    SUPPRESSED,
    Suppression,
    suppress,
)

SIZE = (200, 300)


def scored_boxes(seed: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Proposals (N, 4) about a few places, logits (N, K + 1) and deltas (N, 4 (K + 1)); some scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(6, 2, generator=generator) * torch.tensor([300.0, 200.0])
    chosen = centres[torch.randint(0, 6, (120,), generator=generator)]
    chosen = chosen + 6 * torch.randn(120, 2, generator=generator)
    half = 10 + 25 * torch.rand(120, 2, generator=generator)
    proposals = torch.cat([chosen - half, chosen + half], dim=1)
    logits = (3 * torch.randn(120, classes + 1, generator=generator)).round()
    deltas = torch.randn(120, 4 * (classes + 1), generator=generator)
    return proposals, logits, deltas


@pytest.mark.parametrize("rule", [Suppression(), Suppression(0.2, 0.3, 12, 20.0)])
@pytest.mark.parametrize("seed", range(4))
def test_same_detections_as_torchvision(seed: int, rule: Suppression) -> None:
    proposals, logits, deltas = scored_boxes(seed, 3)
    nothing: Any = torch.nn.Identity()
    heads = RoIHeads(
        nothing, nothing, nothing, 0.5, 0.5, 8, 0.25, None,
        rule.score_threshold, rule.nms_iou, rule.most,
    )  # fmt: skip
    boxes = heads.box_coder.decode(deltas, [proposals])[:, 1:].reshape(-1, 4)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, SIZE[1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, SIZE[0])
    scores = logits.softmax(-1)[:, 1:].flatten()
    labels = torch.arange(3).repeat(len(proposals)).numpy()
    found = suppress(scores.numpy(), labels, boxes.numpy(), rule)
    rows = np.flatnonzero(found.outcome == DETECTED)
    rows = rows[np.argsort(-scores.numpy()[rows], kind="stable")]
    if rule.least_side == Suppression().least_side:
        expected = heads.postprocess_detections(logits, deltas, [proposals], [SIZE])
        kept, their_scores, their_labels = (each[0].numpy() for each in expected)
    else:
        from rethink_heads.config import ConventionsConfig
        from rethink_heads.detectors.base import HeadOutput
        from rethink_heads.detectors.rcnn.roi_heads import BoxRoIHeads

        heads.conventions = ConventionsConfig(least_detection_side=rule.least_side)
        output = HeadOutput(logits.softmax(-1)[:, 1:], boxes.reshape(-1, 3, 4))
        ours = BoxRoIHeads.suppress(heads, output)  # type: ignore[arg-type]
        kept, their_scores, their_labels = (
            each.numpy() for each in (ours.boxes, ours.scores, ours.labels)
        )
    assert 0 < len(kept) <= rule.most

    # Of equal scores torchvision's order is not defined.
    def ordered(*columns: np.ndarray) -> np.ndarray:
        table = np.column_stack(columns)
        return table[np.lexsort(table.T)]

    np.testing.assert_array_equal(
        ordered(boxes.numpy()[rows], scores.numpy()[rows], labels[rows] + (rule.most == 100)),
        ordered(kept, their_scores, their_labels),
    )


def test_every_box_has_its_outcome() -> None:
    boxes = np.array(
        [[0, 0, 20, 20], [1, 0, 21, 20], [0, 0, 20, 20], [50, 50, 90, 90], [2, 2, 2, 9], [9, 9, 30, 30]],
        np.float32,
    )  # fmt: skip
    labels = np.array([1, 1, 0, 1, 1, 0])
    scores = np.array([0.6, 0.9, 0.5, 0.4, 0.8, 0.05], np.float32)
    found = suppress(scores, labels, boxes, Suppression(most=2))
    assert found.outcome.tolist() == [SUPPRESSED, DETECTED, DETECTED, CUT, REJECTED, REJECTED]
    assert found.suppressor.tolist() == [1] + [NO_BOX] * 5
    assert suppress(scores[:0], labels[:0], boxes[:0], Suppression()).outcome.size == 0


def test_the_best_of_several_suppresses() -> None:
    generator = np.random.default_rng(0)
    corner = generator.uniform(0, 60, (80, 2))
    boxes = np.hstack([corner, corner + generator.uniform(20, 60, (80, 2))]).astype(np.float32)
    scores = generator.uniform(0.1, 1, 80).astype(np.float32)
    labels = generator.integers(0, 2, 80)
    found = suppress(scores, labels, boxes, Suppression())
    ious = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    for row in range(80):
        better = [
            other
            for other in np.flatnonzero(found.outcome == DETECTED)
            if labels[other] == labels[row] and scores[other] > scores[row] and ious[row, other] > 0.5
        ]  # fmt: skip
        if found.outcome[row] == SUPPRESSED:
            assert found.suppressor[row] == max(better, key=lambda other: scores[other])
        else:
            assert found.suppressor[row] == NO_BOX
            assert not better
