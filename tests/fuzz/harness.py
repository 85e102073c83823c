"""Runs generated inputs against the product, each in a watched process, and says how to run one of them again.

A case is a kind and a seed: both together decide every byte of its input, on every machine with the same libraries.
The product must take the input for what it is or refuse it with a :class:`UserError` of a few lines; a traceback, a
wrong table, more than ``CPU_SECONDS`` or more than ``MEMORY`` beside what was there before is a failure.

    pytest tests/fuzz                                      a few cases of each kind
    pytest tests/fuzz --fuzz-cases 500 --fuzz-first 1000   the seeds 1000 to 1499 of each kind
    python -m tests.fuzz.harness images 17                 one case, here, with its traceback
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rethink_heads.errors import UserError

KINDS = dict(coco=40, voc=20, settings=30, checkpoints=12, command_lines=6, images=40)
"""Kind (a module beside this one, with a function ``check``) -> cases in an ordinary run of the tests."""

CPU_SECONDS = 10
# Other work on the machine is no fault of the product's.
WALL_SECONDS = 90
MEMORY = 2**30
LONGEST_MESSAGE = 600
REFUSED = "refused"


class WrongError(AssertionError):
    """The product took an input for something that it is not, refused a good one, or told it badly."""


class Case:
    """One input and what may come of it.

    Attributes:
        random: decided by kind and seed.
        folder: empty, removed afterwards.
        input: what was generated, for the report.
        announce: takes the input before the product does, which may not come back.
    """

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self.random = random.Random(f"{kind} {seed}")
        self.folder = folder
        self.input = ""
        self.announce: Callable[[str], None] = lambda text: None

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options."""
        return self.random.choice(options)

    def chance(self, of: float) -> bool:
        """Whether something happens whose probability is ``of``."""
        return self.random.random() < of

    def read(self, call: Callable[[], Any]) -> Any:
        """What a call returns, or its UserError, which must be a few lines that can be printed anywhere."""
        self.announce(self.input)
        try:
            return call()
        except UserError as error:
            check_message(str(error))
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, MemoryError):
                    raise WrongError(f"took too much memory before refusing: {error}") from error
                cause = cause.__cause__ or cause.__context__
            return error

    def judge(self, found: Any, *allowed: Any, names: Sequence[str] = ()) -> None:
        """Raise WrongError unless ``found`` is one of the values allowed; a refusal must contain ``names``."""
        if isinstance(found, UserError):
            if not any(value is REFUSED for value in allowed):
                raise WrongError(f"refused what is good: {found}")
            missing = [name for name in names if name not in str(found)]
            if missing:
                raise WrongError(f"the sentence does not name {missing[0]!r}: {found}")
        elif not any(found == value for value in allowed if value is not REFUSED):
            said = "must be refused" if allowed == (REFUSED,) else f"right: {shortened(allowed)}"
            raise WrongError(f"taken for another thing; {said}; found: {shortened(found)}")


def shortened(value: object, length: int = 300) -> str:
    """What a value says of itself, cut."""
    text = " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


def check_message(text: str) -> None:
    """Raise WrongError unless a message can be printed and read."""
    if not text.strip() or len(text) > LONGEST_MESSAGE:
        raise WrongError(f"a message of {len(text)} characters: {shortened(text)}")
    if any(0xD800 <= ord(letter) < 0xE000 or letter in "\0\x1b\x07" for letter in text):
        raise WrongError(f"a message that cannot be printed: {shortened(text)}")


def run_case(kind: str, seed: int, announce: Callable[[str], None]) -> str | None:
    """Run a case in this process; return what is wrong, None where it passes."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        case = Case(kind, seed, Path(folder))
        case.announce = announce
        try:
            importlib.import_module(f"tests.fuzz.{kind}").check(case)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = (
                "" if isinstance(error, WrongError) else f" from {frame.filename}:{frame.lineno}"
            )
            said = f"{type(error).__name__}{where}: {error}".replace(folder, "FOLDER")
            return f"input: {case.input}\n  outcome: {said[:LONGEST_MESSAGE]}"
    return None


def serve(connection: Connection, kind: str) -> None:
    """Run the cases whose seeds are received, in a process of its own, which one that takes too long ends."""
    import torch

    torch.set_num_threads(1)
    is_linux = sys.platform == "linux"
    if is_linux:
        # Far above what a case may take: a backstop for the machine.
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (limit + 12 * MEMORY,) * 2)
    with open(os.devnull, "w") as nowhere:
        sys.stderr = sys.stdout = nowhere
        while True:
            seed = connection.recv()
            if is_linux:
                Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            wrong = run_case(kind, seed, connection.send)
            signal.setitimer(signal.ITIMER_PROF, 0)
            taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            if wrong is None and taken * (1024 if is_linux else 1) > MEMORY:
                wrong = "memory: over 1 GiB"
            connection.send((wrong,))


def failures(kind: str, seeds: Iterable[int]) -> list[str]:
    """Run cases of a kind in a process, a new one where one ended the last; say what fails, and how to run it again."""
    # A fork of a server that has imported everything once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"tests.fuzz.{kind}" for kind in KINDS])
    found: list[str] = []
    process = None
    for seed in seeds:
        if process is None:
            connection, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, kind), daemon=True)
            process.start()
            theirs.close()
        said: Any = ""
        ended = f"hang: over {WALL_SECONDS} s"
        connection.send(seed)
        try:
            while isinstance(said, str) and connection.poll(WALL_SECONDS):
                said = connection.recv()
        except (EOFError, OSError):
            process.join(5)
            ended = f"the process ended ({process.exitcode})"
            if process.exitcode == -signal.SIGPROF:
                ended = f"hang: over {CPU_SECONDS} s of CPU"
        if isinstance(said, str):
            process.kill()
            process.join()
            process, said = None, (f"{ended}; input: {said}",)
        if said[0] is not None:
            found.append(f"{said[0]}\n  again: python -m tests.fuzz.harness {kind} {seed}")
    if process is not None:
        process.kill()
        process.join()
    return found


def main() -> None:
    """Run one case in this process, with its traceback, and end with code 1 where it fails."""
    kind, seed = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        case = Case(kind, seed, Path(folder))
        try:
            importlib.import_module(f"tests.fuzz.{kind}").check(case)
        finally:
            print(f"input: {case.input}", file=sys.__stderr__)


if __name__ == "__main__":
    # The module under its own name, whose classes the kinds raise and catch.
    importlib.import_module("tests.fuzz.harness").main()
