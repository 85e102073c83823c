"""Peak memory of either side, each in a process of its own, since memory that was freed is not always given back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MIB = 2**20


def growth(prepare: Callable[..., Callable[[], object]], *arguments: Any) -> float:
    """MiB by which some work raises a process's peak memory over what it held before.

    Args:
        prepare: makes the work from ``arguments``, in a new process; a function of a module, as they are pickled.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, prepare, arguments))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError as error:
        raise RuntimeError("the process that measures memory ended early") from error
    finally:
        process.join()
    return float(found)


def _measure(
    sender: Connection, prepare: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]
) -> None:
    work = prepare(*arguments)
    before = _start_again()
    work()
    sender.send((_peak() - before) / MIB)


def _start_again() -> float:
    """Have the peak count from now on, where the system can; return what is held now, in bytes."""
    gc.collect()
    # What was freed is given back, or the work would find it there and raise nothing.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> float:
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1]) * 1024
    raise OSError(f"no {name}")
