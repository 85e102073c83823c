"""Pickles of arrays: every way that NumPy writes them, and nothing that could run."""

from __future__ import annotations

import collections
import copyreg
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rethink_heads.detectors.checkpoints.pickles import load_arrays
from rethink_heads.detectors.checkpoints.reading import read_checkpoint
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
    """What a pickle of somebody's may hold: a call, and a state that is set after it."""

    def __init__(self, call: Any, *arguments: object, state: object = None) -> None:
        self.reduced = call, arguments, state

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


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
    with pytest.raises(UserError, match=r"more than NumPy arrays and plain values.*read \(\w+"):
        read_checkpoint(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", [b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n"])
def test_a_file_cannot_change_what_the_next_one_is_read_with(name: bytes, folder: Path) -> None:
    path = folder / "attributes.pkl"
    # BUILD with a pair sets attributes of what is on the stack.
    path.write_bytes(name + b"(N(dS'place'\nI1\nstb.")
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)
    assert read_checkpoint(written(folder, {"w": np.ones(2)})).state["w"].tolist() == [1, 1]


def test_what_is_registered_under_a_number_is_not_called(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    monkeypatch.setitem(vars(copyreg)["_extension_cache"], 1, called.append)
    path = folder / "extension.pkl"
    path.write_bytes(b"\x80\x02\x82\x01(K\x01tR.")
    with pytest.raises(UserError, match=r"more than NumPy arrays.*extension 1"):
        read_checkpoint(path)
    assert called == []


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


ADDRESS = b"\x41" * 8
OBJECTS = Surprise(np.dtype, "O", False, True, state=(3, "|", None, None, None, -1, -1, 0))
RECONSTRUCT: Any = np.zeros(1).__reduce__()[0]
FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]
SCALAR: Any = np.float64(0).__reduce__()[0]
UNFIT = (1, (1,), OBJECTS, False, ADDRESS)


@pytest.mark.parametrize(
    "outer", [lambda each: each, lambda each: Surprise(collections.OrderedDict, [("a", each)])]
)
@pytest.mark.parametrize(
    "thing",
    [
        Surprise(np.ndarray, (1,), OBJECTS, ADDRESS),
        Surprise(np.ndarray, (4,), np.dtype("f8")),
        Surprise(RECONSTRUCT, np.ndarray, (0,), b"b", state=UNFIT),
        Surprise(FROM_BUFFER, ADDRESS, np.dtype("i8"), (1,), "C", state=UNFIT),
        Surprise(SCALAR, np.dtype("i8"), ADDRESS, state=UNFIT),
        Surprise(FROM_BUFFER, ADDRESS, OBJECTS, (1,), "C"),
        Surprise(SCALAR, OBJECTS, ADDRESS),
        Surprise(np.dtype, "i8", False, True, state=(3, "|", None, None, None, 64, 8, 63)),
    ],
)
def test_no_bytes_are_taken_for_addresses(thing: Any, outer: Any, folder: Path) -> None:
    """An array of objects made of a file's bytes would be read, and so whatever lies there, if it were made at all."""
    path = written(folder, {"model": {"weight": np.ones(1), "thing": outer(thing)}})
    try:
        state = read_checkpoint(path).state
    except UserError:
        return
    assert next(iter(state)) == "weight"
    assert all(value.dtype in (torch.float64, torch.int64) for value in state.values())


@pytest.mark.parametrize("pairs", [[["a", 1]], [("a", 1)], []])
def test_ordered_dictionaries_of_python_2(pairs: list[Any], folder: Path) -> None:
    path = written(folder, Surprise(collections.OrderedDict, pairs))
    assert load_arrays(path) == dict(pairs)


@pytest.mark.parametrize("given", ["ab", [1], np.zeros((1, 2))])
def test_ordered_dictionaries_of_anything_else(given: object, folder: Path) -> None:
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(written(folder, Surprise(collections.OrderedDict, given)))


@pytest.mark.parametrize("shape", [(3,), (-1,), (2, 2), (1, 2, 0)])
@pytest.mark.parametrize("call", ["state", "buffer"])
def test_an_array_is_as_long_as_its_bytes(shape: Any, call: str, folder: Path) -> None:
    kind, content = np.dtype("f4"), b"\0" * 8
    state = (1, shape, kind, False, content)
    thing = {
        "state": Surprise(RECONSTRUCT, np.ndarray, (0,), b"b", state=state),
        "buffer": Surprise(FROM_BUFFER, content, kind, shape, "C"),
    }[call]
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(written(folder, {"w": thing}))


def test_one_array_in_many_places_and_in_itself(folder: Path) -> None:
    array = np.arange(3.0)
    within: list[Any] = [array, (array, [array])]
    within.append(within)
    found = read_checkpoint(written(folder, {"a": array, "b": array, "within": within}))
    assert {name: value.tolist() for name, value in found.state.items()} == {
        "a": [0, 1, 2],
        "b": [0, 1, 2],
    }


TERABYTE = (2**40).to_bytes(8, "little")
GREEDY = {
    "bytearray": b"\x80\x05\x96" + TERABYTE + b"a",
    "bytes": b"\x80\x05\x8e" + TERABYTE + b"a",
    "frame": b"\x80\x05\x95" + TERABYTE + b"a",
    "memo": b"\x80\x04]r\xff\xff\xff\x3f.",
    "integer": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "deep": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuple": b"\x80\x04)" + b"\x85" * 100_000 + b".",
    "digits": b"(dp0\nS'a'\nI" + b"9" * 100_000 + b"\ns.",
}


@pytest.mark.parametrize("kind", GREEDY)
def test_no_room_is_made_for_bytes_that_are_not_there(kind: str, folder: Path) -> None:
    """A terabyte, as a file of 20 bytes claims: bytes and frames end early, and what asks for more fails."""
    path = folder / "file.pkl"
    path.write_bytes(GREEDY[kind])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"damaged|holds no weights"):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
