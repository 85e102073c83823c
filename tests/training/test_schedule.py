"""The learning rate by iteration, against PyTorch's own schedules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, MultiStepLR

from rethink_heads.config import TrainingConfig
from rethink_heads.training.module import learning_rate_factor


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


def test_the_papers_recipe() -> None:
    training = TrainingConfig()
    at = {i: learning_rate_factor(i, training) for i in (0, 250, 500, 119_999, 120_000, 160_000)}
    assert at[0] == pytest.approx(1 / 3)
    assert at[250] == pytest.approx(2 / 3)
    assert at[500] == at[119_999] == 1.0
    assert at[120_000] == pytest.approx(0.1)
    assert at[160_000] == pytest.approx(0.01)
