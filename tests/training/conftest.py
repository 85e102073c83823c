"""A small data set to train on, and one thread to train with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny_coco import write_coco

IMAGES = 4


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over threads would depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images to train on, and the same number to validate on."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        write_coco(folder, split, IMAGES)
    return folder
