"""Learning rate by iteration: linear warm-up, then steps (authors' code)."""

from __future__ import annotations

from bisect import bisect_right

from rethink_heads.config import TrainingConfig


def learning_rate_factor(iteration: int, training: TrainingConfig) -> float:
    """Factor on the base learning rate at an iteration, counted from 0.

    Rises linearly from ``warmup_factor`` at iteration 0 to 1 at ``warmup_iterations``, and is multiplied by
    ``gamma`` at each milestone.
    """
    steps = training.gamma ** bisect_right(sorted(training.milestones), iteration)
    if iteration >= training.warmup_iterations:
        return steps
    done = iteration / training.warmup_iterations
    return steps * (training.warmup_factor * (1 - done) + done)
