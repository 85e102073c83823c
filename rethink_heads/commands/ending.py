"""How a command ends: a user's mistake told in a line, several processes together."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, ParamSpec

import typer

from rethink_heads.console import prepare_streams, print_error
from rethink_heads.distributed import (
    FIRST_PAUSE,
    Processes,
    is_first_process,
    process_count,
    processes,
    speaks_for_machine,
)
from rethink_heads.errors import SignalReceived, UserError, interruption
from rethink_heads.input_files import shown
from rethink_heads.process_store import LostConnectionError, OtherProcessError

Parameters = ParamSpec("Parameters")

USER_ERROR_CODE = 2
INTERRUPTED_CODE = 130
UNEXPECTED_CODE = 1
CAUSE_SECONDS = 1.0
_SPACE = "free some space and run the same command again to go on"
_PERMISSION = "ask its owner for permission, or give another"
ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.ENAMETOOLONG: "give a shorter one",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "give one that can be written",
}
"""What to do about errors of the system that can come from anywhere."""
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def reporting_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turn a user's mistake into one line and exit code 2, an interruption into exit code 130.

    SIGTERM and SIGHUP interrupt as Ctrl-C does; their exit codes are 143 and 129, as shells have them. Of several
    processes one says it, and all end with the same code.
    """

    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        _set_up_messages()
        with _raising_signals():
            try:
                command(*args, **kwargs)
                # What cannot be written is told while there is somebody to tell.
                sys.stdout.flush()
                processes().end()
            except BaseException as error:
                _report(error)
                raise

    return wrapped


def end_at_once(mistake: str) -> NoReturn:
    """Tell a mistake in the arguments, which every process finds, before there is a command to end."""
    if is_first_process():
        print_error(f"error: {mistake}")
    raise typer.Exit(USER_ERROR_CODE)


def explain(error: OSError) -> str:
    """Return what to do about an error of the system; what this package writes says so itself, with the path."""
    place = f" for {shown(error.filename)}" if error.filename else ""
    return f"{os.strerror(error.errno or 0)}{place}; {ADVICE[error.errno or 0]}"


def _report(error: BaseException) -> None:
    """End with a line and an exit code where it is known what they are; else the exception goes on as it is."""
    interrupted = interruption(error)
    if interrupted is not None:
        how, code = "interrupted", INTERRUPTED_CODE
        if isinstance(interrupted, SignalReceived):
            how, code = f"stopped by {interrupted}", 128 + interrupted.number
        _fail(f"{how}; run the same command again to go on", code, error)
    if isinstance(error, OtherProcessError):
        _end_with(error)
    if isinstance(error, UserError):
        _fail(f"error: {error}", USER_ERROR_CODE, error)
    if isinstance(error, OSError) and error.errno in ADVICE:
        _fail(f"error: {explain(error)}", USER_ERROR_CODE, error)
    if isinstance(error, Exception):
        _fail_unexpectedly(error)


@contextlib.contextmanager
def _raising_signals() -> Iterator[None]:
    """Have the first SIGTERM or SIGHUP raise SignalReceived; those after it do not disturb what it brings about.

    Signals that are ignored, as under nohup, or handled by someone else stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own, received = os.getpid(), False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        # A process that loads data has the same handlers, and ends when this one does.
        if os.getpid() == own and not received:
            received = True
            raise SignalReceived(number)

    changed = [number for number in ENDING_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _set_up_messages() -> None:
    """Warnings go to standard error, from the first process only."""
    prepare_streams()
    level = logging.WARNING if is_first_process() else logging.ERROR
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=level)
    if not is_first_process():
        warnings.simplefilter("ignore")


def _fail(message: str, code: int, error: BaseException) -> NoReturn:
    """End all processes; the first to fail says why."""
    if process_count() == 1:
        print_error(message)
        raise typer.Exit(code) from error
    try:
        together = processes()
    except UserError:
        # That the others cannot be reached is true of all.
        if is_first_process():
            print_error(message)
        raise typer.Exit(code) from error
    if not together.fail(message, code):
        _end_with(_cause(together, code))
    print_error(message)
    together.see_off()
    raise typer.Exit(code) from error


def _fail_unexpectedly(error: Exception) -> None:
    """Have the other processes end silently where this one is the first to fail; else end silently itself."""
    if process_count() == 1 or isinstance(error, typer.Exit):
        return
    with contextlib.suppress(UserError):
        together = processes()
        if not together.fail(f"{type(error).__name__}: {error}", UNEXPECTED_CODE):
            _end_with(_cause(together, UNEXPECTED_CODE))


def _cause(together: Processes, code: int) -> OtherProcessError:
    """The failure that another process has told of before this one failed too."""
    last = time.monotonic() + CAUSE_SECONDS
    try:
        # It counts itself among those that failed first, and says why after.
        while time.monotonic() < last:
            together.check()
            time.sleep(FIRST_PAUSE)
    except OtherProcessError as cause:
        return cause
    return OtherProcessError("", code)


def _end_with(cause: OtherProcessError) -> NoReturn:
    """End as the process that failed does: silently, unless it is gone with all that it could have said."""
    if isinstance(cause, LostConnectionError) and speaks_for_machine():
        print_error(f"error: {cause}")
    with contextlib.suppress(UserError):
        processes().leave()
    raise typer.Exit(cause.code) from cause
