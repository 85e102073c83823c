"""Least and largest values of settings and options: far beyond what anybody needs, within what a machine can do.

Beyond them a number is a slip of the keyboard, and what it would start ends hours later without memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from rethink_heads.errors import UserError, shorten

Number = TypeVar("Number", int, float)


FILE_HEAD = "detections"
"""What tables call the one head of a results file."""


@dataclass(frozen=True)
class Bounds:
    """A range of numbers, both ends included. Called with a value, it returns it or raises ValueError."""

    low: float
    high: float

    def __call__(self, value: Number) -> Number:
        if not self.low <= value <= self.high:  # NaN neither.
            raise ValueError(f"must be {self}")
        return value

    def __str__(self) -> str:
        low, high = (f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in (self.low, self.high))
        return f"{low} to {high}"

    def check(self, value: Number, what: str) -> Number:
        """Return ``value``. Raises UserError where it is not within the bounds."""
        if not self.low <= value <= self.high:
            raise UserError(f"{what} {shorten(str(value))} is out of bounds: give {self}")
        return value


SEED = Bounds(0, 2**32 - 1)
FRACTION = Bounds(0.0, 1.0)

# What is measured. The grid has steps^4 proposals an object: 31 steps give 63 times the usual number.
IMAGES = Bounds(1, 10**9)
OBJECTS = Bounds(1, 10**6)
GRID_STEPS = Bounds(3, 31)
PROPOSALS = Bounds(1, 31**4)
ROWS_PER_BIN = Bounds(0, 10_000)
MEMORY_MB = Bounds(1, 2**24)

# The detector. Below 32 px an image has no cell on the backbone's last level.
SIDE = Bounds(32, 10_000)
CHANNELS = Bounds(1, 16_384)
BLOCKS = Bounds(0, 100)
GROUPS = Bounds(1, 1024)
RESOLUTION = Bounds(1, 64)
SAMPLING_RATIO = Bounds(0, 32)
BOXES = Bounds(1, 100_000)
ANCHOR_SIZE = Bounds(1, 10_000)
ANCHOR_RATIO = Bounds(0.01, 100.0)
ENLARGEMENT = Bounds(0.1, 10.0)
BETA = Bounds(0.0, 100.0)
TASK_WEIGHT = Bounds(0.0, 1000.0)
PIXEL_MEAN = Bounds(-1000.0, 1000.0)
PIXEL_DEVIATION = Bounds(1e-6, 1000.0)
PIXEL_RANGE = Bounds(1e-6, 1e6)
PADDING = Bounds(32, 1024)
EPSILON = Bounds(0.0, 1.0)
LEAST_SIDE = Bounds(0.0, 10_000.0)
CANONICAL_SIZE = Bounds(1, 10_000)
MOST_HEAD_WEIGHTS = 2**30

# Training.
ITERATIONS = Bounds(1, 10**8)
BATCH_SIZE = Bounds(1, 4096)
RATE = Bounds(1e-12, 100.0)
FACTOR = Bounds(1e-6, 1.0)
WORKERS = Bounds(0, 1024)
GRADIENT = Bounds(1e-9, 1e9)

# Options without a setting.
CLASSES = Bounds(1, 100_000)
FRAME_SIDE = Bounds(1, 20_000)
DRAWS = Bounds(0, 100_000)
DEVICES = Bounds(1, 100_000)
SECONDS = Bounds(0, 10**6)
ERROR_IOU = Bounds(0.1, 1.0)
CROPS_MB = Bounds(0.0, 2000.0)
MOST_POINTS = 1000


HeadName = Literal[
    "fc", "conv", "double-fc", "double-conv", "double", "double-reverse", "double-ext"
]
HEADS: tuple[str, ...] = get_args(HeadName)
"""By the names of :data:`rethink_heads.heads.STRUCTURES`."""

HEAD_ALIASES = {
    "single-fc": "fc",
    "single-conv": "conv",
    "double-head": "double",
    "double-head-reverse": "double-reverse",
    "double-head-ext": "double-ext",
}
"""The paper's names, where they are longer, and ours."""

DEFAULT_HEAD = "double-ext"


def head_name(name: Any) -> Any:
    """Return our name of a head, given ours or the paper's; anything else as it is."""
    return HEAD_ALIASES.get(name, name) if isinstance(name, str) else name
