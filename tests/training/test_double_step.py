"""One training step of every head structure against the paper's formulas, computed a second time.

The sampled RoIs are the detector's own. From them everything but RoIAlign is computed again in numpy float64 with plain
loops: labels and targets from the objects, levels, both kinds of head with the batch's statistics, losses and weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from rethink_heads.config import load_preset
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.heads import FCHead
from rethink_heads.structures import STRUCTURES
from tests.heads import reference
from tests.heads.reference import Array, iou

CLASSES = ("red", "green", "blue")
IMAGES, ROIS = 2, 6
SETTINGS = [
    "model.fpn_channels=4",
    "model.fc_width=8",
    "model.conv_width=8",
    "model.conv_bottleneck=4",
    "model.min_size=48",
    "model.max_size=64",
    f"model.rois_per_image={ROIS}",
    "model.positive_fraction=0.5",
]
# Weights of each branch's classification and regression, by hand: L_fc = l_fc L_cls + (1 - l_fc) L_reg weighted w_fc,
# L_conv = (1 - l_conv) L_cls + l_conv L_reg weighted w_conv. A pair of equal branches is trained as Double-Head is.
WEIGHTS = {
    "fc": {"fc": (1.0, 1.0)},
    "conv": {"conv": (1.0, 1.0)},
    "double": {"fc": (2.0, 0.0), "conv": (0.0, 2.5)},
    "double-fc": {"fc": (2.0, 0.0), "fc2": (0.0, 2.5)},
    "double-conv": {"conv": (2.0, 0.0), "conv2": (0.0, 2.5)},
    "double-reverse": {"fc": (0.0, 2.5), "conv": (2.0, 0.0)},
    "double-ext": {"fc": (1.4, 0.6), "conv": (0.5, 2.0)},
}
ENLARGEMENT = {"fc": 1.0, "fc2": 1.0, "conv": 1.3, "conv2": 1.3}


@dataclass(frozen=True)
class Step:
    """A training step and what went into its second stage.

    Attributes:
        losses: by name.
        pyramid: the features that RoIs are pooled from.
        objects: for each image its boxes and labels, 1 and above, in the detector's frame.
        rois: for each image the sampled boxes.
        labels, deltas: what the detector compares its outputs with, all images in one.
    """

    detector: RCNN
    losses: dict[str, Tensor]
    pyramid: dict[str, Tensor]
    objects: list[dict[str, Tensor]]
    rois: list[Tensor]
    labels: Tensor
    deltas: Tensor


@pytest.fixture(scope="module", autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def scene(random: torch.Generator) -> tuple[list[Tensor], list[dict[str, Tensor]], list[Tensor]]:
    """Images, objects, and proposals about the objects and elsewhere."""
    images = [torch.rand(3, 48, 64, generator=random) for _ in range(IMAGES)]
    boxes = torch.tensor([[4.0, 5.0, 30.0, 40.0], [33.0, 8.0, 60.0, 29.0]])
    labels = [torch.tensor([0, 2]), torch.tensor([1, 1])]
    targets = [{"boxes": boxes.clone(), "labels": each} for each in labels]
    proposals = []
    for _ in range(IMAGES):
        near = boxes.repeat(8, 1) + 3 * torch.randn(16, 4, generator=random)
        corners = 40 * torch.rand(16, 2, generator=random)
        far = torch.cat([corners, corners + 4 + 12 * torch.rand(16, 2, generator=random)], dim=1)
        proposals.append(torch.cat([near, far]).clamp(0, 48))
    return images, targets, proposals


@cache
def step_of(head: str) -> Step:
    """One step in float64, its RoIs drawn from proposals that are about the objects."""
    torch.manual_seed(0)
    config = load_preset("shapes-tiny", head, SETTINGS)
    detector = build_detector(config, CLASSES).double().train()
    for parameter in detector.roi_heads.parameters():
        # The predictors' own beginnings, 0.001 and zero, would leave little to compare.
        parameter.data += 0.05 * torch.randn_like(parameter)
    images, targets, proposals = scene(torch.Generator().manual_seed(1))
    select, pool = detector.roi_heads.select_training_samples, detector.roi_heads.pool
    seen: dict[str, Any] = {}

    def selecting(_: list[Tensor], objects: list[dict[str, Tensor]]) -> Any:
        rois, matched, labels, deltas = select(proposals, objects)
        seen.update(objects=objects, rois=rois, labels=torch.cat(labels), deltas=torch.cat(deltas))
        return rois, matched, labels, deltas

    def pooling(pyramid: dict[str, Tensor], *rest: Any) -> Any:
        seen["pyramid"] = pyramid
        return pool(pyramid, *rest)

    with ExitStack() as stack:
        for name, wrapped in (("select_training_samples", selecting), ("pool", pooling)):
            stack.enter_context(patch.object(detector.roi_heads, name, wrapped))
        losses = detector(images, targets)
    return Step(detector, losses, **seen)


def encode(roi: Array, box: Array) -> list[float]:
    """Offsets of the centre in the RoI's sides and logarithms of the ratios of sides, weighed 10, 10, 5, 5."""
    (x, y), (w, h) = (roi[:2] + roi[2:]) / 2, roi[2:] - roi[:2]
    (cx, cy), (bw, bh) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    return [10 * (cx - x) / w, 10 * (cy - y) / h, 5 * math.log(bw / w), 5 * math.log(bh / h)]


