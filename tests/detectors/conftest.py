"""A real image that detectors of all frameworks are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor


@pytest.fixture(scope="session")
def photograph(shared_data: Path) -> Tensor:
    """A real image, uint8 RGB (3, H, W)."""
    path = min((shared_data / "coco-sample" / "val2017").glob("*.jpg"))
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
