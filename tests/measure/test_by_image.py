"""Images shared by processes, here threads with a common store; the number of threads that divide sums."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.distributed import Processes
from rethink_heads.errors import OtherProcessError, UserError
from rethink_heads.measure.by_image import ImageWork, work_by_image

PROVENANCE = {"weights": "a"}


class Recorder:
    """Work whose parts name their images; remembers what was done, and with how many threads."""

    def __init__(self, dataset: CocoDataset, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder
        self.done: list[int] = []
        self.threads: list[int] = []
        self.merged: list[list[int]] = []
        self.stops_at: int | None = None

    def measure(self, sample: Sample) -> tuple[Callable[[Path], None], int]:
        if sample.image_id == self.stops_at:
            raise KeyboardInterrupt
        self.done.append(sample.image_id)
        self.threads.append(torch.get_num_threads())
        return lambda path: path.write_text(str(sample.image_id)) and None, len(sample.boxes)

    def merge(self, parts: list[Path]) -> None:
        self.merged.append([int(path.read_text()) for path in parts])

    @property
    def work(self) -> ImageWork:
        return ImageWork(self.dataset, PROVENANCE, self.measure, "recording", progress=False)

    def run(self, together: Processes | None = None, work: ImageWork | None = None) -> None:
        def saved() -> dict[str, str] | None:
            return PROVENANCE if self.merged else None

        work_by_image(work or self.work, self.folder, saved, self.merge, together)


@pytest.fixture
def recorder(toy_dataset: CocoDataset, tmp_path: Path) -> Recorder:
    return Recorder(toy_dataset, tmp_path / "parts")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_processes_share_the_images_and_the_first_merges_them_in_order(recorder: Recorder) -> None:
    store = HashStore()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank: recorder.run(Processes(store, rank, 2)), range(2)))
    assert sorted(recorder.done) == sorted(recorder.dataset.image_ids)
    assert recorder.merged == [sorted(recorder.dataset.image_ids)]
    assert not recorder.folder.exists()
    # What is complete is left alone.
    recorder.run()
    assert len(recorder.done) == len(recorder.dataset)


def test_of_several_processes_the_images_with_most_objects_come_first(recorder: Recorder) -> None:
    first = Processes(HashStore(), 0, 2)
    first._store.add("call 3: finished", 1)  # the second process, which has nothing to do
    recorder.run(first)
    assert recorder.done == [12, 7, 3]
    assert [recorder.dataset.object_count(index) for index in range(3)] == [2, 0, 3]


@pytest.mark.usefixtures("two_threads")
def test_what_was_begun_goes_on_with_as_many_threads(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.stops_at = recorder.dataset.image_ids[1]
    with pytest.raises(KeyboardInterrupt):
        recorder.run()
    torch.set_num_threads(1)
    recorder.stops_at = None
    with caplog.at_level(logging.WARNING):
        recorder.run()
    assert recorder.threads == [2, 2, 2]
    assert torch.get_num_threads() == 1
    assert "was begun with 2 thread(s) a process, not 1" in caplog.text
    assert f"delete {recorder.folder} to begin again with 1" in caplog.text


def test_processes_that_measure_something_else_are_told_apart(recorder: Recorder) -> None:
    store = HashStore()
    first, second = (Processes(store, rank, 2) for rank in range(2))
    other = replace(recorder.work, provenance={"weights": "b"})
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(recorder.run, first)
        with pytest.raises(UserError, match="weights: a in the first process, b now"):
            recorder.run(second, other)
        assert second.fail("they differ", 2) is None
        with pytest.raises(OtherProcessError, match="they differ"):
            failing.result()
    assert recorder.merged == []


@pytest.mark.parametrize("provenance", [None, "a", "b"])
def test_what_was_left_of_merged_parts_is_removed(
    recorder: Recorder, provenance: str | None
) -> None:
    """Not what is left unfinished of another setting."""
    recorder.run()
    recorder.folder.mkdir()
    (recorder.folder / "3").write_text("3")
    if provenance is not None:
        begun = {"provenance": {"weights": provenance}, "threads": 1}
        (recorder.folder / "begun.json").write_text(json.dumps(begun))
    recorder.run()
    assert len(recorder.merged) == 1
    assert recorder.folder.exists() == (provenance == "b")
