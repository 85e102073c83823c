"""What a checkpoint of more than weights is made of, without running what it says: its keys and the names of classes.

Every name that the pickle in it calls stands for an :class:`Outline`, which does nothing but keep what the file says of
it. So a sentence can name the keys of a file that is refused, and the line that writes its weights alone.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

MOST_BYTES = 2**26
"""Larger pickles, which hold more than the outline of a checkpoint, are not looked at."""


class Outline:
    """Stands for an object of a class that is not loaded.

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
        """Keep nothing of what the file puts into it."""

    def extend(self, _: Any) -> None:
        """Keep nothing of what the file puts into it."""

    @property
    def is_module(self) -> bool:
        """Whether it is a module of PyTorch."""
        return isinstance(self.state, dict) and "_modules" in self.state


class _OutlineUnpickler(pickle._Unpickler):  # The one in C prints what it trips over.
    def find_class(self, module: str, name: str) -> Any:
        # Mappings of weights are ordered dictionaries.
        if (module, name) == ("collections", "OrderedDict"):
            return _Ordered
        return type("Outline", (Outline,), {"name": name})

    def persistent_load(self, saved: Any) -> Any:
        # Files of old releases name classes of modules here, beside the storages of tensors.
        return saved[1] if saved[0] == "module" else None


class _Ordered(dict[Any, Any]):
    def __setstate__(self, _: Any) -> None:
        pass


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
        if part.file_size > MOST_BYTES:
            raise ValueError("the pickle is too large to be an outline")
        with archive.open(part) as stream:
            return _OutlineUnpickler(stream).load()
