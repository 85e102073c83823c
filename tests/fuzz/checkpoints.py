"""Checkpoints: a run's own detector, other people's weights in their layouts, and pickles that mean harm."""

from __future__ import annotations

import functools
import io
import pickle
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.checkpoints.reading import read_checkpoint
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.detectors.rcnn.detector import save_detector
from rethink_heads.detectors.torchvision.opening import CLASS_WEIGHT, _read_weights
from rethink_heads.runs import Run
from tests.fuzz.coco import broken
from tests.fuzz.harness import REFUSED, Case, WrongError
from tests.tiny_coco import CLASSES, SMALL_SETTINGS

MARKER = "payload-ran"


class Harmful:
    """Makes a file when it is unpickled in the usual way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@functools.cache
def small_run() -> tuple[Config, dict[str, bytes]]:
    """Settings, and the files of a run with an untrained detector."""
    # No data of its own: the generated set would be made for it.
    config = load_preset("shapes-tiny", "fc", [*SMALL_SETTINGS, "data.source=/nowhere"])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", config)
        save_detector(build_detector(config, CLASSES, pretrained=False), config, run.detector_path)
        files = [path for path in run.path.rglob("*") if path.is_file()]
        return config, {str(path.relative_to(run.path)): path.read_bytes() for path in files}


def write_run(folder: Path) -> Path:
    """Write the small run into a folder."""
    for name, data in small_run()[1].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


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


@functools.cache
def small_state() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return numbers(Run.open(write_run(Path(folder))).load().state_dict())


def check_own(case: Case) -> None:
    """A run whose detector or settings were damaged: the same weights, or a refusal."""
    folder = write_run(case.folder / "run")
    path, settings = folder / "checkpoints" / "detector.pt", folder / "config.yaml"
    data = path.read_bytes()
    way = case.pick(["flip", "flip", "cut", "replaced", "settings", "whole"])
    case.input = f"own detector {way}"
    if way == "flip":
        place = case.random.randrange(len(data))
        case.input += f" at byte {place} of {len(data)}"
        changed = bytearray(data)
        changed[place] ^= 1 << case.random.randrange(8)
        path.write_bytes(changed)
    elif way == "cut":
        path.write_bytes(data[: case.random.randrange(len(data))])
    elif way == "replaced":
        empty = {"state": {}, "class_names": [], "config": {}}
        others = [b"", b"text", b"PK\x03\x04" * 99, *map(dumped, ({}, [1], empty))]
        path.write_bytes(case.pick(others))
    elif way == "settings":
        pairs = {
            "head: fc": ["head: conv"],
            "fc_width: 8": ["fc_width: 1000000000", "fc_width: 16"],
        }
        pairs |= {"fpn_channels: 4": ["fpn_channels: 8"], "backbone: tiny": ["backbone: resnet18"]}
        old = case.pick(list(pairs))
        new = case.pick(pairs[old])
        case.input += f" {new}"
        settings.write_text(settings.read_text().replace(old, new))
    found = case.read(lambda: numbers(Run.open(folder).load().state_dict()))
    same = [small_state()] if way in ("flip", "whole") else []
    case.judge(found, *same, *([REFUSED] if way != "whole" else []))


def check_foreign(case: Case) -> None:
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
    path.write_bytes(broken(case, data) if way == "bytes" else data)
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


def harmful(case: Case) -> tuple[str, bytes]:
    """A name and bytes of a pickle or header that would run code, or take memory for nothing."""
    marker = case.folder / MARKER
    array = np.arange(6.0).reshape(2, 3)
    files = {
        "payload.pkl": pickle.dumps({"model": {"w": array, "x": Harmful(marker)}}),
        "payload.pth": dumped({"model": {"w": torch.ones(2), "x": Harmful(marker)}}),
        "payload-old.pth": pickle.dumps(Harmful(marker), protocol=2),
        "memo.pkl": b"\x80\x04]r\xff\xff\xff\x3f.",
        "frame.pkl": b"\x80\x04\x95" + struct.pack("<Q", 2**33) + b"]\x94.",
        "bytes.pkl": b"\x80\x05\x8e" + struct.pack("<Q", 2**33) + b"abc.",
        "array.pkl": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"abc.",
        "deep.pkl": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep-tuple.pkl": b"\x80\x04)" + b"\x85" * 100_000 + b".",
        "shape.pkl": pickle.dumps({"model": {"w": array}}).replace(b"K\x02K\x03", b"M\xff\xffK\x03"),
        "long.pkl": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1.",
        "text.pkl": b"(dp0\nS'a'\nI" + b"9" * 100_000 + b"\ns.",
        "header.safetensors": struct.pack("<Q", 2**62) + b"{}",
        "lie.safetensors": struct.pack("<Q", 70)
        + b'{"w":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}'.ljust(74),
    }  # fmt: skip
    name = case.pick(list(files))
    return name, files[name]


def check_harmful(case: Case) -> None:
    """Nothing in a file runs, and nothing but what it holds is made room for."""
    name, data = harmful(case)
    case.input = f"harmful {name}"
    path = case.folder / name
    if case.chance(0.3):
        data = broken(case, data)
    path.write_bytes(data)
    case.read(
        lambda: (_read_weights if path.suffix == ".safetensors" else read_checkpoint)(path) and None
    )
    if (case.folder / MARKER).exists():
        raise WrongError("the file's own code ran")


def check(case: Case) -> None:
    """One of the kinds of checkpoints."""
    case.pick([check_own, check_foreign, check_harmful])(case)
