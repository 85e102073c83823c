"""Several processes that run one command together, as ``torchrun`` starts them, on one machine or several.

All run the same lines. They share a folder, and a small store of keys that the first process, or torchrun, serves:
through it the first process decides what all must agree on, the items of a piece of work are handed out one at a
time, and the failure of one ends all. Nothing that is measured passes through it, so neither NCCL nor gloo is needed.
A process by itself goes the same ways with a store of its own.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from rethink_heads.errors import UserError
from rethink_heads.process_store import GuardedStore, OtherProcessError, OwnStore, Store

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
LEAVING_SECONDS = 10.0

_FAILED, _FAILURES, _ENDED, _LEFT = "failed", "failures", "ended", "left"

Value = TypeVar("Value")
Item = TypeVar("Item")


class Processes:
    """The processes of one command, as one of them sees it.

    Every process must call the collective methods (``decide``, ``share``) in the same order.

    Args:
        store: reached by all.
        rank: this process, 0 for the first.
        count: of processes.

    Attributes:
        sharing: how many of them share the work: the first alone when the others have left the rest to it.
    """

    def __init__(self, store: Store, rank: int, count: int) -> None:
        self._store, self.rank, self.count = GuardedStore(store), rank, count
        self.sharing = count
        self._calls = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def decide(self, decision: Callable[[], Value]) -> Value:
        """What the first process decides, for all of them.

        So none goes by a file that another has written meanwhile, or that its own machine does not show yet.

        Args:
            decision: called in the first process alone; its result can be written as JSON.

        Raises:
            OtherProcessError: another process failed.
        """
        key = self._next_key()
        if self.is_first:
            value = decision()
            self._store.set(key, json.dumps(value))
            return value
        self.wait(lambda: self._store.check([key]))
        decided: Value = json.loads(self._store.get(key))
        return decided

    def share(self, items: Sequence[Item]) -> Share[Item]:
        """Hand out items, the same in every process, so that each is taken by exactly one."""
        return Share(self, self._store, self._next_key(), items)

    def wait(self, ready: Callable[[], bool], meanwhile: Callable[[], None] | None = None) -> None:
        """Wait, for as long as it takes, until something is so.

        Args:
            ready: asked again and again.
            meanwhile: called each time when it is not.

        Raises:
            OtherProcessError: another process failed.
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
        if self.count > 1 and self._store.check([_FAILED]):
            failure = json.loads(self._store.get(_FAILED))
            raise OtherProcessError(failure["message"], failure["code"])

    def fail(self, message: str, code: int) -> bool:
        """Have all processes end with an exit code.

        Returns:
            Whether this is the first process to fail, which is the one to say why.
        """
        if self.count == 1:
            return True
        try:
            if self._store.add(_FAILURES, 1) > 1:
                return False
            self._store.set(_FAILED, json.dumps({"message": message, "code": code}))
        except UserError:
            # The store went with the process that served it: where that is not said, each machine says it.
            return self.is_first
        return True

    def end(self) -> None:
        """End together: the others when the first has done everything.

        Raises:
            OtherProcessError: another process failed.
        """
        if self.count == 1:
            return
        if self.is_first:
            self._store.set(_ENDED, "")
            self.see_off()
        else:
            self.wait(lambda: self._store.check([_ENDED]))
            self.leave()

    def leave(self) -> None:
        """Count this process among those that have ended; to be called by those that others wait for."""
        if self.count > 1:
            try:
                self._store.add(_LEFT, 1)
            except UserError:
                # Nobody is left to wait.
                return

    def see_off(self, seconds: float = LEAVING_SECONDS) -> None:
        """Give the other processes some time to end by themselves: torchrun kills them when this one is gone."""
        last = time.monotonic() + seconds
        try:
            while self.count > 1 and time.monotonic() < last:
                if self._store.add(_LEFT, 0) >= self.count - 1:
                    return
                time.sleep(FIRST_PAUSE)
        except UserError:
            return

    def _next_key(self) -> str:
        self._calls += 1
        return f"call {self._calls}"


class Share(Generic[Item]):
    """Items handed out one at a time to whichever process asks next: iterate, and call ``done`` after each.

    Attributes:
        items: all of them, in the order in which they are handed out.
    """

    def __init__(self, processes: Processes, store: Store, key: str, items: Sequence[Item]) -> None:
        self._processes, self._store, self._key = processes, store, key
        self.items = items

    def __iter__(self) -> Iterator[Item]:
        while True:
            self._processes.check()
            place = self._store.add(f"{self._key}: taken", 1) - 1
            if place >= len(self.items):
                return
            yield self.items[place]

    def done(self, counted: int = 0) -> None:
        """Note an item as done, and things counted beside the items."""
        self._store.add(f"{self._key}: counted", counted)
        self._store.add(f"{self._key}: done", 1)

    @property
    def progress(self) -> tuple[int, int]:
        """Items that all processes have done, and the things counted beside them."""
        done = self._store.add(f"{self._key}: done", 0)
        return done, self._store.add(f"{self._key}: counted", 0)

    def finish(self, meanwhile: Callable[[], None] | None = None) -> None:
        """The first process waits until all are done; the others only say that they are.

        Raises:
            OtherProcessError: another process failed.
        """
        finished = f"{self._key}: finished"
        self._store.add(finished, 1)
        if self._processes.is_first:
            sharing = self._processes.sharing
            self._processes.wait(lambda: self._store.add(finished, 0) >= sharing, meanwhile)


def is_first_process() -> bool:
    """Under torchrun every process runs the command; one of them speaks and writes results."""
    return process_count() == 1 or os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """The number of processes that torchrun started on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int | None:
    """This process among those of its machine, from 0; None without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0")) if process_count() > 1 else None


def speaks_for_machine() -> bool:
    """Whether this process says what the first of all may not be there to say: one of each machine does."""
    return is_first_process() or local_rank() == 0


def alone() -> Processes:
    """This process by itself, whatever others there are."""
    return Processes(OwnStore(), 0, 1)


_joined: Processes | None = None


def processes() -> Processes:
    """The processes that torchrun started, or this one alone.

    Raises:
        UserError: the others cannot be reached.
    """
    global _joined
    if process_count() == 1:
        return alone()
    if _joined is None:
        _joined = _join()
    return _joined


def leave_to_first() -> None:
    """What follows is the first process's: the others wait for its end, and end as it does.

    Raises:
        SystemExit: in the others, when the first has ended well.
        OtherProcessError: in the others, when a process failed.
    """
    together = processes()
    together.sharing = 1
    if not together.is_first:
        together.end()
        raise SystemExit(0)


def _join() -> Processes:
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
