"""Work done image by image: resumable, shared by all processes, and read again when nothing it depends on has changed.

Each image's part is a file on a disk that all processes see. Which process makes it does not matter: a part depends
on its image alone, and on the number of threads that divide its sums. So all processes, today's and those of an
earlier call, use as many as the first had when it began; the result is then the same to the bit for any number of
processes on machines of one kind. What parts came from, their provenance, is kept with them: only equal ones are used
again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rethink_heads import __version__
from rethink_heads.config import MeasuringConfig
from rethink_heads.console import ProgressReport
from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.distributed import Processes, is_first_process, processes
from rethink_heads.errors import UserError
from rethink_heads.files import (
    METADATA_KEY,
    atomic_path,
    cannot_read,
    read_table,
    reading_parquet,
    until_visible,
    write_parquet,
    write_text,
)
from rethink_heads.locking import hold, results_folder
from rethink_heads.measure.store_files import OBJECTS_NAME, relabel, stored_provenance

logger = logging.getLogger(__name__)

_BEGUN = "begun.json"
# How some proposals of the grid were drawn; none of the whole grid says so.
_DRAWING = "stratified by IoU bin, with the errors of sampling"
_PACKAGES = ("torch", "torchvision")
IMAGE_FILES = "image files"
_LONGEST_SHOWN = 200
# Images whose rows are held at once while they are put together.
IMAGES_AT_ONCE = 256
_TYPES = {
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "str": pa.string(),
}


@dataclass(frozen=True)
class ImageWork:
    """What is done with every image of a dataset.

    Attributes:
        dataset: the images.
        provenance: everything that the parts depend on.
        measure: an image's part, as what writes it to a path, and how many of the things counted it holds.
        title: what is being done, for the report on standard error.
        counted: name of the things counted; None: none are.
        progress: whether to report.
    """

    dataset: CocoDataset
    provenance: dict[str, str]
    measure: Callable[[Sample], tuple[Callable[[Path], None], int]]
    title: str
    counted: str | None = None
    progress: bool = True


def work_by_image(
    work: ImageWork,
    folder: Path,
    saved: Callable[[], dict[str, str] | None],
    merge: Callable[[list[Path]], None],
    together: Processes | None = None,
) -> None:
    """Make the parts of all images and merge them. All processes share the images; rank 0 merges.

    Returns on rank 0 after merging, on other ranks when the queue is empty. Of several commands one does the work: the
    others wait, and find the result.
    Raises UserError where the folder cannot be written or is not the same for all processes, or another process failed.

    Args:
        folder: keeps the parts until they are merged; an interrupted call goes on with those that it left. Parts of
            another provenance are removed, after saying what differs.
        saved: the provenance of the merged result, None where there is none; asked on rank 0 alone.
        merge: makes the result of the parts, in the order of the image ids; called on rank 0 alone.
        together: the processes; None: all that torchrun started.
    """
    together = processes() if together is None else together

    def is_done() -> bool:
        return saved() == work.provenance

    with hold(results_folder(folder.parent), is_done, together):
        plan = together.broadcast(
            lambda: None if is_done() else _begin(work, folder, saved(), together.working)
        )
        if plan is None:
            # Parts that were merged, where their process ended before it had deleted all of them. Those of another
            # provenance are unfinished and stay.
            if together.is_first and _begun(folder).get("provenance") in (None, work.provenance):
                shutil.rmtree(folder, ignore_errors=True)
            return
        if plan["provenance"] != work.provenance:
            found = _differences(plan["provenance"], work.provenance)
            raise UserError(
                f"the processes do not measure the same ({found.replace(' before', ' in the first process')});"
                " give all machines the same packages, data and settings"
            )
        until_visible(folder.is_dir, str(folder))
        with _threads(plan["threads"]):
            _make_parts(work, folder, plan["todo"], together)
            if together.is_first:
                wanted = set(work.dataset.image_ids)
                until_visible(
                    lambda: wanted <= _complete(folder), f"a part of the images in {folder}"
                )
                merge([folder / str(image_id) for image_id in sorted(wanted)])
                _remove(folder)


def _begin(
    work: ImageWork, folder: Path, before: dict[str, str] | None, working: int
) -> dict[str, Any]:
    """Open the folder of parts, on rank 0, and say what is to be done, and with how many threads."""
    import torch

    if before is not None:
        logger.warning(
            "%s: what is in %s is of another setting and is made again (%s)",
            work.title,
            folder.parent,
            _differences(before, work.provenance),
        )
    begun, threads = _begun(folder), torch.get_num_threads()
    if begun.get("provenance") != work.provenance and folder.is_dir() and any(folder.iterdir()):
        logger.warning(
            "unfinished measurements in %s are of another setting and are removed (%s)",
            folder,
            _differences(begun.get("provenance") or {}, work.provenance),
        )
        _remove(folder)
        begun = {}
    if begun.get("threads", threads) != threads:
        logger.warning(
            "what is in %s was begun with %d thread(s) a process, not %d, and goes on so: its sums stay the same to the"
            " bit (delete %s to begin again with %d)",
            folder,
            begun["threads"],
            threads,
            folder,
            threads,
        )
    for left in folder.glob(".*"):
        # What a killed process left half-written.
        left.unlink(missing_ok=True)
    begun = {"provenance": work.provenance, "threads": begun.get("threads", threads)}
    write_text(folder / _BEGUN, json.dumps(begun, indent=1, sort_keys=True))
    complete = _complete(folder)
    todo = [i for i, image_id in enumerate(work.dataset.image_ids) if image_id not in complete]
    if working > 1:
        # What takes longest first, so that no process still has a long image when the others have finished.
        todo.sort(key=work.dataset.object_count, reverse=True)
    return {**begun, "todo": todo}


def _begun(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _BEGUN).read_text(encoding="utf-8"))
        return {"provenance": dict(found["provenance"]), "threads": int(found["threads"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _complete(folder: Path) -> set[int]:
    """Ids of the images whose parts are complete: a file appears under its name only when it is."""
    names = [path.name for path in folder.iterdir()]
    return {int(name) for name in names if name.removeprefix("-").isdecimal()}


def _remove(folder: Path) -> None:
    # Without it the folder is of another setting: what an interruption leaves is never taken up.
    (folder / _BEGUN).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _make_parts(work: ImageWork, folder: Path, todo: Sequence[int], together: Processes) -> None:
    """Make parts until none is left; rank 0 reports what all have done, and waits for all."""
    queue = together.work_queue(todo)
    total = len(work.dataset)
    start = total - len(todo)
    report = ProgressReport(
        work.title,
        total,
        "images",
        counted=work.counted,
        start=start,
        enabled=work.progress and together.is_first,
    )

    def advance() -> None:
        done, counted = queue.progress
        steps = start + done - report.done
        if steps:
            report.advance(steps, counted - report.counted if work.counted else None)

    with report:
        for index in queue:
            sample = work.dataset[index]
            write, counted = work.measure(sample)
            with atomic_path(folder / str(sample.image_id)) as temporary:
                write(temporary)
            queue.done(counted)
            if together.is_first:
                advance()
        queue.finish(advance)
        if together.is_first:
            advance()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def frames_by_image(
    frame: Callable[[Sample], pd.DataFrame],
    dataset: CocoDataset,
    path: Path,
    types: Mapping[str, str],
    provenance: Mapping[str, str],
    title: str,
    progress: bool = True,
    *,
    detector: str | None = None,
    counted: str | None = None,
    metadata: Mapping[bytes, bytes] | None = None,
) -> None:
    """Keep the frames of all images, one below the other in the order of their ids, in a Parquet file.

    Parts are kept in a folder beside the file until all are there, so that an interrupted call loses only the image
    under way. A complete file of the same provenance stays; one of another is replaced when the new one is complete.
    Processes that torchrun started share the images, and return when all of them can read the file.
    Raises UserError where the file cannot be written, or another process failed.

    Args:
        types: names and types ("int64", "float32", "float64" or "str") of the columns.
        provenance: everything that the frames depend on.
        detector: value of the column "detector", whatever it was when parts were made; None: there is no such column.
        counted: what rows are called in the report; None: they are not counted.
        metadata: of the file, beside the provenance.
    """
    provenance = dict(provenance)
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in types.items()])
    own = {METADATA_KEY: json.dumps(provenance, sort_keys=True).encode(), **(metadata or {})}

    def merge(parts: list[Path]) -> None:
        named = schema.with_metadata(own)
        with (
            atomic_path(path) as temporary,
            # A page with a wrong bit can be read without an error otherwise, as other numbers.
            pq.ParquetWriter(temporary, named, write_page_checksum=True) as writer,
        ):
            for start in range(0, len(parts), IMAGES_AT_ONCE):
                some = [read_table(part)[0] for part in parts[start : start + IMAGES_AT_ONCE]]
                whole = pa.concat_tables([each.select(schema.names).cast(schema) for each in some])
                labelled = whole if detector is None else _labelled(whole, detector)
                writer.write_table(labelled.cast(named))

    def measure(sample: Sample) -> tuple[Callable[[Path], None], int]:
        found = frame(sample)
        return partial(write_parquet, found, metadata={}), len(found)

    together = processes()
    work = ImageWork(dataset, provenance, measure, title, counted, progress)
    folder = path.with_name(f"{path.stem}-parts")
    work_by_image(work, folder, lambda: file_provenance(path), merge, together)
    # The others read what rank 0 has written.
    together.broadcast(lambda: True)
    until_visible(lambda: file_provenance(path) == provenance, str(path))
    if detector is not None:
        rename_detector(path.parent, detector)


def rename_detector(folder: Path, detector: str) -> None:
    """Have the files in a folder call their detector by its present name: its run may have been renamed or copied.
    Raises UserError where a file is damaged, or must be written and cannot be.
    """
    paths = [path for path in sorted(Path(folder).glob("*.parquet")) if path.name != OBJECTS_NAME]
    has_store = stored_provenance(folder) is not None

    def is_named(path: Path) -> bool:
        with reading_parquet(path), pq.ParquetFile(path) as file:
            if "detector" not in file.schema_arrow.names:
                # Of several detectors, as candidates are: their file has no such column.
                return True
            first = next(file.iter_batches(1, columns=["detector"]), None)
        return not first or first["detector"][0].as_py() == detector

    def is_done() -> bool:
        return all(map(is_named, paths)) and not (has_store and relabel(folder, detector, dry=True))

    if processes().broadcast(is_done):
        return
    with hold(results_folder(folder)):
        if is_first_process():
            if has_store:
                relabel(folder, detector)
            for path in paths:
                if not is_named(path):
                    table, _ = read_table(path)
                    with atomic_path(path) as temporary:
                        named = _labelled(table, detector)
                        pq.write_table(named, temporary, write_page_checksum=True)


def _labelled(table: pa.Table, detector: str) -> pa.Table:
    place = table.schema.names.index("detector")
    field = table.schema.field(place)
    return table.set_column(place, field, pa.repeat(detector, len(table)).cast(field.type))


def provenance_of(
    dataset: CocoDataset, config: MeasuringConfig, seed: int, together: Processes | None = None
) -> dict[str, str]:
    """What is known of measurements without the detector's weights: add their hash as "weights".

    The detector's name is not among it: it is a label, and a run that was renamed or copied has another.

    `memory_mb` is left out: it decides how much is done at once, and changes what is measured by rounding alone.
    """
    drawn = {} if config.proposals_per_object is None else {"sampling": _DRAWING}
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
        **{f"version of {name}": _version(name) for name in _PACKAGES},
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


def _differences(before: dict[str, str], now: dict[str, str]) -> str:
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
    return f"{text[:_LONGEST_SHOWN]}..." if len(text) > _LONGEST_SHOWN else text


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