def truths(step: Step) -> tuple[list[int], list[list[float]]]:
    """Label and target of each RoI: those of the object that it overlaps most, from IoU 0.5 on."""
    labels, targets = [], []
    for rois, objects in zip(step.rois, step.objects, strict=True):
        boxes = objects["boxes"].numpy()
        for roi in rois.numpy():
            ious = [iou(roi, box) for box in boxes]
            best = int(np.argmax(ious))
            labels.append(int(objects["labels"][best]) if ious[best] >= 0.5 else 0)
            targets.append(encode(roi, boxes[best]))
    return labels, targets


def roi_features(step: Step, factor: float) -> Array:
    """RoIAlign with four samples a position, of RoIs enlarged about their centres, from the levels of their sizes."""
    features = []
    for number, rois in enumerate(step.rois):
        for roi in rois.numpy():
            centre, sides = (roi[:2] + roi[2:]) / 2, factor * (roi[2:] - roi[:2])
            level = math.floor(4 + math.log2(math.sqrt((roi[2:] - roi[:2]).prod()) / 224))
            level = min(max(level, 2), 5)
            box = torch.from_numpy(np.concatenate([centre - sides / 2, centre + sides / 2]))
            pixels = step.pyramid[str(level - 2)][number, None].detach()
            features.append(roi_align(pixels, [box[None]], 7, 1 / 2**level, 2)[0].numpy())
    return np.stack(features)


def normalise_by_batch(x: Array, weights: dict[str, Array], name: str) -> Array:
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scaled = (x - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    return (
        scaled * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]
    )


def outputs(branch: nn.Module, x: Array) -> tuple[Array, Array]:
    """Logits (N, K + 1) and deltas (N, 4 (K + 1)) of a head in training."""
    weights = reference.arrays(branch)
    if isinstance(branch, FCHead):
        return reference.fc_head(x, weights)
    with patch.object(reference, "normalise", normalise_by_batch):
        x = reference.bottleneck(
            reference.residual_block(x, weights, "blocks.0"), weights, "blocks.1"
        )
    vector = x.mean((2, 3))
    return (
        reference.linear(vector, weights, "predictor.cls_score"),
        reference.linear(vector, weights, "predictor.bbox_pred"),
    )


def losses_of(step: Step) -> dict[str, tuple[float, float]]:
    labels, targets = truths(step)
    found = {}
    for name in step.detector.branches:
        branch = step.detector.roi_heads.heads.branch(name)
        logits, deltas = outputs(branch, roi_features(step, ENLARGEMENT[name]))
        cls = reg = 0.0
        for i, label in enumerate(labels):
            cls += math.log(sum(math.exp(v) for v in logits[i])) - logits[i, label]
            for k in range(4 if label else 0):
                off = abs(deltas[i, 4 * label + k] - targets[i][k])
                reg += 0.5 * off**2 if off < 1 else off - 0.5
        # Both are divided by all sampled RoIs, the regression's sum over positives too.
        found[name] = (cls / len(labels), reg / len(labels))
    return found


def test_every_structure_is_here() -> None:
    assert set(WEIGHTS) == set(STRUCTURES)


@pytest.mark.parametrize("head", WEIGHTS)
def test_sampled_labels_and_targets(head: str) -> None:
    step = step_of(head)
    labels, targets = truths(step)
    assert len(labels) == IMAGES * ROIS
    assert 0 < sum(label > 0 for label in labels) < len(labels)
    assert step.labels.tolist() == labels
    positive = step.labels > 0
    np.testing.assert_allclose(step.deltas[positive], np.array(targets)[positive], rtol=1e-10)


