"""Signals that end a command: a line, an exit code, and nothing left behind."""

from __future__ import annotations

import os
import signal

import pytest
import typer

from rethink_heads.exit_handling import ENDING_SIGNALS, reporting_errors


def ended(command: object) -> int:
    """The exit code of a command."""
    with pytest.raises(typer.Exit) as error:
        reporting_errors(command)()  # type: ignore[arg-type]
    return error.value.exit_code


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_as_ctrl_c_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = getattr(signal, name)
    cleaned_up = []

    def command() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            # A second one does not disturb the cleaning up.
            os.kill(os.getpid(), number)
            cleaned_up.append(True)

    assert ended(command) == 128 + number
    assert cleaned_up
    line = f"stopped by {name}; run the same command again to go on\n"
    assert capsys.readouterr().err == line
    assert all(signal.getsignal(each) is signal.SIG_DFL for each in ENDING_SIGNALS)


@pytest.mark.usefixtures("default_signals")
def test_cleaning_up_may_fail(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise OSError("the terminal is gone")

    assert ended(command) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.startswith("stopped by SIGTERM;")


def test_under_nohup_a_command_goes_on() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        reporting_errors(lambda: os.kill(os.getpid(), signal.SIGHUP))()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
