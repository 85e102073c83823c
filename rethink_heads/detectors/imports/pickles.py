"""Pickled NumPy arrays, the form of detectron2's model zoo (.pkl), read without running what a file says.

A pickle builds its objects by calling what it names. Here it may name only what NumPy arrays, their types and ordered
dictionaries are made by; anything else is refused before it is called.
"""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# NumPy 1 and 2 call the module of its constructors differently.
NUMPY_CORES = ("numpy.core", "numpy._core")


class ForbiddenObject(pickle.UnpicklingError):
    """A pickle names something beside arrays and plain values; its name is the message."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _constructors().get((module, name))
        if found is None:
            raise ForbiddenObject(f"{module}.{name}")
        return found


def _constructors() -> dict[tuple[str, str], Callable[..., Any]]:
    """What a pickle may call, by the names that it is known by.

    NumPy's own are taken from an array that it takes apart, so that they need not be named. Python functions are made
    anew each time: a pickle can set attributes of what it is given.
    """
    reconstruct: Any = np.zeros(1).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]

    def from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
        flat = np.frombuffer(buffer, dtype=dtype)
        if axes is not None:
            return flat.reshape(shape).transpose(axes)
        return flat.reshape(shape, order=order)

    def latin1(text: str, encoding: str) -> bytes:
        # Bytes in pickles of the protocols up to 2.
        if encoding != "latin1":
            raise ForbiddenObject(f"_codecs.encode to {encoding}")
        return codecs.encode(text, encoding)

    def no_bytes() -> bytes:
        return b""

    found: dict[tuple[str, str], Callable[..., Any]] = {
        ("__builtin__", "bytes"): no_bytes,
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): latin1,
    }
    for core in NUMPY_CORES:
        found[f"{core}.multiarray", "_reconstruct"] = reconstruct
        found[f"{core}.multiarray", "scalar"] = scalar
        found[f"{core}.numeric", "_frombuffer"] = from_buffer
    return found


def load_arrays(path: Path) -> Any:
    """The content of a pickle of plain values and NumPy arrays; Python 2's text is taken for Latin-1, as by detectron2.

    Raises:
        ForbiddenObject: it names anything else.
        Exception: whatever bytes that are no pickle make the reader raise.
    """
    with open(path, "rb") as stream:
        return _ArrayUnpickler(stream, encoding="latin1").load()
