"""What an object holds: the values in containers and attributes, and the torch modules among them at any depth.

A user's own detector is a plain object. Its modules need not be attributes of it: they may lie in a dict by head, or in
an object of the user's that is an attribute.
"""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_NESTED = 32
"""Levels of containers and objects within each other beyond which nothing is looked at."""

PLAIN = (
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    range,
    slice,
    Enum,
    PurePath,
    torch.dtype,
    np.dtype,
    np.generic,
)
"""Types whose ``repr`` is their value."""

# Their objects hold the state of a process (loggers, locks, devices), not what a detector is.
_OPAQUE_PACKAGES = frozenset(sys.stdlib_module_names) | {"torch", "numpy"}
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def members(value: Any) -> list[tuple[str, Any]]:
    """What a container or an object holds, by name, in an order that depends on the names alone.

    A dict's keys are sorted, and so are attributes; sequences keep their order. A module has the attributes that are no
    weights, buffers or modules. Plain values, tensors, functions, classes and what belongs to torch, NumPy and the
    standard library hold nothing.
    """
    if isinstance(value, (*PLAIN, Tensor, np.ndarray)):
        return []
    if isinstance(value, dict | types.MappingProxyType):
        return _sorted((_text(key), each) for key, each in value.items())
    if isinstance(value, list | tuple | deque):
        return [(str(index), each) for index, each in enumerate(value)]
    if isinstance(value, set | frozenset):
        return _sorted((_text(each), each) for each in value)
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if isinstance(value, types.MethodType):
        return [("self", value.__self__)]
    if isinstance(value, nn.Module):
        return _sorted((n, each) for n, each in vars(value).items() if n not in _OF_EVERY_MODULE)
    if isinstance(value, types.SimpleNamespace) or not _is_opaque(value):
        return _sorted(_attributes(value).items())
    return []


def class_values(kind: type) -> list[tuple[str, Any]]:
    """The values that a user's class and its bases give all their objects, by name: no methods, no properties."""
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.partition(".")[0] not in _OPAQUE_PACKAGES:
            found.update(vars(each))
    return _sorted(
        (name, value)
        for name, value in found.items()
        if not name.startswith("__") and not hasattr(value, "__get__")
    )


def modules_in(value: Any) -> list[nn.Module]:
    """The modules that an object is or holds at any depth, but not those that are registered in one of them."""
    return list(_modules(value, set(), 0))


def _modules(value: Any, seen: set[int], depth: int) -> Iterator[nn.Module]:
    if id(value) in seen or depth > MOST_NESTED:
        return
    holders = [value]
    if isinstance(value, nn.Module):
        yield value
        holders = list(value.modules())
    # By identity, which no other object takes: all are held by the first.
    seen.update(map(id, holders))
    for holder in holders:
        for _, held in members(holder):
            yield from _modules(held, seen, depth + 1)


def _is_opaque(value: Any) -> bool:
    if isinstance(value, type | types.ModuleType | types.FunctionType):
        return True
    return type(value).__module__.partition(".")[0] in _OPAQUE_PACKAGES


def _attributes(value: Any) -> dict[str, Any]:
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _text(key: Any) -> str:
    """A key as a text that is the same in another process: other objects' ``repr`` may have their address."""
    if isinstance(key, tuple):
        return f"({', '.join(map(_text, key))})"
    return repr(key) if isinstance(key, PLAIN) else type(key).__qualname__


def _sorted(found: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(found, key=lambda pair: pair[0])
