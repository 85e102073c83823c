"""Pickles read without running what they say: NumPy arrays of numbers, and the outline of any other checkpoint.

A pickle builds its objects by calling what it names, and then sets their state. In detectron2's model zoo (.pkl) it may
name only what NumPy arrays, their types and ordered dictionaries are made by; anything else is refused before it is
called. NumPy itself is not called either, since an array of objects takes a file's bytes for their addresses: the names
stand for records of what the file says, and arrays are made of numbers alone.

Of a file that is refused the outline is read, in which every name stands for an :class:`Outline`. So a sentence can
name the file's keys, and the line that writes its weights alone.
"""

from __future__ import annotations

import math
import mmap
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

NUMBERS = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
"""NumPy's names of the types that arrays are made of."""
BYTE_ORDERS = ("<", ">", "=", "|")
TEXT = "U"
MOST_OUTLINE_BYTES = 2**26
"""Larger pickles, which hold more than the outline of a checkpoint, are not looked at."""


class ForbiddenObject(pickle.UnpicklingError):
    """A pickle names something beside arrays and plain values; its name is the message."""


@dataclass
class _Type:
    """What a file says of a ``numpy.dtype``: its name, and in its state the order of the bytes."""

    name: str
    order: str = "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in BYTE_ORDERS:
            raise ValueError(f"no state of a type of NumPy: {state!r}")
        self.order = state[1]


class ArrayRecord:
    """Stands for an array, which a pickle refers to before it says what is in it.

    Attributes:
        value: the array; None where it holds no numbers.
    """

    value: np.ndarray | None = None
    # As an array, it is no key.
    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, data = state
        self.value = _array(data, kind, shape, "F" if is_fortran else "C")


def _array(
    data: Any, kind: Any, shape: Any = (1,), order: Any = "C", axes: Any = None
) -> np.ndarray | None:
    """The array of some bytes, as long as the shape asks for; None where the type is none of numbers."""
    if not isinstance(kind, _Type):
        raise ForbiddenObject(f"an array of {type(kind).__name__}")
    if kind.name not in NUMBERS:
        return None
    numbers, content = np.dtype(kind.order + kind.name), _bytes(data)
    sides = [side for side in shape if isinstance(side, int) and side >= 0]
    if len(sides) != len(shape) or math.prod(sides) * numbers.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for an array of shape {shape!r}")
    flat = np.frombuffer(content, numbers) if content else np.empty(0, numbers)
    if axes is not None:
        return flat.reshape(sides).transpose(axes)
    return flat.reshape(sides, order=order)


def _bytes(data: Any) -> bytes:
    """Bytes, also those that Python 2 wrote, whose texts they are."""
    if isinstance(data, str):
        return data.encode("latin1")
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise ForbiddenObject(f"an array over {type(data).__name__}")


def _scalar(kind: Any, data: Any = b"") -> Any:
    """One number of NumPy, or a text."""
    if isinstance(kind, _Type) and kind.name.startswith(TEXT):
        utf32 = "utf-32-be" if kind.order == ">" else "utf-32-le"
        return _bytes(data).decode(utf32).rstrip("\0")
    made = _array(data, kind)
    return None if made is None else made[0]


def _type(name: Any, *_: Any) -> _Type:
    if not isinstance(name, str):
        raise ForbiddenObject(f"numpy.dtype of {type(name).__name__}")
    return _Type(name)


def _ndarray(*_: Any) -> None:
    # NumPy writes an array's class down to name it, and calls `_reconstruct`.
    raise ForbiddenObject("numpy.ndarray, called")


def _reconstruct(array_type: Any, *_: Any) -> ArrayRecord:
    if array_type is not _ndarray:
        raise ForbiddenObject("an array of another class")
    return ArrayRecord()


def _from_buffer(*arguments: Any) -> ArrayRecord:
    record = ArrayRecord()
    record.value = _array(*arguments)
    return record


