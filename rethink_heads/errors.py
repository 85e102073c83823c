"""The exceptions that end a command without a traceback: a user's mistake, and a signal."""

from __future__ import annotations

import re
import signal
from pathlib import Path

# Neither UTF-8, nor Parquet, nor a file name can hold them.
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


class UserError(Exception):
    """A mistake that the user can fix.

    The message is one sentence that says what is wrong, where, and what to do. The command line
    prints it without a traceback and ends with exit code 2.
    """


class SignalInterrupt(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end a command as Ctrl-C does; its text is the signal's name.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interruption that an exception is or followed from: cleaning up after one may fail, too."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def shown(name: str | Path) -> str:
    """Return a name as messages show it: on one line, printable, and not too long."""
    text = str(name)
    return shorten(text if text.isprintable() else ascii(text)[1:-1], 200)


def unwritable(text: str) -> str | None:
    """Return the first character that no text file can hold, a NUL or half of a surrogate pair: ``U+D800``."""
    found = _UNWRITABLE.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def check_writable(text: str, whose: str) -> str:
    """Return a text that files and folders can be named and written with.
    Raises UserError where it has a character that none can hold.
    """
    if character := unwritable(text):
        raise UserError(
            f"{whose} {shorten(text)!r} has the character {character}, which no text file can hold; write it in UTF-8"
        )
    return text


def shorten(text: str, longest: int = 100) -> str:
    """Return a text's beginning and end where it is longer than ``longest`` characters."""
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end - 5]} ... {text[-end:]}"


class OtherProcessError(UserError):
    """Another process of the command failed; it says why, and all end with its exit code."""

    def __init__(self, message: str, code: int, rank: int | None = None) -> None:
        super().__init__(message)
        self.code, self.rank = code, rank


class LostConnectionError(OtherProcessError):
    """The store of the processes cannot be reached: who served it is gone, and may have said nothing."""

    def __init__(self) -> None:
        super().__init__(
            "the connection to the other processes is lost; run the same command again to go on", 2
        )
