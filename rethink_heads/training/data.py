"""Batches of training and validation images, the same whatever is interrupted or spread over processes."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, cast

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rethink_heads.config import TrainingConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError


class IterationSampler(Sampler[list[tuple[int, bool]]]):
    """For each iteration, this process's part of the batch: pairs of image index and whether to flip it.

    The batch of an iteration depends on the seed and the iteration alone: images are taken from one shuffled pass over
    the data after the other. So a resumed run sees the batches that it would have seen, and several processes see
    together what one process sees. Raises UserError if the batch cannot be split evenly.
    """

    def __init__(
        self,
        indices: list[int],
        training: TrainingConfig,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if training.batch_size % world_size:
            raise UserError(
                f"training.batch_size={training.batch_size} cannot be split over {world_size} processes: "
                f"give a multiple of {world_size}"
            )
        self.indices = indices
        self.training, self.seed, self.start = training, seed, start
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.training.max_iterations

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng([self.seed, number])
        order = generator.permutation(len(self.indices))
        flips = generator.random(len(self.indices)) < 0.5
        return order, flips & self.training.flip

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        size, count = self.training.batch_size, len(self.indices)
        current = -1
        for iteration in range(self.start, self.training.max_iterations):
            batch = []
            for position in range(iteration * size, (iteration + 1) * size):
                number, offset = divmod(position, count)
                if number != current:
                    (order, flips), current = self._pass(number), number
                batch.append((self.indices[order[offset]], bool(flips[offset])))
            yield batch[self.rank :: self.world_size]


class TrainingImages(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images as float in [0, 1] with their targets, flipped where asked."""

    def __init__(self, dataset: CocoDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, item: tuple[int, bool]) -> tuple[Tensor, dict[str, Tensor]]:
        index, flip = item
        sample = self.dataset[index]
        image, boxes = sample.image, sample.boxes
        if flip:
            width = image.shape[-1]
            image = image.flip(-1)
            boxes = torch.stack(
                [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1
            )
        return image.float() / 255, {"boxes": boxes, "labels": sample.labels}


def _as_lists(batch: list[tuple[Tensor, dict[str, Tensor]]]) -> list[list[Any]]:
    return [list(each) for each in zip(*batch, strict=True)]


def _tell_no_lost_connection(worker: int) -> None:
    """Have a data worker print no traceback when training is stopped in the middle of taking its batch."""
    told = sys.excepthook

    def tell(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        # The thread that hands over tensors ends here; errors of the data reach the trainer on another way.
        if not isinstance(error, ConnectionError | EOFError):
            told(kind, error, traceback)

    sys.excepthook = tell


class DetectionData(lightning.LightningDataModule):
    """Training batches by iteration, of images with objects (authors' code); validation images one by one."""

    def __init__(
        self, train: CocoDataset, val: CocoDataset, training: TrainingConfig, seed: int
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.training, self.seed = training, seed

    def train_dataloader(self) -> DataLoader:
        """From the trainer's iteration on: lists of images and targets."""
        assert self.trainer is not None
        sampler = IterationSampler(
            self.train.indices_with_objects(),
            self.training,
            self.seed,
            self.trainer.global_step,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        return DataLoader(
            TrainingImages(self.train),
            batch_sampler=sampler,
            collate_fn=_as_lists,
            pin_memory=torch.cuda.is_available(),
            num_workers=self.training.workers,
            worker_init_fn=_tell_no_lost_connection,
        )

    def val_dataloader(self) -> DataLoader:
        """One :class:`~rethink_heads.data.coco.Sample` at a time, each image in exactly one process.
        Raises UserError if a process would have none.
        """
        assert self.trainer is not None
        if len(self.val) < self.trainer.world_size:
            raise UserError(
                f"{len(self.val)} validation images cannot be shared by {self.trainer.world_size} processes: "
                "give more images (training.validate_images) or start fewer processes"
            )
        mine = range(self.trainer.global_rank, len(self.val), self.trainer.world_size)
        # Any list of images will do; its type alone says otherwise.
        images = cast(Dataset[Any], self.val)
        return DataLoader(images, sampler=list(mine), collate_fn=operator.itemgetter(0))
