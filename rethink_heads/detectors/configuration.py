"""A framework's module as a text: what its classes and attributes say beside its weights, such as thresholds and sizes.

A state dict holds neither how large an image is made, nor how anchors, pooling, thresholds, suppression and the coding
of boxes are set, nor the eps of a normalisation, nor buffers that are not saved.
"""

from __future__ import annotations

import enum
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

FRAMEWORKS = ("torch", "torchvision", "detectron2", "rethink_heads")
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, enum.Enum)
MOST_NESTED = 8
SHOWN_VALUES = 32

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_NOTED: Mapping[type[nn.Module], frozenset[str]] = {
    # Of the first image that it pools from, and the same for all.
    MultiScaleRoIAlign: frozenset(("scales", "map_levels")),
}
"""By class: attributes in which it keeps what it was shown."""


def configuration_of(module: nn.Module) -> str:
    """What decides a module's outputs beside its state dict, a line for each; the same in every process and device.

    These are the classes of all modules in it, their plain attributes (numbers, texts, containers and plain objects of
    such, functions by their names) and their buffers that are not saved. Tensors that are mere attributes count in the
    frameworks' own modules alone: others keep there what they were shown.
    """
    return "\n".join(_lines(module))


def replaced_methods(module: nn.Module, names: Sequence[str], framework: str) -> list[str]:
    """Those of a module's methods that are not written in its framework: of its own class, or set on it alone."""
    return [
        name
        for name in names
        if name in vars(module) or _writer_of(type(module), name) != framework
    ]


def _writer_of(kind: type, name: str) -> str:
    """The package of the class that a class has its method of that name from."""
    found = next(each for each in kind.__mro__ if name in vars(each))
    return found.__module__.partition(".")[0]


def _lines(module: nn.Module) -> Iterator[str]:
    for place, each in module.named_modules():
        yield f"{place or 'model'}: {_kind(each)}"
        with_tensors = type(each).__module__.partition(".")[0] in FRAMEWORKS
        for name, value in sorted(vars(each).items()):
            if name in _OF_EVERY_MODULE or _is_noted(each, name):
                continue
            yield f"{place}.{name} = {_text(value, with_tensors)}"
        for name in sorted(each._non_persistent_buffers_set):
            yield f"{place}.{name} = {_text(each._buffers.get(name), True)}"


def _is_noted(module: nn.Module, name: str) -> bool:
    return any(isinstance(module, kind) and name in names for kind, names in _NOTED.items())


def _text(value: Any, with_tensors: bool, open_ids: tuple[int, ...] = ()) -> str:
    """A value without what differs from one run to the next: addresses, devices, the order of a set."""
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        value = value.tolist()
    if isinstance(value, Tensor | np.ndarray):
        return _numbers(value) if with_tensors else "tensor"
    if isinstance(value, nn.Module | torch.device):
        # Modules within are listed by themselves.
        return _kind(value)
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        return f"partial{_text(parts, with_tensors, open_ids)}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    if id(value) in open_ids or len(open_ids) > MOST_NESTED:
        return _kind(value)
    within = (*open_ids, id(value))
    if isinstance(value, Mapping):
        pairs = (
            f"{_text(key, with_tensors, within)}: {_text(each, with_tensors, within)}"
            for key, each in value.items()
        )
        return f"{{{', '.join(sorted(pairs))}}}"
    if isinstance(value, Set):
        return f"{{{', '.join(sorted(_text(each, with_tensors, within) for each in value))}}}"
    if isinstance(value, list | tuple):
        # One of the two may stand for the other, as after a configuration was written and read.
        return f"({', '.join(_text(each, with_tensors, within) for each in value)})"
    return f"{_kind(value)}{_text(getattr(value, '__dict__', {}), with_tensors, within)}"


def _numbers(value: Tensor | np.ndarray) -> str:
    """The numbers themselves where they are few, or else their hash."""
    array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
    if array.size <= SHOWN_VALUES:
        return repr(array.tolist())
    return f"{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
