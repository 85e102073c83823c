"""Names of classes as people write them: what counts as the same name, what stands for none, which is the nearest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# What a detector's list of names holds where its framework numbers a class that there is not.
_PLACEHOLDERS = frozenset({"", "n/a", "na"})


def plain(name: str) -> str:
    """A name without case, spaces, "_" and "-"."""
    return re.sub(r"[\s_-]", "", name.casefold())


def is_placeholder(name: str) -> bool:
    """Whether a name stands for no class, as "N/A" does."""
    return plain(name) in _PLACEHOLDERS


def nearest_class(name: str, names: Iterable[str]) -> str | None:
    """The name most like another, None where none is like it."""
    spelled = {plain(one): one for one in reversed(tuple(names))}
    close = difflib.get_close_matches(plain(name), list(spelled), n=1, cutoff=0.6)
    return spelled[close[0]] if close else None
