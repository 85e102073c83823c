"""Checkpoints of other people's weights, in the layouts that they are saved in."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch

from rethink_heads.detectors.checkpoints.reading import read_checkpoint
from rethink_heads.detectors.torchvision.opening import CLASS_WEIGHT, _read_weights
from tests.fuzz.coco import broken
from tests.fuzz.harness import REFUSED, Case


def dumped(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def numbers(state: Any) -> Any:
    """Tensors as what can be compared and printed."""
    dense = {
        name: value.reshape(-1) for name, value in sorted(state.items()) if not value.is_sparse
    }
    return {
        name: (str(v.dtype), v.view(torch.uint8).numpy().tobytes()) for name, v in dense.items()
    }


def check(case: Case) -> None:
    """Weights under the names and wrappers that people save them in."""
    kind = case.pick([torch.float32, torch.float16, torch.bfloat16, torch.float64])
    state = {
        CLASS_WEIGHT: torch.arange(12.0).reshape(4, 3),
        "roi_heads.box_predictor.cls_score.bias": torch.tensor([1.5, -2.0, 0.0, 9.0]).to(kind),
        "backbone.bn.num_batches_tracked": torch.tensor(7),
    }
    prefix = case.pick(["", "", "module."])
    named = {prefix + name: value for name, value in state.items()}
    wrappers = ["", "model", "state_dict", "model_state_dict", "ema", "model_ema", "net", "weights"]
    wrapper = case.pick(wrappers)
    training = {"optimizer": {"state": {0: torch.ones(2)}}, "note": None}
    beside = case.pick([{}, {"epoch": 3}, training])
    content: Any = {wrapper: named, **beside} if wrapper else named
    if wrapper == "ema" and case.chance(0.5):
        content = {"ema": {"module": named, "updates": 3}}
    way = case.pick(["whole", "whole", "bytes", "model", "spoiled"])
    case.input = f"foreign {way}: under {wrapper!r}, prefix {prefix!r}, beside {list(beside)}"
    if way == "model":
        content = torch.nn.Linear(2, 2)
    if way == "spoiled":
        trees = [{}, {"model": None}, {1: torch.ones(1)}, {"a": {"b": {"c": 1}}}]
        content = case.pick([[], None, 5, "x", *trees, {"model": {"w": torch.ones(1).to_sparse()}}])
        case.input += f" {content!r}"
    data = dumped(content)
    path = case.folder / case.pick(["weights.pth", "weights.pt", "weights.pkl", "weights"])
    if way == "bytes":
        pickled = pickle.dumps({"model": {"w": np.arange(6.0).reshape(2, 3)}})
        data = broken(case, case.pick([data, data, pickled]))
    path.write_bytes(data)
    reader = case.pick([read_checkpoint, _read_weights])

    def taken() -> Any:
        found = reader(path)
        return numbers(found[0] if isinstance(found, tuple) else found.state)

    found = case.read(taken)
    if way == "whole":
        # Of wrappers that are not known, the keys that are there are named.
        known = wrapper in ("", "model", "state_dict")
        case.judge(found, numbers(state), *([] if known else [REFUSED]), names=[wrapper])
    elif way == "model" or (way == "spoiled" and "sparse" not in repr(content)):
        case.judge(found, REFUSED, names=[path.name])
