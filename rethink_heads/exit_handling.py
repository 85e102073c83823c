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
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, ParamSpec

import typer

from rethink_heads.console import prepare_streams, print_error
from rethink_heads.distributed import (
    is_first_process,
    local_rank,
    process_count,
    processes,
    single_process,
)
from rethink_heads.errors import (
    LostConnectionError,
    OtherProcessError,
    SignalInterrupt,
    UserError,
    interruption,
    shown,
)

Parameters = ParamSpec("Parameters")

USER_ERROR_CODE = 2
INTERRUPTED_CODE = 130
UNEXPECTED_CODE = 1
_GO_ON = "run the same command again to go on"
_SPACE = f"free some space and {_GO_ON}"
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
    if isinstance(interrupted := interruption(error), SignalInterrupt):
        message, code = f"stopped by {interrupted}; {_GO_ON}", 128 + interrupted.number
    elif interrupted is not None:
        message, code = f"interrupted; {_GO_ON}", INTERRUPTED_CODE
    elif isinstance(error, OtherProcessError):
        _end_as(error)
    elif isinstance(error, UserError):
        message, code = f"error: {error}", USER_ERROR_CODE
    elif isinstance(error, OSError) and error.errno in ADVICE:
        message, code = f"error: {explain(error)}", USER_ERROR_CODE
    elif isinstance(error, Exception) and not isinstance(error, typer.Exit):
        message, code = f"{type(error).__name__}: {error}", UNEXPECTED_CODE
    else:
        return
    together, speaks = single_process(), True
    if process_count() > 1:
        try:
            together = processes()
        except UserError:
            # That the others cannot be reached is true of all.
            speaks = is_first_process()
    cause = together.fail(message, code)
    if cause is not None:
        _end_as(cause)
    if code == UNEXPECTED_CODE:
        return
    if speaks:
        print_error(message)
    together.barrier()
    raise typer.Exit(code) from error


def _end_as(cause: OtherProcessError) -> NoReturn:
    """End as the process that failed does: silently, unless it is gone with all that it could have said."""
    speaks = is_first_process() or local_rank() == 0
    if isinstance(cause, LostConnectionError) and speaks:
        print_error(f"error: {cause}")
    with contextlib.suppress(UserError):
        processes().leave()
    raise typer.Exit(cause.code) from cause


@contextlib.contextmanager
def _raising_signals() -> Iterator[None]:
    """Have the first SIGTERM or SIGHUP raise SignalInterrupt; those after it do not disturb what it brings about.

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
            raise SignalInterrupt(number)

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
