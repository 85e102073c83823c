"""What measurements take on a disk, from a few objects that are written as a study writes them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.parts import Parts


@dataclass(frozen=True)
class Bytes:
    """What files of measurements take: ``fixed + images x of_image + objects x of_object``."""

    fixed: float
    of_image: float
    of_object: float

    def total(self, images: int, objects: int) -> float:
        return self.fixed + images * self.of_image + objects * self.of_object


def file_sizes(
    measured: Sequence[Measurements], provenance: dict[str, str]
) -> tuple[Bytes, Bytes, float]:
    """Bytes of results and of parts, and seconds an image that both take.

    The same objects are written as so many images and as one image's, and one of them alone: the three differ by what
    an image takes and what an object takes.
    """
    count = len(measured)
    numbered = [_numbered(part, number, number) for number, part in enumerate(measured)]
    together = Measurements.merge(
        [_numbered(part, 0, number) for number, part in enumerate(measured)]
    )
    many, parts_many, seconds = _written(numbered, provenance)
    alone, parts_alone, _ = _written(numbered[:1], provenance)
    if count == 1:
        nothing, _, _ = _written([Measurements.empty()], provenance)
        return Bytes(nothing, 0.0, alone - nothing), Bytes(0.0, 0.0, parts_alone), seconds
    one, parts_one, _ = _written([together], provenance)
    of_image = (many - one) / (count - 1)
    of_object = (one - alone) / (count - 1)
    of_part = (parts_one - parts_alone) / (count - 1)
    merged = Bytes(alone - of_image - of_object, of_image, of_object)
    return merged, Bytes(0.0, parts_many / count - of_part, of_part), seconds / count


def _numbered(part: Measurements, image_id: int, object_id: int) -> Measurements:
    ids = {"image_id": image_id, "object_id": object_id}
    return Measurements(
        bins=part.bins.assign(**ids),
        rows=part.rows.assign(**ids),
        maps=part.maps.assign(**ids),
        sampling=part.sampling.assign(**ids),
    )


def _written(
    images: Sequence[Measurements], provenance: dict[str, str]
) -> tuple[float, float, float]:
    """Bytes of the merged files and of the parts of some images, and the seconds that writing both took."""
    with tempfile.TemporaryDirectory() as passing:
        folder, begun = Path(passing), time.perf_counter()
        parts = Parts(folder / "parts", provenance)
        for number, part in enumerate(images):
            parts.write(number, part)
        parts.merge_into(folder / "merged", range(len(images)), Measurements.empty())
        seconds = time.perf_counter() - begun
        return _size(folder / "merged"), _size(folder / "parts"), seconds


def _size(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