@pytest.mark.parametrize("head", WEIGHTS)
def test_losses_equal_the_papers_formulas(head: str) -> None:
    step = step_of(head)
    unweighted = losses_of(step)
    second_stage = {}
    for branch, weights in WEIGHTS[head].items():
        tasks = zip(("classification", "regression"), weights, unweighted[branch], strict=True)
        second_stage |= {f"{branch}_{task}": w * loss for task, w, loss in tasks if w}
    assert all(loss > 0.01 for loss in second_stage.values())
    rpn = {"loss_objectness", "loss_rpn_box_reg"}
    assert set(step.losses) == {*second_stage, *rpn}
    for name, loss in second_stage.items():
        # The losses are taken of float32 outputs.
        assert step.losses[name].item() == pytest.approx(loss, rel=1e-5), name


def gradients(step: Step, names: list[str]) -> dict[str, Tensor | None]:
    """By parameter: the gradient of the sum of some losses; None where there is none."""
    trained = {n: p for n, p in step.detector.named_parameters() if p.requires_grad}
    total = torch.stack([step.losses[name] for name in names]).sum()
    found = torch.autograd.grad(total, list(trained.values()), retain_graph=True, allow_unused=True)
    every = dict.fromkeys((name for name, _ in step.detector.named_parameters()))
    return {**every, **dict(zip(trained, found, strict=True))}


def moved(found: dict[str, Tensor | None], prefix: str) -> bool:
    """Whether all parameters of a module get a gradient; it is a mistake if some do and some do not."""
    some = [g is not None and bool(g.any()) for n, g in found.items() if n.startswith(prefix)]
    assert some
    assert all(some) or not any(some), prefix
    return all(some)


@pytest.mark.parametrize("head", WEIGHTS)
def test_each_loss_reaches_its_branch_and_no_other(head: str) -> None:
    step = step_of(head)
    for branch, weights in WEIGHTS[head].items():
        for task, weight in zip(("classification", "regression"), weights, strict=True):
            if not weight:
                continue
            found = gradients(step, [f"{branch}_{task}"])
            for other in WEIGHTS[head]:
                inside = f"roi_heads.heads.{other}."
                mine = other == branch
                classifier = mine and task == "classification"
                regressor = mine and task == "regression"
                assert moved(found, f"{inside}predictor.cls_score.") == classifier
                assert moved(found, f"{inside}predictor.bbox_pred.") == regressor
                trunk = {n: g for n, g in found.items() if ".predictor." not in n}
                assert moved(trunk, inside) == mine
            assert not moved(found, "rpn.head.")


@pytest.mark.parametrize("head", WEIGHTS)
def test_backbone_and_pyramid_learn_from_every_branch(head: str) -> None:
    step = step_of(head)
    groups = [[n for n in step.losses if n.startswith(f"{b}_")] for b in WEIGHTS[head]]
    groups.append(["loss_objectness", "loss_rpn_box_reg"])
    apart = [gradients(step, names) for names in groups]
    together = gradients(step, list(step.losses))
    # What has no weight is frozen, so that neither momentum nor decay moves it.
    frozen = {name for name, p in step.detector.named_parameters() if not p.requires_grad}
    for branch, weights in WEIGHTS[head].items():
        for layer, weight in zip(("cls_score", "bbox_pred"), weights, strict=True):
            assert (f"roi_heads.heads.{branch}.predictor.{layer}.weight" in frozen) == (not weight)
    assert moved(together, "rpn.head.")
    shared = [n for n in together if n.startswith("backbone.") and together[n] is not None]
    assert any(n.startswith("backbone.body.") for n in shared)
    assert any(n.startswith("backbone.fpn.") for n in shared)
    # RoIs of this size are pooled from the finest level: its own layers learn from each branch.
    for layer in ("backbone.body.stem.0.weight", "backbone.fpn.layer_blocks.0.0.weight"):
        for found in apart:
            gradient = found[layer]
            assert gradient is not None
            assert gradient.abs().max() > 1e-6
    for name in shared:
        parts = [g for found in apart if (g := found[name]) is not None]
        whole = together[name]
        assert whole is not None
        torch.testing.assert_close(sum(parts[1:], parts[0]), whole, rtol=1e-5, atol=1e-9)
