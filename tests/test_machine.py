"""The machine: what other processes take of it, how threads wait, and where and in what numbers is computed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial

import pytest
import threadpoolctl
import torch

from rethink_heads import machine
from rethink_heads.errors import UserError
from rethink_heads.machine import (
    SPIN_COUNT,
    WORKERS_PER_CORE,
    CpuTime,
    OtherProcesses,
    check_workers,
    core_count,
    whole_float32,
)


def spin_count_after(code: str, **variables: str) -> str:
    """What OpenMP would go by in a new process that has run ``code``."""
    ours = {*machine.WAITING_VARIABLES, "OMP_NUM_THREADS"}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import os; print(os.environ.get('GOMP_SPINCOUNT'))"],
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_threads_sleep_soon_unless_someone_wants_otherwise() -> None:
    assert spin_count_after("import rethink_heads") == SPIN_COUNT
    assert spin_count_after("import rethink_heads", GOMP_SPINCOUNT="7") == "7"
    assert spin_count_after("import rethink_heads", OMP_WAIT_POLICY="active") == "None"
    # It has read its variables: what is set now would only reach other programs.
    loaded = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')"
    assert spin_count_after(f"{loaded}; import rethink_heads") == "None"


def test_workers_are_bounded_by_the_cores() -> None:
    most = WORKERS_PER_CORE * core_count()
    check_workers(most)
    with pytest.raises(UserError, match=rf"training\.workers={most + 1} .* give {most} or fewer"):
        check_workers(most + 1)


@pytest.mark.parametrize(
    ("later", "told"),
    [
        # Of 8 seconds of all processes in 2, this one had 3: the others have 2.5 cores.
        (CpuTime(12.0, 108.0, 8.0), "other processes take 2.5 of its"),
        (CpuTime(12.0, 103.5, 8.0), None),
        (CpuTime(10.1, 108.0, 8.0), None),
        (None, None),
    ],
)
def test_others_are_told_of_where_they_take_much(
    later: CpuTime | None, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([CpuTime(10.0, 100.0, 5.0), later])
    monkeypatch.setattr(CpuTime, "now", lambda: next(times))
    line = OtherProcesses().busy_line()
    assert line is None if told is None else (line or "").startswith(told)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems say it otherwise")
def test_what_the_system_says() -> None:
    before, now = CpuTime.now(), None
    while now is None or before is None or now.own - before.own < 0.1:
        now = CpuTime.now()
    assert now.everyone - before.everyone >= 0.05
    assert now.clock - before.clock >= 0.05


def test_whole_float32_turns_tf32_off_and_leaves_the_rest() -> None:
    flags = ("enabled", "benchmark", "deterministic", "allow_tf32")

    def settings() -> list[bool]:
        return [getattr(torch.backends.cudnn, name) for name in flags]

    before = settings()
    with whole_float32():
        assert settings() == [*before[:3], False]
    assert settings() == before


def test_two_functions_run_at_once_and_results_keep_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "core_count", lambda: 2)
    # Neither goes on before the other has come.
    meeting = threading.Barrier(2, timeout=30)
    assert sorted(machine.at_once(meeting.wait, meeting.wait)) == [0, 1]
    assert machine.at_once(*(partial(str, number) for number in range(5))) == list("01234")
    with pytest.raises(ValueError, match="'x'"):
        machine.at_once(partial(int, "1"), partial(int, "x"))


def test_products_of_functions_at_once_take_one_thread_each() -> None:
    def threads() -> list[int]:
        pools = threadpoolctl.threadpool_info()
        return [pool["num_threads"] for pool in pools if pool["user_api"] == "blas"]

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        assert [set(found) for found in machine.at_once(threads, threads)] == [{1}, {1}]
        assert threads() == before != []
        # Nor does one that goes on after another has failed leave a limit behind.
        failed, gone = threading.Event(), threading.Event()

        def longer() -> None:
            with machine.one_blas_thread():
                failed.wait(30)
            gone.set()

        with pytest.raises(ValueError, match="'x'"):
            machine.at_once(partial(int, "x"), longer)
        failed.set()
        gone.wait(1)
        assert threads() == before


def test_what_is_not_begun_is_left_when_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "core_count", lambda: 2)
    failed, begun = threading.Event(), []

    def wait(number: int) -> None:
        begun.append(number)
        failed.wait(30)

    with pytest.raises(ValueError, match="'x'"):
        machine.at_once(partial(int, "x"), *(partial(wait, number) for number in range(5)))
    failed.set()
    assert set(begun) <= {0, 1}
