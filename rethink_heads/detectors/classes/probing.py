"""A prober that is asked about a dataset's classes and asks a detector's own about their counterparts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rethink_heads.detectors.base import Detector, Extracting, Features, Prober


class MappedProber:
    """A detector's prober under a dataset's labels.

    Args:
        prober: of the detector.
        detector: whose features are taken where the prober has no quicker way to them.
        labels: the detector's label of each of the dataset's.
    """

    def __init__(self, prober: Prober, detector: Detector, labels: Sequence[int]) -> None:
        self.prober, self.labels = prober, tuple(labels)
        self._extracting = prober if isinstance(prober, Extracting) else detector

    def extract(self, image: Tensor) -> Features:
        """Features of an image, uint8 RGB (3, H, W), equal to the detector's up to rounding."""
        return self._extracting.extract(image)

    def __call__(
        self, features: Features, boxes: Tensor, label: int, memory_mb: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By head: scores (N,) and boxes (N, 4) of the dataset's class ``label`` for boxes (N, 4)."""
        return self.prober(features, boxes, self.labels[label], memory_mb)
