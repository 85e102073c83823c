"""What a detector is known by: a hash of its weights and settings, and the files of a user's code.

Measurements are used again of the same detector only. A user's own is a plain object, whose modules need not be
attributes of it: they may lie in a dict by head, or in an object that is an attribute.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import inspect
import logging
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

import rethink_heads

logger = logging.getLogger(__name__)

FRAMEWORKS = ("torch", "torchvision", "detectron2", "rethink_heads")
INSTALLED = {"site-packages", "dist-packages"}
OWN = Path(rethink_heads.__file__).parent

MOST_NESTED = 32
"""Levels of containers and objects within each other beyond which nothing is looked at."""
LONGEST_TEXT = 200

PLAIN: tuple[type, ...] = (str, bytes, int, float, complex, type(None), range, slice)
PLAIN += (enum.Enum, PurePath, torch.dtype, np.dtype, np.generic)
"""Types whose ``repr`` is their value."""

# Their objects hold the state of a process (loggers, locks, devices), not what a detector is.
_OPAQUE_PACKAGES = frozenset(sys.stdlib_module_names) | {"torch", "numpy"}
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_NOTED: Mapping[type[nn.Module], frozenset[str]] = {
    # Of the first image that it pools from, and the same for all.
    MultiScaleRoIAlign: frozenset(("scales", "map_levels")),
}
"""By class: attributes in which it keeps what it was shown."""


def fingerprint(detector: object) -> str:
    """SHA-256 of a detector's weights and settings, in hexadecimal; the same in every process and on every device.

    It is of all that the detector holds: modules (weights, all buffers, extra state), tensors and arrays by their
    bytes, and plain values, in its attributes, its class's, and containers and plain objects within these; and of its
    ``configuration``, a text, if it has one. What functions and modules keep beside that is not seen, and what a
    detector notes of the images that it was shown counts as well: one with either may have a ``fingerprint`` of its
    own, a text, which stands for it alone. One that holds neither modules, tensors nor arrays is known by its plain
    values and its class's source, and a warning says so.
    """
    own = getattr(detector, "fingerprint", None)
    if isinstance(own, str):
        return own
    texts = _Texts()
    lines = [texts(detector)] if isinstance(detector, nn.Module) else []
    with texts.within(detector):
        held = [*members(detector), *_class_values(type(detector))]
        lines += [f"{name} = {texts(value)}" for name, value in held]
    configuration = getattr(detector, "configuration", None)
    if isinstance(configuration, str):
        lines.append(configuration)
    if not texts.has_weights:
        logger.warning(
            "%s holds no torch modules, tensors or arrays: whether its weights have changed since they were measured"
            " cannot be told; give it an attribute `fingerprint` (a text that changes with them)",
            type(detector).__name__,
        )
        try:
            lines.append(inspect.getsource(type(detector)))
        except (OSError, TypeError):  # typed at a prompt, or built in
            lines.append(type(detector).__qualname__)
    return _sha256("\n".join(lines).encode())


def configuration_of(module: nn.Module) -> str:
    """What decides a framework's module's outputs beside its state dict, a line for each.

    A state dict holds neither how large an image is made, nor how anchors, pooling, thresholds, suppression and the
    coding of boxes are set, nor the eps of a normalisation, nor buffers that are not saved. So these are the classes of
    all modules in it, their plain attributes (numbers, texts, containers and plain objects of such, functions by their
    names) and their buffers that are not saved. Tensors that are mere attributes count in the frameworks' own modules
    alone: others keep there what they were shown.
    """
    lines = []
    for place, each in module.named_modules():
        lines.append(f"{place or 'model'}: {_kind(each)}")
        texts = _Texts(
            with_modules=False, with_tensors=type(each).__module__.partition(".")[0] in FRAMEWORKS
        )
        noted = {name for kind, names in _NOTED.items() if isinstance(each, kind) for name in names}
        lines += [f"{place}.{n} = {texts(value)}" for n, value in members(each) if n not in noted]
        texts.with_tensors = True
        unsaved = sorted(each._non_persistent_buffers_set)
        lines += [f"{place}.{name} = {texts(each._buffers.get(name))}" for name in unsaved]
    return "\n".join(lines)


class _Texts:
    """Texts of values without what differs from one run to the next: addresses, devices, the order of a set.

    Attributes:
        with_modules: a module counts by its state, rather than by its class alone.
        with_tensors: a tensor or array counts by its numbers, rather than as one.
        has_weights: whether there has been a module, a tensor or an array.
    """

    def __init__(self, with_modules: bool = True, with_tensors: bool = True) -> None:
        self.with_modules, self.with_tensors = with_modules, with_tensors
        self.has_weights = False
        self._open: list[int] = []
        # With the objects, so that no other takes one's identity.
        self._known: dict[int, tuple[object, str]] = {}

    @contextlib.contextmanager
    def within(self, value: object) -> Iterator[None]:
        """Count a value by its class alone where it holds itself."""
        self._open.append(id(value))
        yield
        self._open.pop()

    def __call__(self, value: Any) -> str:
        if isinstance(value, PLAIN):
            return repr(value)
        if id(value) in self._known:
            return self._known[id(value)][1]
        # One of the two may stand for the other, as after a configuration was written and read.
        kind = "list" if isinstance(value, list | tuple) else _kind(value)
        if id(value) in self._open or len(self._open) > MOST_NESTED:
            return kind
        with self.within(value):
            text = f"{kind}({', '.join(self._parts(value))})"
        if len(text) > LONGEST_TEXT:
            text = _sha256(text.encode())
        self._known[id(value)] = (value, text)
        return text

    def _parts(self, value: Any) -> Iterator[str]:
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            yield self(value.tolist())
            return
        if isinstance(value, nn.Module | Tensor | np.ndarray):
            self.has_weights = True
        if isinstance(value, Tensor | np.ndarray):
            if self.with_tensors:
                if isinstance(value, Tensor):
                    yield _numbers(value)
                else:
                    yield f"{value.dtype} {value.shape} {_sha256(value.tobytes())}"
        elif isinstance(value, nn.Module):
            # Its other attributes are left out: frameworks' modules note there what they were shown last.
            for each in modules_in(value) if self.with_modules else ():
                state = {**dict(each.named_buffers()), **each.state_dict()}
                for name, entry in sorted(state.items()):
                    yield f"{name} = {self(entry)}"
        else:
            if callable(value) and hasattr(value, "__qualname__"):
                yield f"{getattr(value, '__module__', '')}.{value.__qualname__}"
            for name, each in members(value):
                yield f"{name} = {self(each)}"


def members(value: Any) -> list[tuple[str, Any]]:
    """What a container or an object holds, by name, in an order that depends on the names alone.

    A dict's keys are sorted, and so are attributes; sequences keep their order. A module has the attributes that are no
    weights, buffers or modules. Plain values, tensors, functions, classes and what belongs to torch, NumPy and the
    standard library hold nothing.
    """
    if isinstance(value, (*PLAIN, Tensor, np.ndarray)):
        return []
    if isinstance(value, dict | types.MappingProxyType):
        return _sorted((_key(key), each) for key, each in value.items())
    if isinstance(value, list | tuple | deque):
        return [(str(index), each) for index, each in enumerate(value)]
    if isinstance(value, set | frozenset):
        return _sorted((_key(each), each) for each in value)
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if isinstance(value, types.MethodType):
        return [("self", value.__self__)]
    if isinstance(value, nn.Module):
        return _sorted((n, each) for n, each in vars(value).items() if n not in _MODULE_ATTRIBUTES)
    is_opaque = isinstance(value, type | types.ModuleType | types.FunctionType)
    if is_opaque or (_is_of_process(type(value)) and not isinstance(value, types.SimpleNamespace)):
        return []
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return _sorted(found.items())


def modules_in(value: Any) -> list[nn.Module]:
    """The modules that an object is or holds at any depth, but not those that are registered in one of them."""
    seen: set[int] = set()

    def found(value: Any, depth: int) -> Iterator[nn.Module]:
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
                yield from found(held, depth + 1)

    return list(found(value, 0))


def _class_values(kind: type) -> list[tuple[str, Any]]:
    """The values that a user's class and its bases give all their objects, by name: no methods, no properties."""
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        if not _is_of_process(each):
            found.update(vars(each))
    return _sorted(
        (name, value)
        for name, value in found.items()
        if not name.startswith("__") and not hasattr(value, "__get__")
    )


