"""The one exception that a user's mistake raises."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence that says what is wrong, where, and what to do. The command line
    prints it without a traceback and ends with exit code 2.
    """
