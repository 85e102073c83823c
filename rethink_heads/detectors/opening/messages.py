"""What messages say of a user's own code: what it gave, and what it raised."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from rethink_heads.errors import UserError

_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
_OURS = str(Path(__file__).parent)


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Let what a user's code raises be a UserError: ``what`` failed, why, and where.

    Raises:
        UserError: anything was raised; one of its own passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # The user's own code can raise anything.
        raise UserError(f"{what} failed: {raised(error)}") from error


def raised(error: Exception) -> str:
    """An exception of the user's code in a line: what it says, and the last line of the user's that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    beyond_ours = [each for each in frames if not each.filename.startswith((_OURS, "<frozen"))]
    theirs = [each for each in beyond_ours if not each.filename.startswith(_INSTALLED)]
    last = (theirs or beyond_ours)[-1:]
    place = f" ({last[0].filename}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def given(value: Any) -> str:
    """What was given instead of what is expected: a tensor by its shape."""
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}"
    if isinstance(value, dict):
        shapes = (f"{name}: {given(each)}" for name, each in value.items())
        return "{" + ", ".join(shapes) + "}"
    if isinstance(value, tuple) and any(isinstance(each, Tensor) for each in value):
        return f"({', '.join(map(given, value))})"
    return repr(value)[:80]