def _is_of_process(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _OPAQUE_PACKAGES


def _key(key: Any) -> str:
    """A key as a text that is the same in another process: other objects' ``repr`` may have their address."""
    if isinstance(key, tuple):
        return f"({', '.join(map(_key, key))})"
    return repr(key) if isinstance(key, PLAIN) else type(key).__qualname__


def _sorted(found: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(found, key=lambda pair: pair[0])


def _numbers(value: Tensor) -> str:
    """A tensor's type, shape and bytes, whatever its type: NumPy lacks bfloat16."""
    if nn.parameter.is_lazy(value) or value.is_meta:
        return f"{value.dtype} without values"
    said, value = f"{value.dtype} {tuple(value.shape)}", value.detach()
    if value.is_quantized:
        said, value = f"{said} {value.qscheme()}", value.dequantize()
    if value.layout is not torch.strided:
        value = value.to_dense()
    flat = value.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return f"{said} {_sha256(flat.view(torch.uint8).numpy().data)}"


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def replaced_methods(module: nn.Module, names: Sequence[str], framework: str) -> list[str]:
    """Those of a module's methods that are not written in its framework: of its own class, or set on it alone."""

    def writer(name: str) -> str:
        kind = next(each for each in type(module).__mro__ if name in vars(each))
        return kind.__module__.partition(".")[0]

    return [name for name in names if name in vars(module) or writer(name) != framework]


def source_files(model: str) -> list[Path]:
    """Files that a detector depends on beside its weights, those that exist.

    Of ``detectron2:`` the configuration itself. Of ``python:`` the module with the function, and what has been imported
    from its package, or from the folder that a single module lies in, by now; so the detector is opened first. What
    lies in the environment's installed packages, which that folder may hold, and this package are left out: they are
    known by their versions.
    """
    kind, _, name = model.partition(":")
    if kind == "detectron2":
        return [Path(name)] if Path(name).is_file() else []
    if kind != "python":
        return []
    module = name.partition(":")[0]
    spec = find_spec(module) if module in sys.modules or "." not in module else None
    if spec is None or not spec.has_location or spec.origin is None:
        return []
    own = Path(spec.origin)
    top = sys.modules.get(module.partition(".")[0])
    folder = Path(getattr(top, "__file__", None) or own).parent
    names = (getattr(each, "__file__", None) for each in list(sys.modules.values()))
    imported = {Path(name) for name in names if name}
    within = {
        file
        for file in imported
        if folder in file.parents and OWN not in file.parents and INSTALLED.isdisjoint(file.parts)
    }
    return sorted({own, *within})
