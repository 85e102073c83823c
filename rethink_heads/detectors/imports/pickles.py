"""Pickled NumPy arrays, the form of detectron2's model zoo (.pkl), read without running what a file says.

A pickle builds its objects by calling what it names, and then sets their state. Here it may name only what NumPy
arrays, their types and ordered dictionaries are made by; anything else is refused before it is called. NumPy itself is
not called either, since an array of objects takes a file's bytes for their addresses: the names stand for records of
what the file says, and arrays are made of these at the end, of numbers alone.
"""

from __future__ import annotations

import math
import mmap
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

# NumPy 1 and 2 call the module of its constructors differently.
NUMPY_CORES = ("numpy.core", "numpy._core")
NUMBERS = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
"""NumPy's names of the types that arrays are made of."""
BYTE_ORDERS = ("<", ">", "=", "|")
TEXT = "U"


class ForbiddenObject(pickle.UnpicklingError):
    """A pickle names something beside arrays and plain values; its name is the message."""


@dataclass(frozen=True)
class NoNumbers:
    """Stands for an array or scalar of NumPy that holds no numbers, of which nothing is read."""


@dataclass(frozen=True)
class _Callable:
    """A name that a pickle may use. It has no state, which a pickle could otherwise set and so leave to the next."""

    name: str
    make: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)

    def __setstate__(self, _: object) -> NoReturn:
        raise ForbiddenObject(f"the state of {self.name}")


@dataclass
class _Kind:
    """What a file says of ``numpy.dtype``: its name, and in its state the order of the bytes."""

    name: str
    order: str = "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in BYTE_ORDERS:
            raise ValueError(f"no state of a type of NumPy: {state!r}")
        self.order = state[1]


@dataclass(eq=False)
class _Array:
    """What a file says of an array: at once, or in the state that it sets afterwards."""

    data: Any = None
    kind: Any = None
    shape: Any = ()
    order: Any = "C"
    axes: Any = None
    # As an array, it is no key.
    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, is_fortran, self.data = state
        self.order = "F" if is_fortran else "C"

    def made(self) -> np.ndarray | NoNumbers:
        """The array of these bytes: as long as the shape asks for, and of numbers alone."""
        numbers = _numbers(self.kind)
        if numbers is None:
            return NoNumbers()
        content = _bytes(self.data)
        sides = [side for side in self.shape if isinstance(side, int) and side >= 0]
        if len(sides) != len(self.shape) or math.prod(sides) * numbers.itemsize != len(content):
            raise ValueError(f"{len(content)} bytes for an array of shape {self.shape!r}")
        flat = np.frombuffer(content, numbers) if content else np.empty(0, numbers)
        if self.axes is not None:
            return flat.reshape(sides).transpose(self.axes)
        return flat.reshape(sides, order=self.order)


def _numbers(kind: Any) -> np.dtype[Any] | None:
    """The type that a file says, or None where it is not one of numbers."""
    if not isinstance(kind, _Kind):
        raise ForbiddenObject(f"an array of {type(kind).__name__}")
    return np.dtype(kind.order + kind.name) if kind.name in NUMBERS else None


def _scalar(kind: Any, data: Any = b"") -> Any:
    """One number of NumPy, or a text."""
    if isinstance(kind, _Kind) and kind.name.startswith(TEXT):
        utf32 = "utf-32-be" if kind.order == ">" else "utf-32-le"
        return _bytes(data).decode(utf32).rstrip("\0")
    made = _Array(data, kind, (1,)).made()
    return made if isinstance(made, NoNumbers) else made[0]


def _bytes(data: Any) -> bytes:
    """Bytes, also those that Python 2 wrote, whose texts they are."""
    if isinstance(data, str):
        return data.encode("latin1")
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise ForbiddenObject(f"an array over {type(data).__name__}")


def _kind(name: Any, *_: Any) -> _Kind:
    if not isinstance(name, str):
        raise ForbiddenObject(f"numpy.dtype of {type(name).__name__}")
    return _Kind(name)


def _never(*_: Any) -> NoReturn:
    # NumPy writes an array's class down to name it, and calls `_reconstruct`.
    raise ForbiddenObject("numpy.ndarray, called")


def _empty_array(array_type: Any, *_: Any) -> _Array:
    if array_type is not _NDARRAY:
        raise ForbiddenObject("an array of another class")
    return _Array()


def _latin1(text: Any, encoding: Any) -> bytes:
    # Bytes in pickles of the protocols up to 2.
    if encoding != "latin1" or not isinstance(text, str):
        raise ForbiddenObject(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    # Python 2 gives the pairs at once; later ones set them one by one.
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise ForbiddenObject(f"collections.OrderedDict of {type(pairs).__name__}")
    return OrderedDict(pairs)


_NDARRAY = _Callable("numpy.ndarray", _never)


def _named() -> dict[tuple[str, str], _Callable]:
    makers: dict[tuple[str, str], Callable[..., Any]] = {
        ("__builtin__", "bytes"): _no_bytes,
        ("collections", "OrderedDict"): _ordered,
        ("numpy", "dtype"): _kind,
        ("_codecs", "encode"): _latin1,
    }
    for core in NUMPY_CORES:
        makers[f"{core}.multiarray", "_reconstruct"] = _empty_array
        makers[f"{core}.multiarray", "scalar"] = _scalar
        makers[f"{core}.numeric", "_frombuffer"] = _Array
    named = {key: _Callable(".".join(key), make) for key, make in makers.items()}
    return named | {("numpy", "ndarray"): _NDARRAY}


CALLABLE = _named()
"""What a pickle may call, by the names that it is known by."""


class _ArrayUnpickler(pickle._Unpickler):
    """Python's own reader: the one in C makes room for as many bytes as a file claims to hold.

    Its stream has to be one whose ``read`` returns what there is, as that of a memory map does.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self: Any) -> None:
        """Read a bytearray without making room for it before."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        found = CALLABLE.get((module, name))
        if found is None:
            raise ForbiddenObject(f"{module}.{name}")
        return found


def _finished(value: Any, seen: dict[int, Any]) -> Any:
    """The same with arrays in place of what was said of them; dictionaries and lists are changed in place."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Array):
        seen[id(value)] = value.made()
    elif isinstance(value, dict):
        seen[id(value)] = value
        for key, each in value.items():
            value[key] = _finished(each, seen)
    elif isinstance(value, list):
        seen[id(value)] = value
        value[:] = [_finished(each, seen) for each in value]
    elif isinstance(value, tuple):
        finished = tuple(_finished(each, seen) for each in value)
        seen[id(value)] = finished
    else:
        return value
    return seen[id(value)]


def load_arrays(path: Path) -> Any:
    """The content of a pickle of plain values and NumPy arrays; Python 2's text is taken for Latin-1, as by detectron2.

    Arrays and scalars of NumPy are read where they hold numbers, scalars also where they are texts; of any other there
    is a :class:`NoNumbers`.

    Raises:
        ForbiddenObject: it names anything else.
        Exception: whatever bytes that are no pickle make the reader raise.
    """
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content_map,
    ):
        content = _ArrayUnpickler(content_map, encoding="latin1").load()
    return _finished(content, {})
