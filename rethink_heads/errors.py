"""The exceptions that end a command without a traceback: a user's mistake, and a signal."""

from __future__ import annotations

import signal


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence that says what is wrong, where, and what to do. The command line
    prints it without a traceback and ends with exit code 2.
    """


class SignalReceived(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end a command as Ctrl-C does; its text is the signal's name.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interruption that an exception is or followed from: cleaning up after one may fail, too."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error
