"""A fast path under a dataset's classes, on a detector's own under their counterparts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rethink_heads.detectors.base import FastPath, Features


class MappedFastPath:
    """A detector's fast path under a dataset's labels.

    Args:
        fast_path: of the detector.
        labels: the detector's label of each of the dataset's.
    """

    def __init__(self, fast_path: FastPath, labels: Sequence[int]) -> None:
        self.fast_path, self.labels = fast_path, tuple(labels)

    def extract(self, image: Tensor) -> Features:
        """Features of an image, uint8 RGB (3, H, W), equal to the detector's up to rounding."""
        return self.fast_path.extract(image)

    def __call__(
        self, features: Features, boxes: Tensor, label: int, memory_mb: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By head: scores (N,) and boxes (N, 4) of the dataset's class ``label`` for boxes (N, 4)."""
        return self.fast_path(features, boxes, self.labels[label], memory_mb)
