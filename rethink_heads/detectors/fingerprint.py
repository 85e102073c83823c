"""A hash that stands for a detector's weights, so that only measurements of the same weights are used again."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Iterator

import torch
from torch import nn

from rethink_heads.detectors.class_mapping import MappedDetector

logger = logging.getLogger(__name__)


def fingerprint(detector: object) -> str:
    """SHA-256 of a detector's weights, in hexadecimal.

    The weights are those of the modules that the detector is or has as attributes. One without any is known by its
    class's source alone, which a warning says; it may have a ``fingerprint`` of its own, a text, instead.
    """
    if isinstance(detector, MappedDetector):
        return fingerprint(detector.detector)
    own = getattr(detector, "fingerprint", None)
    if isinstance(own, str):
        return own
    digest = hashlib.sha256()
    found = False
    for place, module in _modules(detector):
        for name, value in sorted(module.state_dict().items()):
            found = True
            digest.update(f"{place}.{name} {value.dtype} {tuple(value.shape)}".encode())
            _update(digest, value)
    if not found:
        logger.warning(
            "%s has no torch modules: whether its weights have changed since they were measured cannot be told;"
            " give it an attribute `fingerprint` (a text that changes with them)",
            type(detector).__name__,
        )
        digest.update(_source(type(detector)).encode())
    return digest.hexdigest()


def _modules(detector: object) -> Iterator[tuple[str, nn.Module]]:
    """The detector itself, or the modules among its attributes, by name."""
    if isinstance(detector, nn.Module):
        yield "", detector
        return
    for name, value in sorted(getattr(detector, "__dict__", {}).items()):
        if isinstance(value, nn.Module):
            yield name, value


def _update(digest: hashlib._Hash, value: torch.Tensor) -> None:
    """Add a tensor's bytes, whatever its type: numpy lacks bfloat16."""
    flat = value.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().tobytes())


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed at a prompt, or built in
        return kind.__qualname__
