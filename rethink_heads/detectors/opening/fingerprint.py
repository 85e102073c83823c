"""A hash that stands for what a detector is, so that only measurements of the same detector are used again."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rethink_heads.detectors.opening.contents import (
    MOST_NESTED,
    PLAIN,
    class_values,
    members,
    modules_in,
)

logger = logging.getLogger(__name__)


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
    contents = _Contents()
    parts = [contents.hash_of_members(detector)]
    parts += [contents.hash_of(value, name) for name, value in class_values(type(detector))]
    if isinstance(detector, nn.Module):
        parts.append(contents.hash_of(detector))
    configuration = getattr(detector, "configuration", None)
    if isinstance(configuration, str):
        parts.append(_hash("configuration", configuration.encode()))
    if not contents.has_weights:
        logger.warning(
            "%s holds no torch modules, tensors or arrays: whether its weights have changed since they were measured"
            " cannot be told; give it an attribute `fingerprint` (a text that changes with them)",
            type(detector).__name__,
        )
        parts.append(_hash("source", _source(type(detector)).encode()))
    return _hash("detector", *parts).hex()


class _Contents:
    """Hashes of the values that one detector holds.

    Attributes:
        has_weights: whether one of them was a module, a tensor or an array.
    """

    def __init__(self) -> None:
        self.has_weights = False
        self._open: set[int] = set()
        # With the objects, so that no other takes one's identity.
        self._known: dict[int, tuple[object, bytes]] = {}

    def hash_of(self, value: Any, name: str = "") -> bytes:
        """The hash of a name and a value; an object within itself counts as its class alone."""
        kind = type(value).__qualname__
        if isinstance(value, PLAIN):
            return _hash(f"{name} {kind}", repr(value).encode())
        if id(value) in self._known:
            return _hash(name, self._known[id(value)][1])
        if id(value) in self._open or len(self._open) > MOST_NESTED:
            return _hash(f"{name} {kind}")
        self._open.add(id(value))
        found = _hash(kind, *self._parts(value))
        self._open.remove(id(value))
        self._known[id(value)] = (value, found)
        return _hash(name, found)

    def hash_of_members(self, value: Any) -> bytes:
        """The hash of what a value holds, by name."""
        self._open.add(id(value))
        found = _hash("members", *(self.hash_of(each, name) for name, each in members(value)))
        self._open.remove(id(value))
        return found

    def _parts(self, value: Any) -> Iterable[bytes]:
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            return (self.hash_of(value.tolist()),)
        if isinstance(value, nn.Module | Tensor | np.ndarray):
            self.has_weights = True
        if isinstance(value, nn.Module):
            return self._of_modules(value)
        if isinstance(value, Tensor):
            return (_of_tensor(value),)
        if isinstance(value, np.ndarray):
            return (_hash(f"{value.dtype} {value.shape}", value.tobytes()),)
        return (self.hash_of(each, name) for name, each in members(value))

    def _of_modules(self, module: nn.Module) -> Iterator[bytes]:
        """The state of a module, and of those that it holds without having registered them.

        Its other attributes are left out: frameworks' modules note there what they were shown last.
        """
        for each in modules_in(module):
            state = dict(each.state_dict())
            state.update((name, value) for name, value in each.named_buffers() if name not in state)
            for name, value in sorted(state.items()):
                yield self.hash_of(value, name)


def _of_tensor(value: Tensor) -> bytes:
    """A tensor's type, shape and bytes, whatever its type: NumPy lacks bfloat16."""
    if nn.parameter.is_lazy(value) or value.is_meta:
        return _hash(f"{value.dtype} without values")
    said, value = f"{value.dtype} {tuple(value.shape)}", value.detach()
    if value.is_quantized:
        said, value = f"{said} {value.qscheme()}", value.dequantize()
    if value.layout is not torch.strided:
        value = value.to_dense()
    flat = value.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return _hash(said, flat.view(torch.uint8).numpy().data)


def _hash(text: str, *parts: bytes | memoryview) -> bytes:
    """SHA-256 of a text and what follows it; the text's length keeps the two apart."""
    digest = hashlib.sha256(f"{len(text)} {text}".encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed at a prompt, or built in
        return kind.__qualname__
