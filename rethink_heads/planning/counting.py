"""How many images and objects a study measures, from the annotation file alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from rethink_heads.measure.measurements import SIZES, size_name
from rethink_heads.measure.sampling import choose, generator


@dataclass(frozen=True)
class Counts:
    """What is to be measured.

    Attributes:
        images: that hold a measured object.
        empty_images: without one; they are read and nothing else.
        objects: by size.
        most_objects: of one image.
    """

    images: int
    empty_images: int
    objects: Mapping[str, int]
    most_objects: int

    @property
    def all_objects(self) -> int:
        return sum(self.objects.values())


def count(dataset: CocoDataset, config: MeasuringConfig, seed: int) -> Counts:
    """Count the images and the objects that measuring with these settings takes.

    Args:
        dataset: as for measuring, cut to ``config.images`` here.
        config: which objects are measured.
        seed: of the choice among an image's objects.

    Raises:
        UserError: there is no object.
    """
    if config.images is not None:
        dataset = dataset.subset(config.images)
    by_size = dict.fromkeys(SIZES, 0)
    images = most = 0
    for index, image_id in enumerate(dataset.image_ids):
        areas = dataset.object_areas(index)
        random = generator("objects", seed, image_id)
        chosen = choose(len(areas), config.objects_per_image, random).tolist()
        for at in chosen:
            by_size[size_name(float(areas[at]))] += 1
        images += bool(chosen)
        most = max(most, len(chosen))
    if not images:
        raise UserError(
            f"no objects to measure in the first {len(dataset)} images of {dataset.where};"
            " take more images (--max-images)"
        )
    return Counts(images, len(dataset) - images, by_size, most)
