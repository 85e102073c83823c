"""Pickles of arrays: every way that NumPy writes them, and nothing that could run."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rethink_heads.detectors.imports.pickles import ForbiddenObject, load_arrays
from rethink_heads.detectors.imports.reading import read_checkpoint
from rethink_heads.errors import UserError

KINDS = st.sampled_from(["<f4", "<f8", "<f2", ">f4", "<i8", ">i4", "|u1", "|b1"])
ORDERS = st.sampled_from(["C", "F", "reversed"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles")


def written(folder: Path, content: object, protocol: int = 4) -> Path:
    path = folder / "file.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


# Drawing arrays takes most of the time.
@settings(max_examples=40, deadline=None)
@given(data=st.data(), protocol=st.integers(0, pickle.HIGHEST_PROTOCOL), order=ORDERS)
def test_every_array_comes_back(
    folder: Path, data: st.DataObject, protocol: int, order: str
) -> None:
    array = data.draw(KINDS.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes())))
    stored = array[::-1] if order == "reversed" else np.array(array, order=order)  # type: ignore[call-overload]
    weights = collections.OrderedDict({"array": stored, "turned": stored.T, "one": np.float32(3)})
    content = {"model": weights, "__author__": "somebody"}
    checkpoint = read_checkpoint(written(folder, content, protocol))
    assert set(checkpoint.state) == {"array", "turned", "one"}
    native = stored.astype(stored.dtype.newbyteorder("="))
    for name, expected in (("array", native), ("turned", native.T)):
        found = checkpoint.state[name].numpy()
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert checkpoint.state["one"] == 3
    assert checkpoint.extras == ("__author__",)


def test_what_is_no_number_is_left_out(folder: Path) -> None:
    weights = {"w": np.ones(2), "names": np.array(["a"]), "objects": np.array([None]), "plain": 1.0}
    assert list(read_checkpoint(written(folder, weights)).state) == ["w"]


class Surprise:
    """What a pickle of somebody's may hold."""

    def __init__(self, call: Any, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize(
    "thing",
    [
        Surprise(print, "run while reading"),
        Surprise(getattr, 1, "real"),
        Surprise(np.load, "file"),
        Surprise(eval, "print('run while reading')"),
        torch.zeros(2),
        Path("somewhere"),
        Surprise,
    ],
)
def test_nothing_else_is_called(
    thing: object, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(folder, {"model": {"weight": np.ones(1), "thing": thing}})
    with pytest.raises(ForbiddenObject):
        load_arrays(path)
    with pytest.raises(UserError, match=r"more than NumPy arrays and plain values.*read \(\w+"):
        read_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_bytes_are_encoded_as_numpy_does_and_no_other_way(folder: Path) -> None:
    path = folder / "codec.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vtext\nVlatin1\ntR.")
    assert load_arrays(path) == b"text"
    path.write_bytes(b"c_codecs\nencode\n(Vtext\nVrot13\ntR.")
    with pytest.raises(ForbiddenObject, match="rot13"):
        load_arrays(path)


def test_a_file_cannot_change_what_the_next_one_is_read_with(folder: Path) -> None:
    path = folder / "attributes.pkl"
    # BUILD with a pair sets attributes of what is on the stack, here of the function that encodes.
    path.write_bytes(b"c_codecs\nencode\n(N(dS'marked'\nI1\nstb.")
    first = load_arrays(path)
    assert first.marked == 1
    path.write_bytes(b"c_codecs\nencode\n.")
    assert not hasattr(load_arrays(path), "marked")


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04."])
def test_damaged_files(content: bytes, folder: Path) -> None:
    path = folder / "damaged.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or no pickle of NumPy arrays"):
        read_checkpoint(path)


def test_a_tensor_file_under_the_other_suffix(folder: Path) -> None:
    path = folder / "tensors.pkl"
    torch.save({"model": {"weight": torch.ones(2)}}, path)
    assert torch.equal(read_checkpoint(path).state["weight"], torch.ones(2))
