"""One writer at a time: a lock on a folder of results that says who holds it.

The lock is the operating system's, so that it goes with the process that holds it, however that ends. What a killed
process left unfinished is removed by the next one that holds the lock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from rethink_heads.config import CONFIG_NAME
from rethink_heads.distributed import Processes, processes
from rethink_heads.files import remove, unfinished_in

LOCK_NAME, HOLDER_NAME = ".writer.lock", ".writer.json"
# Where unfinished files may lie in a run, a comparison, a sweep or an export. Not deeper: a folder of a run's own,
# such as a sweep's trainings, has a lock of its own.
LAYOUT = (
    "checkpoints",
    "measurements/*",
    "measurements/*/*parts",
    *(f"{kind}{inner}" for kind in ("tables", "figures") for inner in ("", "/*", "/*/*")),
    "precision",
    "failures",
)
QUIET_SECONDS = 1.0
# Of file systems that have no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, or held it when it was killed."""

    pid: int
    host: str
    command: str
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        program = Path(sys.argv[0])
        name = program.parent.name if program.name == "__main__.py" else program.name
        command = shlex.join([name, *sys.argv[1:]])
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), command, since)

    @classmethod
    def read(cls, folder: Path) -> Holder | None:
        """Return what a folder says of its holder; None where it says nothing."""
        try:
            return cls(**json.loads((folder / HOLDER_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def has_ended(self) -> bool:
        """Whether it is known to be gone; of another machine's processes nothing is known."""
        # On Windows a signal of 0 is no question, but Ctrl-C.
        if self.host != socket.gethostname() or os.name == "nt":
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


# By thread and folder, how often it is held: a lock is taken once, whatever calls whatever.
_held = threading.local()


@contextlib.contextmanager
def hold(
    folder: Path, is_done: Callable[[], bool] = lambda: False, together: Processes | None = None
) -> Iterator[None]:
    """Be the only command that writes into a folder; while another one does, wait and say for whom.

    Processes that torchrun started share one lock: the first takes it, the others wait until it has. A folder that is
    not there is made, and removed again where nothing was written. Where this user cannot write at all, or the file
    system has no locks, the work goes on without one: what cannot be written says so itself.

    Args:
        is_done: whether nothing is left to be written, so that nothing is waited for; asked again and again.
        together: the processes; None: all that torchrun started.
    """
    key = Path(folder).resolve()
    together = processes() if together is None else together
    counts: Counter[Path] = vars(_held).setdefault("counts", Counter())
    with contextlib.ExitStack() as stack:
        if counts[key] or together.broadcast(lambda: _take(key, is_done, together, stack)):
            counts[key] += 1
            stack.callback(counts.subtract, [key])
        yield


def results_folder(folder: Path) -> Path:
    """Return the folder whose lock guards a folder of measurements: its run's, or itself where it is in none."""
    inner = Path(folder).absolute()
    near = (inner, *inner.parents[:2])
    return next((each for each in near if (each / CONFIG_NAME).is_file()), inner)


def _take(
    folder: Path, is_done: Callable[[], bool], together: Processes, stack: contextlib.ExitStack
) -> bool:
    """Lock a folder until the stack is closed; False where it is not locked."""
    taken: bool | None = None
    told: list[Holder | None] = []
    started = time.monotonic()

    def ready() -> bool:
        nonlocal taken
        taken = _try_to_take(folder, stack)
        return taken is not None or is_done()

    def tell() -> None:
        # Most hold it for a moment.
        if time.monotonic() < started + QUIET_SECONDS:
            return
        holder = Holder.read(folder)
        # Who is just letting go has said so already.
        if holder in told or (holder is None and told):
            return
        told.append(holder)
        ended = " has ended, its last processes have not" if holder and holder.has_ended else ""
        name = f"{holder}{ended}" if holder else "another command"
        logger.warning("%s is being written by %s: waiting", folder, name)

    together.wait(ready, tell)
    return bool(taken)


def _try_to_take(folder: Path, stack: contextlib.ExitStack) -> bool | None:
    """Lock a folder until the stack is closed; None where another holds it, False where it cannot be locked."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME)
        lock.acquire(blocking=False)
    except (Timeout, FileNotFoundError):
        # Not found: its last holder has just removed it, with nothing in it.
        return None
    except OSError as error:
        if error.errno in NO_LOCKS:
            logger.warning(
                "%s cannot be locked (%s): let no two commands write into it",
                folder,
                error.strerror,
            )
        return False
    for each in reversed(missing):
        # Closed in reverse: the innermost first, where nothing was written.
        stack.callback(_remove_if_empty, each)
    stack.callback(lock.release)
    # Before the lock is let go: files of these names are the next holder's afterwards.
    stack.callback(remove, folder / LOCK_NAME)
    stack.callback(remove, folder / HOLDER_NAME)
    killed = Holder.read(folder)
    left = unfinished_in([folder, *(each for one in LAYOUT for each in folder.glob(one))])
    for path in left:
        remove(path)
    if killed is not None and left:
        logger.warning("removed what %s left unfinished in %s", killed, folder)
    text = json.dumps(asdict(Holder.this_process()), indent=1) + "\n"
    with contextlib.suppress(OSError):
        # Not by way of a temporary name: who is killed between leaves nothing more.
        (folder / HOLDER_NAME).write_text(text, encoding="utf-8", newline="\n")
    return True


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
