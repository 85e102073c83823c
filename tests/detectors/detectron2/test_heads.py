"""Our heads inside detectron2 against this package's own detector and against loops in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from rethink_heads.bounds import HEADS
from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.detectors.rcnn.roi_heads import BoxRoIHeads
from rethink_heads.heads import STRUCTURES, build_heads
from tests.detectors.detectron2.small_detectors import (
    CLASSES,
    SMALL,
    batch,
    sampled_in_training,
    settled,
    small_model,
)


def ours_of(model: nn.Module, head: str, level_from: str = "proposal") -> BoxRoIHeads:
    """The second stage of this package's own detector with the weights of detectron2's."""
    conventions = ConventionsConfig.model_validate(
        {"roi_align_aligned": True, "roi_level_from": level_from}
    )
    settings = ModelConfig(
        fpn_channels=SMALL["MODEL.FPN.OUT_CHANNELS"],
        fc_width=SMALL["MODEL.RETHINK_HEADS.FC_WIDTH"],
        conv_width=SMALL["MODEL.RETHINK_HEADS.CONV_WIDTH"],
        conv_bottleneck=SMALL["MODEL.RETHINK_HEADS.CONV_BOTTLENECK"],
        non_local=True,
        conventions=conventions,
    )
    ours = BoxRoIHeads(build_heads(settings, head, CLASSES), settings)
    state = {
        name.removeprefix("roi_heads."): value
        for name, value in model.state_dict().items()
        if name.startswith("roi_heads.")
    }
    ours.load_state_dict(state)
    return ours


def pyramid_of(features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {str(level): features[f"p{level + 2}"] for level in range(4)}


@pytest.mark.parametrize(
    ("head", "level_from"),
    [("fc", "proposal"), ("conv", "proposal"), ("conv", "enlarged"), ("double-ext", "proposal")],
)
def test_losses_are_those_of_our_own_detector(head: str, level_from: str) -> None:
    model = small_model(head, MODEL__RETHINK_HEADS__ROI_LEVEL_FROM=level_from)
    ours = ours_of(model, head, level_from).train()
    features, _, sampled, losses = sampled_in_training(model)
    boxes = [each.proposal_boxes.tensor for each in sampled]
    labels = torch.cat([(each.gt_classes + 1) % (CLASSES + 1) for each in sampled])
    goals = [each.gt_boxes.tensor for each in sampled]
    deltas = torch.cat(BoxCoder((10.0, 10.0, 5.0, 5.0)).encode(goals, boxes))
    outputs = ours.heads(ours.pool(pyramid_of(features), boxes))
    expected = ours.heads.losses(outputs, labels, deltas)
    assert (labels > 0).sum() >= 4
    assert {f"loss_{name}" for name in expected} == set(losses)
    for name, value in expected.items():
        torch.testing.assert_close(losses[f"loss_{name}"], value, rtol=1e-4, atol=1e-6)


def loop_losses(
    outputs: dict[str, tuple[Tensor, Tensor]], sampled: list[Any], weights: Any
) -> dict[str, float]:
    """The weighted losses RoI by RoI in float64; smooth L1 turns at 1."""
    sums: dict[str, float] = {}
    rois = [
        (box, goal, int(label))
        for each in sampled
        for box, goal, label in zip(
            each.proposal_boxes.tensor, each.gt_boxes.tensor, each.gt_classes, strict=True
        )
    ]
    for branch, (logits, deltas) in outputs.items():
        classify, regress = weights[branch]
        for row, (box, goal, label) in enumerate(rois):
            index = 0 if label == CLASSES else label + 1
            values = logits[row].double()
            cross_entropy = float(values.exp().sum().log() - values[index])
            sums[f"loss_{branch}_classification"] = sums.get(
                f"loss_{branch}_classification", 0
            ) + classify * cross_entropy / len(rois)
            if not index:
                continue
            x1, y1, x2, y2 = box.double().tolist()
            u1, v1, u2, v2 = goal.double().tolist()
            width, height = x2 - x1, y2 - y1
            wanted = (
                10 * ((u1 + u2) / 2 - (x1 + x2) / 2) / width,
                10 * ((v1 + v2) / 2 - (y1 + y2) / 2) / height,
                5 * math.log((u2 - u1) / width),
                5 * math.log((v2 - v1) / height),
            )
            given = deltas[row, 4 * index : 4 * index + 4].double().tolist()
            for one, other in zip(given, wanted, strict=True):
                away = abs(one - other)
                loss = away**2 / 2 if away < 1 else away - 0.5
                key = f"loss_{branch}_regression"
                sums[key] = sums.get(key, 0) + regress * loss / len(rois)
    return sums


@pytest.mark.parametrize(
    ("head", "weights"),
    [
        ("double", {"fc": (2.0, 0.0), "conv": (0.0, 2.5)}),
        ("double-ext", {"fc": (1.4, 0.6), "conv": (0.5, 2.0)}),
    ],
)
def test_losses_are_those_of_a_loop_over_the_sampled_proposals(
    head: str, weights: dict[str, tuple[float, float]]
) -> None:
    model = small_model(head)
    features, _, sampled, losses = sampled_in_training(model)
    heads = model.roi_heads.heads
    boxes = [each.proposal_boxes.tensor for each in sampled]
    with torch.no_grad():
        outputs = heads(model.roi_heads.pool(features, boxes))
    for branch, pair in weights.items():
        assert heads.weights[branch] == pytest.approx(pair)
    expected = loop_losses(outputs, sampled, heads.weights)
    for name, value in losses.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-5)
    assert all(value == 0 for name, value in expected.items() if name not in losses)


@pytest.mark.parametrize("head", HEADS)
def test_every_structure_trains_a_step(head: str) -> None:
    model = small_model(head).train()
    trained = [p for p in model.roi_heads.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    with EventStorage():
        losses = model(batch())
    names = {name.split("_")[1] for name in losses if "rpn" not in name}
    assert names == set(STRUCTURES[head].branches)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    torch.optim.SGD(trained, lr=0.01).step()
    # Biases before a normalisation, and a block that begins as the identity, have no gradient yet.
    moved = [bool((p != b).any()) for p, b in zip(trained, before, strict=True)]
    assert sum(moved) > len(moved) / 2
    frozen = [p for p in model.roi_heads.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)
    assert bool(frozen) == (head not in ("fc", "conv", "double-ext"))


@pytest.mark.parametrize("head", ["conv", "double-ext"])
def test_detections_are_those_of_our_own_second_stage(head: str) -> None:
    model = settled(small_model(head))
    ours = ours_of(model, head).eval()
    with torch.inference_mode():
        images = model.preprocess_image(batch())
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features)
        found, _ = model.roi_heads(images, features, proposals)
        for index, size in enumerate(images.image_sizes):
            level = {k: v[index : index + 1] for k, v in pyramid_of(features).items()}
            boxes = proposals[index].proposal_boxes.tensor
            output = ours.predict(ours.pool(level, [boxes]), boxes, (head,), size)[head]
            expected = ours.suppress(output)
            assert len(expected.boxes) > 5
            torch.testing.assert_close(found[index].scores, expected.scores, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(
                found[index].pred_boxes.tensor, expected.boxes, rtol=1e-4, atol=1e-3
            )
            assert torch.equal(found[index].pred_classes, expected.labels)


def test_each_heads_output_is_our_own_second_stages() -> None:
    model = settled(small_model("double-ext"))
    ours = ours_of(model, "double-ext").eval()
    boxes = torch.tensor([[10.0, 12, 70, 90], [0, 0, 160, 128], [100, 3, 131, 50]])
    with torch.inference_mode():
        features = model.backbone(model.preprocess_image(batch()[:1]).tensor)
        pooled = model.roi_heads.pool(features, [boxes])
        found = model.roi_heads.predict(pooled, boxes, (128, 160))
        expected = ours.predict(
            ours.pool(pyramid_of(features), [boxes]),
            boxes,
            model.roi_heads.head_names,
            (128, 160),
        )
        none = model.roi_heads.pool(features, [boxes[:0]])
        empty = model.roi_heads.predict(none, boxes[:0], (128, 160))
    assert tuple(found) == ("fc", "conv", "double", "double-ext")
    for name, output in found.items():
        torch.testing.assert_close(output.scores, expected[name].scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(output.boxes, expected[name].boxes, rtol=1e-4, atol=1e-3)
        assert empty[name].scores.shape == (0, CLASSES)
        assert empty[name].boxes.shape == (0, CLASSES, 4)


def test_an_image_without_objects_trains_the_classifiers_alone() -> None:
    model = small_model("double-ext").train()
    made = batch()
    nothing = Instances(made[1]["instances"].image_size)
    nothing.gt_boxes, nothing.gt_classes = Boxes(torch.empty(0, 4)), torch.empty(0).long()
    made[1]["instances"] = nothing
    with EventStorage():
        alone = model(made[1:])
        both = model(made)
    assert alone["loss_fc_regression"].item() == alone["loss_conv_regression"].item() == 0
    assert all(torch.isfinite(value) for value in (*alone.values(), *both.values()))
    assert both["loss_conv_regression"].item() > 0
