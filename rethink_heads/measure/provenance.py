"""What measurements came from, so that only equal ones are reused."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rethink_heads import __version__
from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.distributed import Processes, processes
from rethink_heads.files import METADATA_KEY, cannot_read

# How some proposals of the grid were drawn; none of the whole grid says so.
DRAWING = "stratified by IoU bin, with the errors of sampling"
PACKAGES = ("torch", "torchvision")
IMAGE_FILES = "image files"
LONGEST_SHOWN = 200


def provenance_of(
    dataset: CocoDataset, config: MeasuringConfig, seed: int, together: Processes | None = None
) -> dict[str, str]:
    """What is known of measurements without the detector's weights: add their hash as "weights".

    The detector's name is not among it: it is a label, and a run that was renamed or copied has another.

    `memory_mb` is left out: it decides how much is done at once, and changes what is measured by rounding alone.
    """
    drawn = {} if config.proposals_per_object is None else {"sampling": DRAWING}
    return {
        **dataset_provenance(dataset, together),
        "measuring": config.model_dump_json(exclude={"memory_mb", "images"}),
        "seed": str(seed),
        **drawn,
    }


def dataset_provenance(dataset: CocoDataset, together: Processes | None = None) -> dict[str, str]:
    """What is known of anything that a detector says of a dataset, without the detector's weights.
    ``together``: the processes, of which the first reads the images; None: all that torchrun started.
    """
    together = processes() if together is None else together
    return {
        "data": dataset.fingerprint,
        "images": str(len(dataset)),
        IMAGE_FILES: together.broadcast(dataset.images_fingerprint),
        "version of rethink-heads": __version__,
        **{f"version of {name}": _version(name) for name in PACKAGES},
    }


def file_provenance(path: Path) -> dict[str, str] | None:
    """Provenance of a Parquet file, of which only the schema is read; None if missing or damaged."""
    try:
        found = json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
    except PermissionError as error:
        # It is not to be made again: it is there, and perhaps all right.
        raise cannot_read(path, "file", error) from error
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    return found if isinstance(found, dict) else None


def differences(before: dict[str, str], now: dict[str, str]) -> str:
    """In words, what differs: `seed was 0, is 1; weights were ...`."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return "; ".join(
        f"{name}: {_short(before.get(name))} before, {_short(now.get(name))} now" for name in names
    )


def _short(text: str | None) -> str:
    if text is None:
        return "not stated"
    # Hashes are told apart by their first digits.
    if len(text) == 64 and " " not in text:
        return f"{text[:12]}..."
    return f"{text[:LONGEST_SHOWN]}..." if len(text) > LONGEST_SHOWN else text


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
