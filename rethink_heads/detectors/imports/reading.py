"""Checkpoint files of any framework: the weights by name, and the class names where a file says them.

:func:`read_checkpoint` reads what ``torch.save`` wrote, and detectron2's pickles of NumPy arrays (:mod:`pickles`).
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rethink_heads.detectors.imports.pickles import ForbiddenObject, load_arrays
from rethink_heads.errors import UserError
from rethink_heads.files import unreadable

WRAPPERS = ("model", "state_dict")
PICKLE_SUFFIX = ".pkl"
NUMBER_KINDS = "biuf"
DISTRIBUTED_PREFIX = "module."


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state: weights by the file's names, without the prefix of distributed training.
        class_names: the classes that the file names, or None.
        extras: names of what lies beside the weights and is not read, such as an optimizer's state.
    """

    state: dict[str, Tensor]
    class_names: tuple[str, ...] | None
    extras: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of weights: a mapping of names to tensors, alone or under ``model`` or ``state_dict``.

    Nothing but tensors, arrays and plain values is read, so a file cannot run code.

    Args:
        path: a file that ``torch.save`` wrote, or, if it ends in .pkl, a pickle of NumPy arrays (detectron2's zoo).

    Raises:
        UserError: no such file, not such a file, or one that holds other Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    # Under either name it may be the other's: torch.save writes an archive, which no pickle is.
    if path.suffix == PICKLE_SUFFIX and not zipfile.is_zipfile(path):
        return _unwrap(_load_arrays(path), path)
    return _unwrap(_load_tensors(path), path)


def _load_tensors(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+\w)", str(error))
        if refused is None and not zipfile.is_zipfile(path):
            raise _unreadable(path) from error
        what = f" ({refused[1]})" if refused else ""
        raise UserError(
            f"{path} holds more than weights and plain values, which only code that comes with the file could"
            f" read{what}; where you trust it, write its weights alone:"
            " torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW_FILE)"
            " ('model' in place of 'state_dict' for maskrcnn-benchmark and detectron2)"
        ) from error
    except PermissionError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # Bytes that are no checkpoint can make the reader raise anything.
        raise _unreadable(path) from error


def _load_arrays(path: Path) -> Any:
    try:
        return load_arrays(path)
    except ForbiddenObject as error:
        raise UserError(
            f"{path} holds more than NumPy arrays and plain values, which only code that comes with the file could"
            f" read ({error}); where you trust it, write its weights alone:"
            " torch.save({'model': pickle.load(open(FILE, 'rb'))['model']}, NEW_FILE)"
        ) from error
    except PermissionError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # Bytes that are no pickle can make the reader raise anything.
        raise UserError(
            f"{path} is damaged or no pickle of NumPy arrays: download it again"
        ) from error


def _unreadable(path: Path) -> UserError:
    return UserError(f"{path} is damaged or no checkpoint of PyTorch: download it again")


def _unwrap(content: Any, path: Path) -> Checkpoint:
    wrapper = next((name for name in WRAPPERS if _holds_weights(content, name)), None)
    weights = content[wrapper] if wrapper else content
    tensors = _tensors(weights) if isinstance(weights, Mapping) else {}
    if not tensors:
        raise UserError(
            f"{path} holds no weights: expected tensors by name, or such a mapping under"
            f" {' or '.join(repr(name) for name in WRAPPERS)}"
        )
    if all(name.startswith(DISTRIBUTED_PREFIX) for name in tensors):
        tensors = {name.removeprefix(DISTRIBUTED_PREFIX): v for name, v in tensors.items()}
    meta = content.get("meta") if wrapper else None
    beside = (str(name) for name in content if name not in (wrapper, "meta"))
    extras = tuple(beside) if wrapper else ()
    return Checkpoint(tensors, _class_names(meta), extras)


def _tensors(weights: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors that have a name: in an optimizer's state, for one, they are numbered."""
    tensors = ((name, _tensor(value)) for name, value in weights.items() if isinstance(name, str))
    return {name: value for name, value in tensors if value is not None}


def _tensor(value: Any) -> Tensor | None:
    """A tensor, or an array or NumPy number as one; None for anything else."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in NUMBER_KINDS:
        return None
    # A copy: what a pickle holds may be the file's own bytes, in an order that PyTorch has not.
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))


def _holds_weights(content: Any, name: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(name), Mapping)


def _class_names(meta: Any) -> tuple[str, ...] | None:
    """Class names of mmdetection's ``meta``: under ``CLASSES`` (2.x) or ``dataset_meta`` (3.x)."""
    if not isinstance(meta, Mapping):
        return None
    described = meta.get("dataset_meta")
    names = meta.get("CLASSES")
    if isinstance(described, Mapping):
        names = described.get("classes", described.get("CLASSES", names))
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
