"""Batches: the same whatever is interrupted or shared, and flips that take the boxes along."""

from __future__ import annotations

import os
import socket
import sys
from multiprocessing import resource_sharer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.config import TrainingConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import resolve_split
from rethink_heads.errors import UserError
from rethink_heads.training.data import DetectionData, IterationSampler, TrainingImages
from tests.tiny_coco import CLASSES, COLOURS

Batches = list[list[tuple[int, bool]]]


def batches(
    images: int,
    training: TrainingConfig,
    seed: int = 0,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Batches:
    indices = [10 * index for index in range(images)]
    return list(IterationSampler(indices, training, seed, start, rank, world))


@st.composite
def recipes(draw: st.DrawFn) -> tuple[int, int, TrainingConfig]:
    """A number of images, a number of processes, and a recipe whose batch they can share."""
    world = draw(st.integers(1, 4))
    training = TrainingConfig(
        max_iterations=draw(st.integers(1, 12)),
        batch_size=world * draw(st.integers(1, 3)),
        flip=draw(st.booleans()),
    )
    return draw(st.integers(1, 15)), world, training


@settings(deadline=None)
@given(recipe=recipes(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_batch_depends_on_seed_and_iteration_alone(
    recipe: tuple[int, int, TrainingConfig], seed: int, data: st.DataObject
) -> None:
    images, world, training = recipe
    whole = batches(images, training, seed)
    assert len(whole) == training.max_iterations
    assert {len(batch) for batch in whole} == {training.batch_size}
    start = data.draw(st.integers(0, training.max_iterations))
    assert batches(images, training, seed, start) == whole[start:]
    shares = [batches(images, training, seed, start, rank, world) for rank in range(world)]
    for batch, *parts in zip(whole[start:], *shares, strict=True):
        assert sorted(batch) == sorted(pair for part in parts for pair in part)
        assert len({len(part) for part in parts}) == 1


@settings(deadline=None)
@given(recipe=recipes(), seed=st.integers(0, 1000))
def test_each_image_comes_once_in_every_pass(
    recipe: tuple[int, int, TrainingConfig], seed: int
) -> None:
    images, _, training = recipe
    drawn = [index for batch in batches(images, training, seed) for index, _ in batch]
    passes = [drawn[begin : begin + images] for begin in range(0, len(drawn), images)]
    for each in passes:
        assert len(set(each)) == len(each)
    for each in passes[:-1]:
        assert sorted(each) == [10 * index for index in range(images)]


def test_passes_and_seeds_differ_and_half_of_the_images_are_flipped() -> None:
    training = TrainingConfig(max_iterations=40, batch_size=50)
    drawn = [pair for batch in batches(1000, training) for pair in batch]
    first, second = drawn[:1000], drawn[1000:]
    assert first != second
    assert drawn[:50] != batches(1000, training, seed=1)[0]
    flips = np.array([flip for _, flip in drawn])
    # Five standard deviations of 2000 fair coins.
    assert abs(flips.mean() - 0.5) < 5 * 0.5 / 2000**0.5
    # The same image is flipped in one pass and not in another.
    by_pass = [dict(each) for each in (first, second)]
    assert {(by_pass[0][index], by_pass[1][index]) for index in by_pass[0]} == {
        (a, b) for a in (False, True) for b in (False, True)
    }


def test_no_flips_when_they_are_switched_off() -> None:
    on, off = (TrainingConfig(max_iterations=20, batch_size=5, flip=flip) for flip in (True, False))
    assert not any(flip for batch in batches(7, off) for _, flip in batch)
    assert any(flip for batch in batches(7, on) for _, flip in batch)
    order = [[index for index, _ in batch] for batch in batches(7, on)]
    assert order == [[index for index, _ in batch] for batch in batches(7, off)]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match=r"training\.batch_size=5 .* 2 processes.* multiple of 2"):
        batches(4, TrainingConfig(batch_size=5), world=2)


def data_of(images: Path, rank: int, world: int) -> DetectionData:
    """The data of one process, with what it reads of its trainer."""
    dataset = CocoDataset(*resolve_split(str(images), "val"))
    data = DetectionData(dataset, dataset, TrainingConfig(workers=0), seed=0)
    trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=0)
    data.trainer = trainer  # type: ignore[assignment]
    return data


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_validation_image_is_in_one_process(data: Path, world: int) -> None:
    shares = [
        [sample.image_id for sample in data_of(data, rank, world).val_dataloader()]
        for rank in range(world)
    ]
    assert sorted(image for share in shares for image in share) == [1, 2, 3, 4]
    assert all(shares)


def test_too_few_validation_images_for_the_processes(data: Path) -> None:
    with pytest.raises(UserError, match=r"4 validation images .* 5 processes"):
        data_of(data, 0, 5).val_dataloader()


@pytest.mark.skipif(os.name == "nt", reason="tensors are handed over by sockets of Unix")
@pytest.mark.parametrize("as_a_worker", [False, True])
def test_a_worker_is_silent_when_its_reader_is_gone(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_a_worker: bool,
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    if as_a_worker:
        begin = data_of(data, 0, 1).train_dataloader().worker_init_fn
        assert begin is not None
        begin(0)
    address, _ = resource_sharer.DupFd(0)._id  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(address)
    resource_sharer.stop(60)
    assert ("Traceback" in capsys.readouterr().err) is not as_a_worker


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_follow_the_pixels(data: Path, flip: bool) -> None:
    dataset = CocoDataset(*resolve_split(str(data), "train"))
    image, target = TrainingImages(dataset)[0, flip]
    expected = dataset[0].image.float() / 255
    assert torch.equal(image, expected.flip(-1) if flip else expected)
    (label,) = target["labels"].tolist()
    colour = torch.tensor(COLOURS[CLASSES[label]])[:, None, None] / 255
    rows, columns = torch.nonzero((image == colour).all(0), as_tuple=True)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert target["boxes"].tolist() == [[int(value) for value in found]]
