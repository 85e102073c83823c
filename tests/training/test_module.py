"""Stochastic gradient descent as it is set up: rates and decay of weights and biases, against steps by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.training.module import DetectionModule
from tests.tiny_coco import CLASSES, SMALL_SETTINGS

PAPER = ["training.bias_learning_rate_factor=2.0", "training.bias_weight_decay=0.0"]


def made(*overrides: str) -> tuple[RCNN, Config, Any]:
    """A detector, its settings and what Lightning is given to train it."""
    config = load_preset(
        "shapes-tiny", "double-ext", [*SMALL_SETTINGS, "model.non_local=true", *overrides]
    )
    detector = build_detector(config, CLASSES).double()
    # Frozen, as the first stages of a backbone are: no group may have it.
    detector.backbone.body.stem[0].weight.requires_grad_(False)
    val: Any = None
    module = DetectionModule(detector, config.training, val, 0, "double-ext")
    return detector, config, module.configure_optimizers()


def biases(detector: RCNN) -> dict[int, Tensor]:
    """By id: what is added to the output of a convolution, a linear layer or a normalisation."""
    found = {}
    for layer in detector.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and layer.bias is not None:
            found[id(layer.bias)] = layer.bias
    return found


@pytest.mark.parametrize(
    ("overrides", "factor", "decay"),
    [
        (PAPER, 2.0, 0.0),
        (["training.bias_learning_rate_factor=0.5"], 0.5, 1e-4),
        (["training.bias_weight_decay=0.01"], 1.0, 0.01),
        ([], 1.0, 1e-4),
    ],
)
def test_each_parameter_has_its_rate_and_decay(
    overrides: list[str], factor: float, decay: float
) -> None:
    detector, config, found = made(*overrides)
    rate = config.training.learning_rate * config.training.warmup_factor
    given = {
        id(parameter): (group["lr"], group["weight_decay"], group["momentum"])
        for group in found["optimizer"].param_groups
        for parameter in group["params"]
    }
    of_biases = biases(detector)
    trained = [p for p in detector.parameters() if p.requires_grad]
    assert set(given) == {id(p) for p in trained}
    for parameter in trained:
        own = (factor, decay) if id(parameter) in of_biases else (1.0, 1e-4)
        assert given[id(parameter)] == pytest.approx((rate * own[0], own[1], 0.9))
    # Without settings of its own there is one group, as in checkpoints from before there were any.
    assert len(found["optimizer"].param_groups) == (2 if overrides else 1)


def test_steps_by_hand() -> None:
    detector, config, found = made(*PAPER, "training.weight_decay=0.1")
    training = config.training
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    of_biases = biases(detector)
    trained = {n: p for n, p in detector.named_parameters() if p.requires_grad}
    expected = {name: p.detach().clone() for name, p in trained.items()}
    velocity = {name: torch.zeros_like(p) for name, p in trained.items()}
    generator = torch.Generator().manual_seed(0)
    for iteration in range(3):
        done = iteration / training.warmup_iterations
        rate = training.learning_rate * (training.warmup_factor * (1 - done) + done)
        for name, p in trained.items():
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            is_bias = id(p) in of_biases
            decay = 0.0 if is_bias else 0.1 * expected[name]
            velocity[name] = 0.9 * velocity[name] + p.grad + decay
            expected[name] -= (2 if is_bias else 1) * rate * velocity[name]
        optimizer.step()
        schedule.step()
    for name, p in trained.items():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-10, atol=1e-12)