def _latin1(text: Any, encoding: Any) -> bytes:
    # Bytes in pickles of the protocols up to 2.
    if encoding != "latin1" or not isinstance(text, str):
        raise ForbiddenObject(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    # Python 2 gives the pairs at once; later ones set them one by one.
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise ForbiddenObject(f"collections.OrderedDict of {type(pairs).__name__}")
    return OrderedDict(pairs)


CALLABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("__builtin__", "bytes"): lambda: b"",
    ("collections", "OrderedDict"): _ordered,
    ("numpy", "dtype"): _type,
    ("numpy", "ndarray"): _ndarray,
    ("_codecs", "encode"): _latin1,
}
"""What a pickle may call, by the names that it is known by."""
# NumPy 1 and 2 call the module of its constructors differently.
for _core in ("numpy.core", "numpy._core"):
    CALLABLE[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    CALLABLE[f"{_core}.multiarray", "scalar"] = _scalar
    CALLABLE[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _ArrayUnpickler(pickle._Unpickler):
    """Python's own reader: the one in C makes room for as many bytes as a file claims to hold.

    Its stream has to be one whose ``read`` returns what there is, as that of a memory map does.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self: Any) -> None:
        """Read a bytearray without making room for it before."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def load_build(self: Any) -> None:
        """Set the state of a record; what a pickle calls has none, which it could leave to the next."""
        if isinstance(self.stack[-2], OrderedDict):
            # Attributes, of which weights by name need none.
            self.stack.pop()
            return
        if not isinstance(self.stack[-2], _Type | ArrayRecord):
            raise ForbiddenObject(
                f"the state of {getattr(self.stack[-2], '__name__', 'an object')}"
            )
        pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        found = CALLABLE.get((module, name))
        if found is None:
            raise ForbiddenObject(f"{module}.{name}")
        return found


def load_arrays(path: Path) -> Any:
    """The content of a pickle of plain values and NumPy arrays; Python 2's text is taken for Latin-1, as by detectron2.

    There is an :class:`ArrayRecord` for every array. Scalars of NumPy are read where they are numbers or texts, or else
    None.

    Raises:
        ForbiddenObject: it names anything else.
        Exception: whatever bytes that are no pickle make the reader raise.
    """
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content_map,
    ):
        return _ArrayUnpickler(content_map, encoding="latin1").load()


class Outline:
    """Stands for an object of a class that is not loaded; nothing is kept of what the file puts into it.

    Attributes:
        name: of the class.
        state: what the file says that the object holds.
    """

    name = "object"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Keep nothing."""

    extend = append

    @property
    def is_module(self) -> bool:
        """Whether it is a module of PyTorch."""
        return isinstance(self.state, dict) and "_modules" in self.state


class _Ordered(dict[Any, Any]):
    def __setstate__(self, _: Any) -> None:
        pass


class _OutlineUnpickler(pickle._Unpickler):  # The one in C prints what it trips over.
    def find_class(self, module: str, name: str) -> Any:
        # Mappings of weights are ordered dictionaries.
        if (module, name) == ("collections", "OrderedDict"):
            return _Ordered
        return type("Outline", (Outline,), {"name": name})

    def persistent_load(self, saved: Any) -> Any:
        # Files of old releases name classes of modules here, beside the storages of tensors.
        return saved[1] if saved[0] == "module" else None


def load_outline(path: Path) -> Any:
    """The content of a file of ``torch.save`` with an :class:`Outline` in place of every object and tensor.

    Raises:
        Exception: whatever bytes that are no such file make the reader raise.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as stream:
            # Before the content there are a magic number, a version and the sizes of the writer's integers.
            for _ in range(3):
                _OutlineUnpickler(stream).load()
            return _OutlineUnpickler(stream).load()
    with zipfile.ZipFile(path) as archive:
        (part,) = (each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
        if part.file_size > MOST_OUTLINE_BYTES:
            raise ValueError("the pickle is too large to be an outline")
        with archive.open(part) as stream:
            return _OutlineUnpickler(stream).load()
