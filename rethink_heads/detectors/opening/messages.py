"""What messages say of what a user brings: what code of theirs gave and raised, and names in a file or a list."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import rethink_heads
from rethink_heads.errors import UserError

_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
_OURS = str(Path(rethink_heads.__file__).parent)
_LONGEST = 300
_SHOWN_NAMES = 5


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Let what a user's code raises be a UserError: ``what`` failed, why, and where.

    Raises:
        UserError: anything was raised, ``SystemExit`` too; a UserError and Ctrl-C pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # The user's own code can raise anything.
        if not isinstance(error, Exception) and not is_the_users(error):
            raise
        raise UserError(f"{what} failed: {raised(error)}") from error


def is_the_users(error: BaseException) -> bool:
    """Whether an exception came out of the user's own code, and is no interruption.

    An exit or the like is the user's only where nothing of ours raised it, as what handles signals does.
    """
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, Exception):
        return not frames[-1].filename.startswith(_OURS)
    return any(not each.filename.startswith((_OURS, "<frozen", *_INSTALLED)) for each in frames)


def raised(error: BaseException) -> str:
    """An exception of the user's code in a line: what it says, and the last line of the user's that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    beyond_ours = [each for each in frames if not each.filename.startswith((_OURS, "<frozen"))]
    theirs = [each for each in beyond_ours if not each.filename.startswith(_INSTALLED)]
    last = (theirs or beyond_ours)[-1:]
    place = f" ({last[0].filename}, line {last[0].lineno})" if last else ""
    try:
        said = " ".join(str(error).split())
    except Exception:  # A user's own class of errors may fail in this, too.
        said = "it cannot say why"
    more = "..." if len(said) > _LONGEST else ""
    return f"{type(error).__name__}: {said[:_LONGEST]}{more}{place}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip("'\" \n").splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__


def given(value: Any) -> str:
    """What was given instead of what is expected: a tensor by its shape, and its type where that is unusual."""
    if isinstance(value, Tensor):
        usual = value.is_floating_point() and value.layout is torch.strided
        kinds = "" if usual else f" of {value.dtype}, {value.layout}".replace("torch.", "")
        return f"shape {tuple(value.shape)}{kinds}" + (" on meta" if value.is_meta else "")
    if isinstance(value, dict):
        shapes = (f"{name}: {given(each)}" for name, each in value.items())
        return "{" + ", ".join(shapes) + "}"
    if isinstance(value, tuple) and any(isinstance(each, Tensor) for each in value):
        return f"({', '.join(map(given, value))})"
    if isinstance(value, np.ndarray):
        return f"a NumPy array of shape {value.shape}"
    try:
        return " ".join(repr(value).split())[:80]
    except Exception:
        return f"a {type(value).__name__}"


def beginning(names: Sequence[str], longest: int = 60) -> str:
    """The first names of a list, each cut to ``longest`` characters, and how many more there are."""
    more = len(names) - _SHOWN_NAMES
    shown = ", ".join(name[:longest] for name in names[:_SHOWN_NAMES])
    return f"{shown} and {more} more" if more > 0 else shown
