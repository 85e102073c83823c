"""What the command line prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator

from rethink_heads.distributed import is_first_process
from rethink_heads.errors import shorten

LONGEST_ERROR = 1000
LONGEST_WORD = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].replace("±", "+-")
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("rethink_heads", _spell_out)


def prepare_streams() -> None:
    """Have standard output and error take every text: a closed one loses it, an encoding that lacks a character
    gets it spelled out.

    Hours of measuring must not end in an encoding, and no file that is opened later may become standard output.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free, which is this one.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rethink_heads")


def print_error(message: str) -> None:
    """Print why a command ends on standard error: a line of bounded length, whatever names are in it.

    Long values are cut by themselves, so that what is said about them stays.
    """
    text = _CONTROL.sub(" ", message)
    text = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: shorten(word[0], LONGEST_WORD), text)
    print(shorten(text, LONGEST_ERROR), file=sys.stderr, flush=True)


def log(message: str) -> None:
    """Print one line on standard error, from the first process only."""
    if is_first_process():
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def redirect_stdout() -> Iterator[None]:
    """Send all that is written to standard output while working to standard error.

    Libraries report there, from Python and from C; a reader of ``--json`` must not see it. Of several processes, the
    others than the first say nothing at all.
    """
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        place = sys.stderr
        if not is_first_process():
            place = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        try:
            kept = os.dup(1)
            os.dup2(2 if is_first_process() else place.fileno(), 1)
            stack.callback(_put_back, kept)
        except OSError:
            # No such file descriptors, as in some notebooks: what Python writes is still redirected.
            pass
        stack.enter_context(contextlib.redirect_stdout(place))
        yield


def _put_back(kept: int) -> None:
    os.dup2(kept, 1)
    os.close(kept)
