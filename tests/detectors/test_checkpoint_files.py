"""Files of weights as people have them: every usual layout is read, everything else is one sentence that helps."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rethink_heads.detectors.answers import check_loaded
from rethink_heads.detectors.checkpoints.reading import read_checkpoint
from rethink_heads.errors import UserError

STATE = {"body.weight": torch.arange(6.0).reshape(2, 3), "body.bias": torch.ones(2)}
OTHER = {"body.weight": torch.zeros(2, 3), "body.bias": torch.zeros(2)}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(2)}, "named": {"x": torch.zeros(1)}}}


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in STATE.items()}


LAYOUTS: dict[str, Any] = {
    "plain": STATE,
    "tutorial": {"epoch": 3, "model_state_dict": STATE, "optimizer_state_dict": OPTIMIZER},
    "torchvision": {"model": STATE, "optimizer": OPTIMIZER, "lr_scheduler": {"x": torch.ones(1)}},
    "lightning": {"state_dict": STATE, "optimizer_states": [OPTIMIZER], "callbacks": {}},
    "net": {"net": STATE, "acc": 0.5},
    "ema alone": {"ema": STATE, "updates": 7},
    "nested": {"model_ema": {"module": STATE, "decay": 0.9}},
    "own key": {"my_detector": STATE, "loss": torch.tensor(0.5), "best": 3},
    "distributed": prefixed("module."),
    "compiled": {"model": prefixed("_orig_mod.")},
    "both": prefixed("module._orig_mod."),
    "both, the other way round": prefixed("_orig_mod.module."),
    "compiled part": {"body._orig_mod." + n.partition(".")[2]: v for n, v in STATE.items()},
    "averaged": {"n_averaged": torch.tensor(3), **prefixed("module.")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_people_save(layout: str, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout], tmp_path / "file.pth")
    found = read_checkpoint(tmp_path / "file.pth").state
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_of_several_known_keys_the_trained_weights_are_read_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model_ema": OTHER, "model": STATE}, path)
    assert torch.equal(read_checkpoint(path).state["body.bias"], STATE["body.bias"])
    assert f"{path} holds weights under model and model_ema: those of model are read" in caplog.text


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_model_is_refused_and_how_to_write_its_weights_is_said(
    legacy: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model": Net()}, path, _use_new_zipfile_serialization=not legacy)
    says = (
        r"more than weights .*\.Net\); where you trust it, .*torch\.save\(torch\.load\(.*NEW_FILE"
    )
    with pytest.raises(UserError, match=says):
        read_checkpoint(path)


def saved(content: Any, path: Path) -> None:
    torch.save(content, path)


def compressed(path: Path) -> None:
    saved({"a": torch.zeros(2**18)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def cut(path: Path) -> None:
    saved(STATE, path)
    path.write_bytes(path.read_bytes()[:-300])


def flipped(path: Path) -> None:
    saved({"a": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(2000)) + 1000] ^= 4
    path.write_bytes(content)


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def reaching_beyond(path: Path) -> None:
    """An archive whose pickle declares a storage of many more numbers than the archive has."""
    saved({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(b"M\xe8\x03", b"M\xff\xff"))


def quantized(path: Path) -> None:
    saved({"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, path)


NO_CHECKPOINT: dict[str, tuple[Any, str]] = {
    "text": (lambda p: p.write_text("epoch,loss\n1,2\n"), "damaged or no checkpoint of PyTorch"),
    "empty": (lambda p: p.write_bytes(b""), "damaged or no checkpoint of PyTorch"),
    "folder": (lambda p: p.mkdir(), "is a folder: give a file in it"),
    "pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "is a pointer of Git LFS, not the weights",
    ),
    "page": (lambda p: p.write_text("<!DOCTYPE html><html>"), "is a web page, not the weights"),
    "cut": (cut, "damaged or no checkpoint of PyTorch"),
    "flipped": (flipped, "is damaged, since the check sum of .*/data/0 does not match"),
    "compressed": (compressed, "is compressed, and so no file that torch.save wrote"),
    "reaching beyond": (reaching_beyond, "damaged or no checkpoint of PyTorch"),
    "TorchScript": (scripted, r"archive of TorchScript: .*torch\.jit\.load\(FILE\)\.state_dict"),
    "no weights": (
        lambda p: saved({"epoch": 3, "optimizer": OPTIMIZER}, p),
        "holds no weights: .* but its keys are epoch, optimizer",
    ),
    "many long keys": (
        lambda p: saved({f"{number}{'x' * 999}": 1 for number in range(7)}, p),
        "its keys are 0x{59}, 1x{59}, 2x{59}, 3x{59}, 4x{59} and 2 more",
    ),
    "a list": (lambda p: saved([1, 2], p), "holds no weights: .* but it is a list"),
    "two of my own": (
        lambda p: saved({"first": STATE, "second": OTHER}, p),
        r"holds weights under several keys \(first, second\)",
    ),
    "meta": (
        lambda p: saved({"a": torch.empty(10**12, device="meta")}, p),
        r"the tensor a is without values \(on the device meta\)",
    ),
    "sparse": (lambda p: saved({"a": torch.eye(3).to_sparse()}, p), "tensor a is sparse or nested"),
    "quantized": (quantized, "the tensor a is quantized"),
    "complex": (lambda p: saved({"a": torch.ones(2) * 1j}, p), "the tensor a is complex"),
    "expanded": (
        lambda p: saved({"a": torch.ones(1).expand(10**6, 10**6)}, p),
        "the tensor a is of more numbers than the file has",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NO_CHECKPOINT)
def test_what_is_no_checkpoint_is_one_sentence(kind: str, tmp_path: Path) -> None:
    make, says = NO_CHECKPOINT[kind]
    path = tmp_path / "file.pth"
    make(path)
    with pytest.raises(UserError, match=rf"^{path}.*{says}") as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_safetensors_are_read_by_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file(prefixed("module."), path)
    assert torch.equal(read_checkpoint(path).state["body.bias"], STATE["body.bias"])
    cut = path.read_bytes()[:-4]
    lie = b'{"w":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}'.ljust(74)
    for damaged in (cut, (2**62).to_bytes(8, "little") + b"{}", (70).to_bytes(8, "little") + lie):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged or no safetensors file: download it again"):
            read_checkpoint(path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.pth"
    torch.save(STATE, path)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"cannot read .*file\.pth: no permission to read it"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore")
def test_a_file_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Surprise:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("run while reading",))

    path = tmp_path / "file.pth"
    for content in (Surprise(), {"model": Surprise()}, {"ema": [Surprise()], "model": STATE}):
        torch.save(content, path)
        with pytest.raises(UserError, match="holds more than weights"):
            read_checkpoint(path)
    path.write_bytes(pickle.dumps(Surprise()))
    with pytest.raises(UserError):
        read_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_what_a_module_has_loaded_is_finite() -> None:
    net = Net()
    check_loaded(net.state_dict().items(), "weights.pth")
    nn.init.constant_(net.body.bias, float("inf"))
    with pytest.raises(UserError, match=r"^weights\.pth has weights that are .*\(body\.bias\)"):
        check_loaded(net.state_dict().items(), "weights.pth")
