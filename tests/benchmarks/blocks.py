"""Work whose memory is known, in a module that is quick to import in a new process."""

from __future__ import annotations

from collections.abc import Callable

MIB = 2**20


def prepare_block(mib: int) -> Callable[[], object]:
    """Work that fills a block of memory, and a copy of it."""
    return lambda: bytes(bytearray(b"\1") * (mib * MIB))
