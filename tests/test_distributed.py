"""Processes that share work: here threads with a common store, in tests/measure/test_torchrun.py real ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore

from rethink_heads import distributed
from rethink_heads.distributed import (
    Processes,
    is_first_process,
    processes,
    rank_zero_only,
    single_process,
)
from rethink_heads.errors import LostConnectionError, OtherProcessError, UserError
from rethink_heads.exit_handling import reporting_errors
from rethink_heads.files import until_visible
from rethink_heads.machine import resolve_device

Result = TypeVar("Result")


class LostStore:
    def __getattr__(self, method: str) -> Any:
        raise RuntimeError("Connection reset by peer")


def in_processes(count: int, body: Callable[[Processes], Result]) -> list[Result]:
    """What ``body`` returns in each of several processes."""
    store = HashStore()
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda rank: body(Processes(store, rank, count)), range(count)))


@given(count=st.integers(1, 4), items=st.lists(st.integers(), max_size=30))
@settings(deadline=None, max_examples=25)
def test_each_item_is_taken_once_and_the_first_waits_for_all(count: int, items: list[int]) -> None:
    done: list[int] = []

    def body(together: Processes) -> Any:
        share = together.work_queue(items)
        taken = []
        for item in share:
            taken.append(item)
            done.append(item)
            share.done(counted=2)
        share.finish()
        return taken, sorted(done) if together.is_first else None, share.progress

    results = in_processes(count, body)
    assert sorted(item for taken, _, _ in results for item in taken) == sorted(items)
    assert results[0][1] == sorted(items)
    assert results[0][2] == (len(items), 2 * len(items))


def test_the_first_decides_for_all_and_in_the_order_of_the_calls() -> None:
    def body(together: Processes) -> list[Any]:
        time.sleep(0.02 * (2 - together.rank))
        return [
            together.broadcast(lambda: {"rank": together.rank}),
            together.broadcast(lambda: None),
            together.broadcast(lambda: [together.rank + 5]),
        ]

    assert in_processes(3, body) == [[{"rank": 0}, None, [5]]] * 3


def test_one_failure_ends_all_with_one_message_and_one_code() -> None:
    told = []

    def body(together: Processes) -> tuple[str, int]:
        try:
            for item in together.work_queue(range(1000)):
                if item == 5:
                    raise UserError("item 5 is broken")
                time.sleep(0.001)
            together.broadcast(lambda: True)
            together.end()
        except OtherProcessError as error:
            return str(error), error.code
        except UserError as error:
            if together.fail(str(error), 2) is None:
                told.append(together.rank)
        return "", 2

    results = in_processes(3, body)
    assert len(told) == 1
    assert results.count(("item 5 is broken", 2)) == 2


def test_of_several_failures_one_is_told() -> None:
    causes = in_processes(4, lambda each: each.fail(f"rank {each.rank}", 2))
    assert causes.count(None) == 1
    assert {str(cause) for cause in causes if cause} == {f"rank {causes.index(None)}"}
    lost = Processes(LostStore(), 1, 2).fail("and so this fails too", 2)
    assert isinstance(lost, LostConnectionError)


def test_the_others_end_after_the_first() -> None:
    ended = []

    def body(together: Processes) -> None:
        if together.is_first:
            time.sleep(0.1)
            ended.append("first")
        together.end()
        ended.append(together.rank)

    in_processes(3, body)
    assert ended[0] == "first"
    assert sorted(map(str, ended[1:])) == ["0", "1", "2"]


@pytest.fixture
def as_second_of_two(monkeypatch: pytest.MonkeyPatch) -> HashStore:
    """Make this process the second of two; return the store of both."""
    store = HashStore()
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_joined", Processes(store, 1, 2))
    return store


def test_the_others_leave_the_rest_to_the_first(as_second_of_two: HashStore) -> None:
    Processes(as_second_of_two, 0, 1).end()
    as_second_of_two.set("ended", "")
    with pytest.raises(SystemExit) as ended:
        rank_zero_only()
    assert ended.value.code == 0
    assert as_second_of_two.add("left", 0) == 1


@pytest.mark.parametrize(
    ("rank", "local_rank", "said"), [("0", "0", 1), ("2", "0", 1), ("1", "1", 0)]
)
def test_a_lost_connection_is_said_once_a_machine(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    local_rank: str,
    said: int,
) -> None:
    for name, value in {"RANK": rank, "WORLD_SIZE": "4", "LOCAL_RANK": local_rank}.items():
        monkeypatch.setenv(name, value)
    together = Processes(LostStore(), int(rank), 4)
    monkeypatch.setattr(distributed, "_joined", together)
    with pytest.raises(typer.Exit) as ended:
        reporting_errors(lambda: processes().check())()
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.count("error: the connection to the other processes") == said


def test_who_fails_too_ends_as_the_first_to_fail(as_second_of_two: HashStore) -> None:
    assert Processes(as_second_of_two, 0, 2).fail("interrupted", 130) is None
    with pytest.raises(OtherProcessError, match="interrupted"):
        rank_zero_only()

    @reporting_errors
    def command() -> None:
        raise UserError("and so this fails too")

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 130


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "start several processes with torchrun"),
        (
            {"RANK": "1", "MASTER_ADDR": "127.0.0.1", "GROUP_WORLD_SIZE": "2"}
            | {"TORCHELASTIC_MAX_RESTARTS": "3"},
            "on several machines give torchrun --max-restarts 0",
        ),
    ],
)
def test_what_torchrun_must_have_said(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in {"WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        processes()


def test_one_process_alone_is_the_first_and_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank_zero_only()
    assert processes().is_first
    assert single_process().broadcast(lambda: 3) == 3
    assert list(single_process().work_queue([1, 2])) == [1, 2]
    # Whatever rank a cluster's scheduler has left in its environment.
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert is_first_process()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not is_first_process()


def test_a_file_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "late"
    threading.Timer(0.1, path.touch).start()
    until_visible(path.exists, "late")
    with pytest.raises(UserError, match=r"never cannot be seen here.*same shared folder"):
        until_visible((tmp_path / "never").exists, "never", seconds=0.1)


def test_processes_take_the_gpus_in_turn(
    as_second_of_two: HashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [str(resolve_device(name)) for name in ("auto", "cuda", "cuda:3", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:3",
        "cpu",
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert str(resolve_device("auto")) == "cuda:0"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert str(resolve_device("auto")) == "cuda"
