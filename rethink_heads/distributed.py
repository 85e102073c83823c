"""Several processes that run one command together, as ``torchrun`` starts them, on one machine or several.

All run the same lines. They share a folder, and a small key-value store that rank 0, or torchrun, serves: through it
rank 0 decides what all must agree on, a work queue hands out items one at a time, and the failure of one process ends
all. Nothing that is measured passes through it, so neither NCCL nor gloo is needed. A single process goes the same
ways without a store.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from rethink_heads.errors import LostConnectionError, OtherProcessError, UserError

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
BARRIER_SECONDS = 10.0

Value = TypeVar("Value")
Item = TypeVar("Item")


class Processes:
    """The processes of one command, as one of them sees it.

    Every process must call the collective methods (``broadcast``, ``work_queue``) in the same order.
    ``store``: a ``torch.distributed.Store`` that all reach; None in a single process.

    Attributes:
        working: how many of them take items of work queues: rank 0 alone after :func:`rank_zero_only`.
    """

    def __init__(self, store: Any, rank: int, count: int) -> None:
        self._store, self.rank, self.count = store or _Counters(), rank, count
        self.working = count
        self._calls = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast(self, decision: Callable[[], Value]) -> Value:
        """Return what rank 0 decides, in all processes.

        So none goes by a file that another has written meanwhile, or that its own machine does not show yet.
        ``decision``: called on rank 0 alone; its result can be written as JSON.
        Raises OtherProcessError where another process failed.
        """
        key = self._next_key()
        if self.is_first:
            value = decision()
            if self.count > 1:
                self.ask("set", key, json.dumps(value))
            return value
        self.wait(lambda: self.ask("check", [key]))
        decided: Value = json.loads(self.ask("get", key))
        return decided

    def work_queue(self, items: Sequence[Item]) -> WorkQueue[Item]:
        """Hand out items, the same in every process, so that each is taken by exactly one."""
        return WorkQueue(self, self._next_key(), items)

    def wait(self, ready: Callable[[], bool], meanwhile: Callable[[], None] | None = None) -> None:
        """Wait, for as long as it takes, until ``ready`` returns true.
        Raises OtherProcessError where another process failed.
        """
        pause = FIRST_PAUSE
        while not ready():
            self.check()
            if meanwhile is not None:
                meanwhile()
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def check(self) -> None:
        """Raise OtherProcessError where another process failed."""
        if self.count > 1 and self.ask("check", ["failed"]):
            raise OtherProcessError(**json.loads(self.ask("get", "failed")))

    def fail(self, message: str, code: int) -> OtherProcessError | None:
        """Have all processes end with an exit code.

        Returns:
            The failure of another process that came before; None: this one is the first, and says why.
        """
        if self.count == 1:
            return None
        failure = {"message": message, "code": code, "rank": self.rank}
        try:
            first = json.loads(self.ask("compare_set", "failed", "", json.dumps(failure)))
        except LostConnectionError as lost:
            # The store went with the process that served it: where that is not said, each machine says it.
            return None if self.is_first else lost
        return None if first["rank"] == self.rank else OtherProcessError(**first)

    def end(self) -> None:
        """End together: the others when rank 0 has done everything, or as the process that failed did."""
        if self.count == 1:
            return
        if self.is_first:
            self.ask("set", "ended", "")
            self.barrier()
        else:
            self.wait(lambda: self.ask("check", ["ended"]))
            self.leave()

    def leave(self) -> None:
        """Count this process among those that a barrier has not to wait for."""
        try:
            self.ask("add", "left", 1)
        except LostConnectionError:
            # Nobody is left to wait.
            return

    def barrier(self) -> None:
        """Give the other processes some time to leave: torchrun kills them when this one is gone."""
        last = time.monotonic() + BARRIER_SECONDS
        try:
            while time.monotonic() < last and self.ask("add", "left", 0) < self.count - 1:
                time.sleep(FIRST_PAUSE)
        except LostConnectionError:
            return

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the store. Raises LostConnectionError where whoever serves the store is gone."""
        try:
            return getattr(self._store, method)(*arguments)
        except RuntimeError as error:  # torch.distributed's errors are such
            raise LostConnectionError from error

    def _next_key(self) -> str:
        self._calls += 1
        return f"call {self._calls}"


