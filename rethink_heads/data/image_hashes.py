"""What is in a data set's images, so that images replaced in place are noticed: read once, then only looked at.

The hash of an image's bytes is kept in the user's cache with the file's size and times. As long as these stay, the file
is not read again; where they differ it is. So a mere copy or touch of a data set changes nothing, and 100,000 images
take a second or two when nothing has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from rethink_heads.data.shapes import cache_folder
from rethink_heads.distributed import alone
from rethink_heads.errors import UserError
from rethink_heads.files import read_parquet, sha256, unreadable, write_parquet
from rethink_heads.locking import hold
from rethink_heads.machine import core_count
from rethink_heads.progress import ProgressReport

INDEX_NAME = "hashes.parquet"
# A file may change once more within the grain of its times: such a fresh one is read again next time.
SETTLED_NS = 2 * 10**9
# Fewer are read in no time.
REPORTED = 2000
AT_ONCE = 8

State = tuple[int, int, int]
"""A file's size in bytes, and its times of modification and of change of state in ns."""


def image_hashes(folder: Path, names: Sequence[str]) -> list[str]:
    """SHA-256 of the bytes of images, in their order.

    Args:
        folder: of the images.
        names: of the files, relative to it.

    Raises:
        UserError: an image is not there, or cannot be read.
    """
    folder = Path(folder).resolve()
    digits = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    index = cache_folder() / "images" / digits / INDEX_NAME
    # Of several commands that read the same images, one does it. Each machine has a cache of its own.
    with hold(index.parent, together=alone()):
        known = _known(index)
        states = [_state(folder, name) for name in names]
        hashes = [_hash_of(known, name, state) for name, state in zip(names, states, strict=True)]
        new = [place for place, found in enumerate(hashes) if found is None]
        if new:
            for place, found in zip(new, _read(folder, [names[i] for i in new]), strict=True):
                hashes[place] = found
                known[names[place]] = (states[place], found)
            _keep(index, known, folder)
    return [str(found) for found in hashes]


def _state(folder: Path, name: str) -> State:
    path = os.path.join(folder, name)
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(Path(path), error) from error
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hash_of(known: dict[str, tuple[State, str]], name: str, state: State) -> str | None:
    before = known.get(name)
    return before[1] if before is not None and before[0] == state else None


def _read(folder: Path, names: Sequence[str]) -> list[str]:
    title = f"reading the images in {folder} (once)"
    report = ProgressReport(title, len(names), "images", enabled=len(names) > REPORTED)
    found = []
    with report, ThreadPoolExecutor(min(AT_ONCE, core_count())) as pool:
        for digest in pool.map(lambda name: sha256(folder / name), names):
            found.append(digest)
            report.advance()
    return found


def _known(index: Path) -> dict[str, tuple[State, str]]:
    try:
        frame, _ = read_parquet(index)
        states = zip(frame["size"], frame["modified"], frame["changed"], strict=True)
        return dict(zip(frame["name"], zip(states, frame["sha256"], strict=True), strict=True))
    except (UserError, KeyError):
        # None yet, or damaged: the images are read again.
        return {}


def _keep(index: Path, known: dict[str, tuple[State, str]], folder: Path) -> None:
    latest = time.time_ns() - SETTLED_NS
    rows = [(n, *state, d) for n, (state, d) in known.items() if max(state[1:]) < latest]
    if not rows:
        return
    frame = pd.DataFrame(rows, columns=["name", "size", "modified", "changed", "sha256"])
    # Without a cache that can be written, they are read each time.
    with contextlib.suppress(UserError):
        write_parquet(frame, index, {"folder": str(folder)})
