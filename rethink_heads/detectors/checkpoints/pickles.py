"""Pickles of NumPy arrays, as in detectron2's model zoo (.pkl), read without calling anything that they name.

A pickle builds its objects by calling what it names, and then sets their state. Here each name stands for an
:class:`Outline`, which keeps what it is called with and its state. Only the names by which NumPy arrays, their types
and ordered dictionaries are made are let pass, and arrays are made here, of the numbers in their bytes: NumPy itself
would take a file's bytes for the addresses of an array of objects.
"""

from __future__ import annotations

import math
import mmap
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

NUMBERS = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
"""NumPy's names of the types that arrays are made of."""
BYTE_ORDERS = ("<", ">", "=", "|")
RECONSTRUCT, SCALAR = "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar"
FROM_BUFFER, ENCODE, TYPE = "numpy.core.numeric._frombuffer", "_codecs.encode", "numpy.dtype"
ORDERED, NO_BYTES = "collections.OrderedDict", "__builtin__.bytes"
KNOWN = (RECONSTRUCT, SCALAR, FROM_BUFFER, ENCODE, TYPE, ORDERED, NO_BYTES, "numpy.ndarray")
"""What a pickle of arrays may name."""


class ForbiddenObject(pickle.UnpicklingError):
    """A pickle names something beside arrays and plain values; its name is the message."""


class Outline:
    """Stands for an object of a class that is not loaded, or for what a function that is not called would give.

    Attributes:
        place: module and name of the class or function; NumPy 1 and 2 call the module of theirs alike here.
        arguments: what the file calls it with.
        state: what the file says that the object holds.
    """

    place = "object"
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Keep nothing."""

    extend = append


class _OrderedWeights(dict[Any, Any]):
    """Mappings of weights are ordered dictionaries, perhaps with attributes, of which weights by name need none."""

    def __setstate__(self, _: Any) -> None:
        pass


class _ArrayUnpickler(pickle._Unpickler):
    """Python's own reader: the one in C prints what it trips over, and makes room for what a file claims to hold.

    Its stream has to be one whose ``read`` returns what there is, as that of a memory map does.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self: Any) -> None:
        """Read a bytearray without making room for it before."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        place = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if place not in KNOWN:
            raise ForbiddenObject(f"{module}.{name}")
        return _OrderedWeights if place == ORDERED else type(name, (Outline,), {"place": place})

    def get_extension(self, code: int) -> None:
        # What a library registered under a number would be taken from the registry's cache, and called.
        raise ForbiddenObject(f"extension {code}")


def load_arrays(path: Path) -> Any:
    """The content of a pickle of plain values and NumPy arrays; Python 2's text is taken for Latin-1, as by detectron2.

    What is in a mapping and no array of numbers is None there.

    Raises:
        ForbiddenObject: it names anything else.
        Exception: whatever bytes that are no pickle, or arrays that do not fit theirs, make the reader raise.
    """
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content_map,
    ):
        content = _ArrayUnpickler(content_map, encoding="latin1").load()
    open_ones, seen = [content], set[int]()
    while open_ones:
        each = open_ones.pop()
        # A mapping may be in itself.
        if isinstance(each, dict) and id(each) not in seen:
            seen.add(id(each))
            for key, value in each.items():
                each[key] = array_of(value) if isinstance(value, Outline) else value
            open_ones += each.values()
    return content


def array_of(outline: Outline) -> np.ndarray | None:
    """The array or number of NumPy's that an outline stands for; None where it is neither, or holds no numbers.
    Raises ValueError where its shape asks for more or fewer bytes than there are, or for what is none.
    """
    shape: Any = ()
    order: Any = "C"
    axes = None
    if outline.place == RECONSTRUCT and outline.state is not None:
        _, shape, kind, is_fortran, data = outline.state
        order = "F" if is_fortran else "C"
    elif outline.place == FROM_BUFFER:
        data, kind, shape, order, *rest = outline.arguments
        axes = rest[0] if rest else None
    elif outline.place == SCALAR and len(outline.arguments) == 2:
        kind, data = outline.arguments
    else:
        return None
    if not isinstance(kind, Outline) or kind.place != TYPE or kind.arguments[0] not in NUMBERS:
        return None
    byte_order = "=" if kind.state is None else kind.state[1]
    if byte_order not in BYTE_ORDERS:
        raise ValueError(f"no order of bytes: {byte_order!r}")
    numbers, content = np.dtype(byte_order + kind.arguments[0]), _bytes(data)
    sides = [side for side in shape if isinstance(side, int) and side >= 0]
    if len(sides) != len(shape) or math.prod(sides) * numbers.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for an array of shape {shape!r}")
    flat = np.frombuffer(content, numbers) if content else np.empty(0, numbers)
    return flat.reshape(sides, order=order) if axes is None else flat.reshape(sides).transpose(axes)


def _bytes(data: Any) -> bytes:
    """Bytes, also those that Python 2 wrote, whose texts they are, and those of the protocols up to 2."""
    if isinstance(data, Outline) and data.place == NO_BYTES and not data.arguments:
        return b""
    if isinstance(data, Outline) and data.place == ENCODE and data.arguments[1] == "latin1":
        data = data.arguments[0]
    if isinstance(data, str):
        return data.encode("latin1")
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise ValueError(f"an array over {type(data).__name__}")
