"""Fixtures that all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rethink_heads.exit_handling import ENDING_SIGNALS
from rethink_heads.machine import other_processes


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over threads would depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command says does not depend on what else the machine does."""
    monkeypatch.setattr(other_processes, "busy_line", lambda: None)


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Signals that end a command do, though the tests were started with nohup, which has SIGHUP ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds, and other tests see to it."""
    monkeypatch.setattr("rethink_heads.report.results.write_figures", lambda *args, **kwargs: [])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the repository; the test is skipped where there is none."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there")
    return folder
