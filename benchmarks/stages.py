"""Where the time goes: seconds by stage of one pass over an object's proposals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import seconds, synchronise

STAGES = ("pool", "linear", "convolutions", "predict")
"""By the names under which the package's own code reports them (``torch.profiler.record_function``)."""

REST, TOTAL = "rest", "total"
_MODULES = {"fc6": "linear", "fc7": "linear", "blocks": "convolutions", "predictor": "predict"}


def module_seconds(
    pooler: nn.Module, head: nn.Module, work: Callable[[], object]
) -> dict[str, float]:
    """Seconds by stage of work that goes through a pooler and a head's modules: clocks before and after each."""
    stages = {stage: [layer] for stage, layer in (("pool", pooler),)}
    for name, layer in head.named_children():
        stages.setdefault(_MODULES[name], []).append(layer)
    spent = dict.fromkeys(stages, 0.0)
    with _clocks(stages, spent):
        total = seconds(work)
    return _with_rest(spent, total)


@contextmanager
def _clocks(stages: Mapping[str, list[nn.Module]], spent: dict[str, float]) -> Iterator[None]:
    begun: dict[str, float] = {}

    def begin(stage: str) -> None:
        synchronise()
        begun[stage] = time.perf_counter()

    def end(stage: str) -> None:
        synchronise()
        spent[stage] += time.perf_counter() - begun[stage]

    hooks = []
    for stage, layers in stages.items():
        for layer in layers:
            hooks.append(layer.register_forward_pre_hook(lambda *_, s=stage: begin(s)))
            hooks.append(layer.register_forward_hook(lambda *_, s=stage: end(s)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def record_seconds(work: Callable[[], object]) -> dict[str, float]:
    """Seconds by stage of work that reports its stages; those that it does not report are left out."""
    activities = [ProfilerActivity.CPU]
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, acc_events=True) as profiled:
        total = seconds(work)
    spent: dict[str, float] = {}
    for event in profiled.key_averages():
        if event.key in STAGES:
            micro = event.device_time_total if on_gpu else event.cpu_time_total
            spent[event.key] = max(spent.get(event.key, 0.0), micro * 1e-6)
    return _with_rest(spent, total)


def _with_rest(spent: dict[str, float], total: float) -> dict[str, float]:
    return {**spent, REST: total - sum(spent.values()), TOTAL: total}
