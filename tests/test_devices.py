"""Where and in what numbers is computed."""

from __future__ import annotations

import torch

from rethink_heads.machine import whole_float32


def test_whole_float32_turns_tf32_off_and_leaves_the_rest():
    settings = torch.backends.cudnn
    before = (settings.enabled, settings.benchmark, settings.deterministic, settings.allow_tf32)
    with whole_float32():
        assert not settings.allow_tf32
        assert (settings.enabled, settings.benchmark, settings.deterministic) == before[:3]
    assert (
        settings.enabled,
        settings.benchmark,
        settings.deterministic,
        settings.allow_tf32,
    ) == before
