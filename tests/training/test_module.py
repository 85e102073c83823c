"""Stochastic gradient descent as it is set up: rates and decay of weights and biases, and the schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, MultiStepLR

from rethink_heads.config import Config, TrainingConfig, load_preset
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.training.module import DetectionModule, learning_rate_factor
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
    bias_ids = biases(detector)
    trained = [p for p in detector.parameters() if p.requires_grad]
    assert set(given) == {id(p) for p in trained}
    for parameter in trained:
        own = (factor, decay) if id(parameter) in bias_ids else (1.0, 1e-4)
        assert given[id(parameter)] == pytest.approx((rate * own[0], own[1], 0.9))
    # Without settings of its own there is one group, as in checkpoints from before there were any.
    assert len(found["optimizer"].param_groups) == (2 if overrides else 1)


def reference(training: TrainingConfig, iterations: int) -> list[float]:
    """Factors of the first iterations: PyTorch's linear warm-up times its steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedules = [MultiStepLR(optimizer, sorted(training.milestones), training.gamma)]
    if training.warmup_iterations:
        schedules.append(
            LinearLR(optimizer, training.warmup_factor, 1.0, training.warmup_iterations)
        )
    both = ChainedScheduler(schedules)
    factors = []
    for _ in range(iterations):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    return factors


@settings(deadline=None, max_examples=40)
@given(
    warmup=st.integers(0, 30),
    factor=st.floats(0.01, 1.0),
    milestones=st.lists(st.integers(1, 50), max_size=4, unique=True),
    gamma=st.floats(0.05, 1.0),
)
def test_it_is_pytorchs_warm_up_and_steps(
    warmup: int, factor: float, milestones: list[int], gamma: float
) -> None:
    training = TrainingConfig(
        warmup_iterations=warmup, warmup_factor=factor, milestones=milestones, gamma=gamma
    )
    factors = [learning_rate_factor(iteration, training) for iteration in range(60)]
    assert factors == pytest.approx(reference(training, 60), rel=1e-9)
