"""The machine that a command runs on: its cores, what other processes take of them, and how threads wait there.

Nothing heavy is imported here: what OpenMP goes by must be set before torch is imported.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rethink_heads.distributed import local_rank, process_count
from rethink_heads.errors import UserError

if TYPE_CHECKING:
    import torch

SPIN_COUNT = "1000"
"""Turns that a thread waits awake for the others, of libgomp's 300,000: see benchmarks/README.md."""
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
WORKERS_PER_CORE = 4
# Below it the cores taken are those of a shell, an editor and the like.
BUSY_CORES = 0.5
SHORTEST_SECONDS = 0.3


def set_thread_waiting() -> None:
    """Have OpenMP's threads sleep soon when they wait for each other, as one of them may be waiting for a core.

    Where another process has the core of one thread, the others else burn theirs until it is back, at every barrier.
    The variables of whoever started this process come first, and a torch that is already imported has read them.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def core_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def at_once(*functions: Callable[[], Any]) -> list[Any]:
    """Results of functions in their order, two of which run at the same time where there are two cores.

    They are threads, of which NumPy runs several; what they hold at once is that of two. The first error is raised.
    """
    if len(functions) == 1:
        with one_blas_thread():
            return [functions[0]()]
    asked = [(Future[Any](), function) for function in functions]
    futures = [future for future, _ in asked]
    waiting = iter(asked)

    def work() -> None:
        for future, function in waiting:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    with one_blas_thread():
        for _ in range(min(2, core_count())):
            # An executor's threads would be waited for after Ctrl-C, with all that is not begun.
            threading.Thread(target=work, daemon=True).start()
        try:
            return [future.result() for future in futures]
        finally:
            asked.clear()


_blas_limit = threading.Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within it a matrix product of NumPy's takes one thread: threads of many small products, and of several at once,
    wait awake for each other and take up to twice the time.
    """
    from threadpoolctl import threadpool_limits

    # The limit is the process's: a call within another sets none, which might be lifted in another order.
    if not _blas_limit.acquire(blocking=False):
        yield
        return
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        _blas_limit.release()


def check_workers(workers: int) -> None:
    """Refuse a number of data workers that would only bring the machine to a halt.
    Raises UserError where there are more than ``WORKERS_PER_CORE`` for each core.
    """
    most = WORKERS_PER_CORE * core_count()
    if workers > most:
        raise UserError(
            f"training.workers={workers} is too many processes for the {core_count()} core(s) of this machine:"
            f" give {most} or fewer"
        )


class CpuTime(NamedTuple):
    """Seconds since some start: on the clock, of all processes on all cores, and of this process and its children."""

    clock: float
    everyone: float
    own: float

    @classmethod
    def now(cls) -> CpuTime | None:
        """Return what the system says; None where it does not say it as Linux does."""
        try:
            first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
            user, nice, system, _, _, irq, softirq = map(int, first.split()[1:8])
        except (OSError, ValueError, IndexError):
            return None
        ticks = user + nice + system + irq + softirq
        own = sum(os.times()[:4])
        return cls(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own)


class OtherProcesses:
    """What other processes take of the machine's cores since this was made, or last asked."""

    def __init__(self) -> None:
        self._before = CpuTime.now()

    def busy_line(self) -> str | None:
        """Return a line where they take much; None where they do not, or nothing is known yet."""
        before, now = self._before, CpuTime.now()
        if process_count() > 1:
            # The others of this command are not meant.
            return None
        if before is None or now is None or now.clock - before.clock < SHORTEST_SECONDS:
            return None
        self._before = now
        passed = now.clock - before.clock
        cores = (now.everyone - before.everyone - (now.own - before.own)) / passed
        if cores < BUSY_CORES:
            return None
        return f"other processes take {cores:.1f} of its {os.cpu_count()} cores"


other_processes = OtherProcesses()
"""Those since the package was imported, or last asked about."""


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device for ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Processes that torchrun started take the GPUs of their machine in turn, unless one is named.
    Raises UserError if the name is none of these or this machine has no such device.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return _own_gpu() if available else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (
        not available or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise UserError(f"this machine has no device {name!r}: give cpu or auto")
    return _own_gpu() if device.type == "cuda" and device.index is None else device


def whole_float32() -> AbstractContextManager[None]:
    """Within it a GPU's convolutions in float32 keep all bits, as its matrix products do.

    torch lets convolutions use TF32 unless told otherwise, which has ten bits of mantissa.
    """
    import torch

    now = torch.backends.cudnn
    return now.flags(
        enabled=now.enabled,
        benchmark=now.benchmark,
        deterministic=now.deterministic,
        allow_tf32=False,
    )


def _own_gpu() -> torch.device:
    """Return the current GPU; under torchrun one for each process, shared only where there are fewer."""
    import torch

    rank = local_rank()
    return torch.device("cuda" if rank is None else f"cuda:{rank % torch.cuda.device_count()}")
