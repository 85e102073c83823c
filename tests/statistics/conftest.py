"""Made-up proposals of which every raw row is known, beside the measurements made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import stdev

import numpy as np
import pandas as pd
import pytest
from scipy.stats import skew, t

from rethink_heads.measure.moments import ERRORS
from rethink_heads.measure.store import SIZES, Measurements
from rethink_heads.statistics import bootstrap
from tests.frames import from_frames, reduce_values


@dataclass(frozen=True)
class SimulatedMeasurements:
    """Measurements, the raw rows (one per proposal) that they reduce, and those reduced to bins."""

    measurements: Measurements
    raw: pd.DataFrame = field(repr=False)
    bins: pd.DataFrame = field(repr=False)

    @property
    def rows(self) -> pd.DataFrame:
        """Every proposal as a sampled one."""
        return self.raw.assign(weight=1.0)

    def of(self, head: str, size: str = "all", detector: str = "run") -> pd.DataFrame:
        """The raw rows of one head and size."""
        raw = self.raw[(self.raw["head"] == head) & (self.raw["detector"] == detector)]
        return raw if size == "all" else raw[raw["size"] == size]


def simulate(
    images: int = 8,
    objects: int = 3,
    proposals: int = 60,
    *,
    keys: Sequence[tuple[str, str]] = (("run", "fc"), ("run", "conv")),
    shift: float = 0.0,
    sizes: Sequence[str] = SIZES,
    rows_weight: float = 1.0,
    seed: int = 0,
) -> SimulatedMeasurements:
    """Clustered proposals: images and objects each add their own offset to the score.

    All sides see the same proposals and offsets. The second and later sides' scores and regressed
    IoUs are ``shift`` higher.
    """
    generator = np.random.default_rng(seed)
    raw, bins = [], []
    for image_id in range(10, 10 + images):
        image_offset = generator.normal(scale=0.3)
        for number in range(objects):
            iou = np.sqrt(generator.random(proposals))
            offset = image_offset + generator.normal(scale=0.1)
            ids = {
                "image_id": image_id,
                "object_id": image_id * 100 + number,
                "class_name": "cat",
                "size": sizes[(image_id + number) % len(sizes)],
            }
            for place, (detector, head) in enumerate(keys):
                higher = shift if place else 0.0
                values = {
                    "iou": iou,
                    "score": iou + offset + generator.normal(scale=0.2, size=proposals) + higher,
                    "regressed_iou": np.sqrt(iou) - 0.1 * generator.random(proposals) + higher,
                }
                # Rounded, so that ranks have ties.
                values["score"] = values["score"].round(1 if place else 12)
                errors = generator.normal(scale=0.1 + place / 10, size=(len(ERRORS), proposals))
                values |= dict(zip(ERRORS, errors, strict=True))
                number_of_bin = np.minimum((iou * 20).astype(int), 19)
                named = {**ids, "detector": detector, "head": head}
                bins.append(reduce_values(values, number_of_bin).assign(**named))
                raw.append(pd.DataFrame({**values, "bin": number_of_bin, **named}))
    rows, bin_frame = (pd.concat(frames, ignore_index=True) for frames in (raw, bins))
    measurements = from_frames(bin_frame, rows.assign(weight=rows_weight))
    return SimulatedMeasurements(measurements, rows, bin_frame)


@pytest.fixture(scope="session", name="simulate")
def simulate_fixture() -> Callable[..., SimulatedMeasurements]:
    return simulate


@pytest.fixture(scope="session")
def simulated() -> SimulatedMeasurements:
    return simulate()


@pytest.fixture(autouse=True)
def few_images_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of fewer images than the package gives any of: these data are small."""
    monkeypatch.setattr(bootstrap, "FEWEST_IMAGES", 2)


@pytest.fixture(scope="session")
def interval_by_hand() -> Callable[..., tuple[float, float]]:
    """The 95% interval of one number, written down a second time: replicates, value, weights of the images."""

    def interval(
        replicates: Sequence[float],
        value: float,
        weights: Sequence[float],
        is_correlation: bool = False,
    ) -> tuple[float, float]:
        images = sum(weights) ** 2 / sum(w**2 for w in weights)
        found = [r for r in replicates if not math.isnan(r)]
        if is_correlation:
            found, value = [math.atanh(r) for r in found], math.atanh(value)
        times = t(images - 1).ppf(0.975)
        deviation = (images / (images - 1)) ** 0.5 * stdev(found)
        more = float(skew(found)) / 6 * (1 + 2 * times**2)
        below, above = (times + min(max(each, 0), times / 2) for each in (-more, more))
        ends = value - below * deviation, value + above * deviation
        return tuple(math.tanh(end) for end in ends) if is_correlation else ends

    return interval