class WorkQueue(Generic[Item]):
    """Items handed out one at a time to whichever process asks next: iterate, and call ``done`` after each.

    Attributes:
        items: all of them, in the order in which they are handed out.
    """

    def __init__(self, processes: Processes, key: str, items: Sequence[Item]) -> None:
        self._processes, self._key, self.items = processes, key, items

    def __iter__(self) -> Iterator[Item]:
        while True:
            self._processes.check()
            place = self._add("taken", 1) - 1
            if place >= len(self.items):
                return
            yield self.items[place]

    def done(self, counted: int = 0) -> None:
        """Note an item as done, and things counted beside the items."""
        self._add("counted", counted)
        self._add("done", 1)

    @property
    def progress(self) -> tuple[int, int]:
        """Items that all processes have done, and the things counted beside them."""
        return self._add("done", 0), self._add("counted", 0)

    def finish(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Return on rank 0 when all items are done, on the other ranks at once.
        Raises OtherProcessError where another process failed.
        """
        self._add("finished", 1)
        if self._processes.is_first:
            working = self._processes.working
            self._processes.wait(lambda: self._add("finished", 0) >= working, meanwhile)

    def _add(self, counter: str, amount: int) -> int:
        total: int = self._processes.ask("add", f"{self._key}: {counter}", amount)
        return total


class _Counters(dict[str, int]):
    """What a single process uses of a store."""

    def add(self, key: str, amount: int) -> int:
        self[key] = self.get(key, 0) + amount
        return self[key]


def is_first_process() -> bool:
    """Return whether this is rank 0: of several processes the one that prints and writes results."""
    return process_count() == 1 or os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """Return the number of processes that torchrun started on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int | None:
    """Return this process's rank among those of its machine; None without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0")) if process_count() > 1 else None


def single_process() -> Processes:
    """Return this process by itself, whatever others there are."""
    return Processes(None, 0, 1)


_joined: Processes | None = None


def processes() -> Processes:
    """Return the processes that torchrun started, or the single one.
    Raises UserError where the others cannot be reached.
    """
    global _joined
    if process_count() == 1:
        return single_process()
    if _joined is None:
        _joined = _rendezvous()
    return _joined


def rank_zero_only() -> None:
    """Leave what follows to rank 0: the others wait for its end, and end as it does.

    Raises:
        SystemExit: on other ranks, when rank 0 has ended well.
        OtherProcessError: on other ranks, when a process failed.
    """
    together = processes()
    together.working = 1
    if not together.is_first:
        together.end()
        raise SystemExit(0)


def _rendezvous() -> Processes:
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        raise UserError(
            "WORLD_SIZE is set, but RANK or MASTER_ADDR is not: start several processes with torchrun,"
            " or unset WORLD_SIZE"
        )
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts != "0" and os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        # Each machine's torchrun counts its restarts by itself, so that the processes would not find each other.
        raise UserError(
            "on several machines give torchrun --max-restarts 0 and a fixed --nnodes; the same command, given again,"
            " goes on"
        )
    import torch.distributed

    if not torch.distributed.is_available():
        raise UserError(
            "this PyTorch has no distributed package: run one process, without torchrun"
        )
    try:
        store, rank, count = next(torch.distributed.rendezvous("env://"))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot reach the other processes at {os.environ['MASTER_ADDR']}"
            f" ({str(error).splitlines()[0]}); start them all with torchrun"
        ) from error
    # Processes that torchrun starts again after a failure have nothing to do with those before.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Processes(torch.distributed.PrefixStore(f"rethink_heads {attempt}", store), rank, count)
