"""Work done image by image: resumable, shared by all processes, and read again when nothing it depends on has changed.

Each image's part is a folder on a disk that all processes see. Which process makes it does not matter: a part depends
on its image alone, and on the number of threads that divide its sums. So all processes, today's and those of an
earlier call, use as many as the first had when it began; the result is then the same to the bit for any number of
processes on machines of one kind.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.distributed import Processes, WorkQueue, processes
from rethink_heads.errors import UserError
from rethink_heads.files import read_table, until_visible, write_parquet, write_text
from rethink_heads.locking import hold, results_folder
from rethink_heads.measure.parts import Parts, Saved, remove_leftover
from rethink_heads.measure.provenance import differences, file_provenance
from rethink_heads.measure.row_groups import arrow_schema, with_label, write_by_group
from rethink_heads.progress import ProgressReport

logger = logging.getLogger(__name__)

_PART = "part.parquet"
_THREADS = "threads.json"


@dataclass(frozen=True)
class ImageWork:
    """What is done with every image of a dataset, and with the parts in the end.

    Attributes:
        dataset: the images.
        provenance: everything that the parts depend on.
        of_image: an image's part, and how many of the things counted it holds.
        title: what is being done, for the report on standard error.
        counted: name of the things counted; None: none are.
        progress: whether to report.
    """

    dataset: CocoDataset
    provenance: dict[str, str]
    of_image: Callable[[Sample], tuple[Saved, int]]
    title: str
    counted: str | None = None
    progress: bool = True


def work_by_image(
    work: ImageWork,
    folder: Path,
    saved: Callable[[], dict[str, str] | None],
    merge: Callable[[Parts], None],
    together: Processes | None = None,
) -> None:
    """Make the parts of all images and merge them. All processes share the images; the first one merges.

    Returns in the first process when the result is there, in the others when no image is left for them. Of several
    commands one does the work: the others wait, and find the result.

    Args:
        work: what is done.
        folder: keeps the parts until they are merged; an interrupted call goes on with those that it left.
        saved: the provenance of the merged result, None where there is none; asked in the first process alone.
        merge: makes the result of the parts of all images; called in the first process alone.
        together: the processes; None: all that torchrun started.

    Raises:
        UserError: the folder cannot be written or is not the same for all processes, or another process failed.
    """
    together = processes() if together is None else together

    def is_done() -> bool:
        return saved() == work.provenance

    with hold(results_folder(folder.parent), is_done, together):
        parts: list[Parts] = []
        plan = together.broadcast(
            lambda: None if is_done() else _begin(work, folder, saved(), together.working, parts)
        )
        if plan is None:
            if together.is_first:
                remove_leftover(folder, work.provenance)
            return
        if not parts:
            parts.append(_join(work, folder, plan))
        share = together.work_queue(plan["todo"])
        with _threads(plan["threads"]):
            _do(work, parts[0], share, together.is_first)
            if together.is_first:
                _check_all_there(work, parts[0])
                merge(parts[0])
                parts[0].remove()


def file_by_image(
    of_image: Callable[[Sample], pd.DataFrame],
    dataset: CocoDataset,
    kept: KeptFrame,
    provenance: Mapping[str, str],
    title: str,
    progress: bool = True,
) -> None:
    """Keep the frames of all images, one below the other in the order of their ids, in a file.

    Parts are kept in a folder beside the file until all are there, so that an interrupted call loses only the image
    under way; they are put together without holding all of them. A complete file of the same provenance stays; one of
    another is replaced when the new one is complete. Processes that torchrun started share the images, and come back
    when all of them can read the file.

    Args:
        of_image: the frame of one image, with the same columns and types for each, even without rows.
        dataset: the images.
        kept: the file.
        provenance: everything that the frame depends on.
        title: what is being done, for the report on standard error.
        progress: whether to report.

    Raises:
        UserError: the file cannot be written, or another process failed.
    """
    provenance, path = dict(provenance), kept.path

    def saved() -> dict[str, str] | None:
        return file_provenance(path)

    def merge(parts: Parts) -> None:
        schema = arrow_schema(kept.columns)
        names = (parts.folder / str(i) / _PART for i in sorted(dataset.image_ids))
        found = (read_table(name)[0].select(schema.names).cast(schema) for name in names)
        # Parts from before an interruption, since when the run was renamed.
        tables = (with_label(table, kept.detector) for table in found)
        write_by_group(tables, path, kept.columns, kept.group, provenance, kept.gathered_bytes)

    def part(sample: Sample) -> tuple[Saved, int]:
        return _FramePart(of_image(sample)), 0

    together = processes()
    work = ImageWork(dataset, provenance, part, title, progress=progress)
    work_by_image(work, path.with_name(f"{path.stem}-parts"), saved, merge, together)
    # The others read what the first has written.
    together.broadcast(lambda: True)
    until_visible(lambda: file_provenance(path) == provenance, str(path))


@dataclass(frozen=True)
class KeptFrame:
    """A file that a frame is kept in.

    Attributes:
        path: a Parquet file.
        columns: names and types.
        group: columns that each row group has one text in.
        gathered_bytes: size of what is gathered before it is written: of a row group at the most.
        detector: the name of the detector that all of it is of.
    """

    path: Path
    columns: Mapping[str, str]
    group: Sequence[str]
    gathered_bytes: int
    detector: str


@dataclass(frozen=True)
class _FramePart:
    frame: pd.DataFrame

    def save(self, folder: Path) -> None:
        write_parquet(self.frame, folder / _PART, {})


def _begin(
    work: ImageWork,
    folder: Path,
    before: dict[str, str] | None,
    process_count: int,
    opened: list[Parts],
) -> dict[str, Any]:
    """Open the parts, in the first process, and say what is to be done, and with how many threads."""
    if before is not None:
        logger.warning(
            "%s: what is in %s is of another setting and is made again (%s)",
            work.title,
            folder.parent,
            differences(before, work.provenance),
        )
    parts = Parts(folder, work.provenance)
    opened.append(parts)
    threads = _threads_of(folder)
    complete = parts.complete
    todo = [i for i, image_id in enumerate(work.dataset.image_ids) if image_id not in complete]
    if process_count > 1:
        # What takes longest first, so that no process still has a long image when the others have finished.
        todo.sort(key=work.dataset.object_count, reverse=True)
    return {"provenance": work.provenance, "threads": threads, "todo": todo}


def _join(work: ImageWork, folder: Path, plan: Mapping[str, Any]) -> Parts:
    """The parts that the first process has opened, in another one."""
    if plan["provenance"] != work.provenance:
        found = differences(plan["provenance"], work.provenance)
        raise UserError(
            f"the processes do not measure the same ({found.replace(' before', ' in the first process')});"
            " give all machines the same packages, data and settings"
        )
    until_visible(folder.is_dir, str(folder))
    return Parts(folder, work.provenance, joining=True)


def _do(work: ImageWork, parts: Parts, share: WorkQueue[int], is_first: bool) -> None:
    """Make parts until none is left; the first process reports what all have done, and waits for all."""
    total = len(work.dataset)
    start = total - len(share.items)
    report = ProgressReport(
        work.title,
        total,
        "images",
        counted=work.counted,
        start=start,
        enabled=work.progress and is_first,
    )

    def advance() -> None:
        done, counted = share.progress
        steps = start + done - report.done
        if steps:
            report.advance(steps, counted - report.counted if work.counted else None)

    with report:
        for index in share:
            sample = work.dataset[index]
            part, counted = work.of_image(sample)
            parts.write(sample.image_id, part)
            share.done(counted)
            if is_first:
                advance()
        share.finish(advance)
        if is_first:
            advance()


def _check_all_there(work: ImageWork, parts: Parts) -> None:
    wanted = set(work.dataset.image_ids)
    until_visible(
        lambda: wanted <= parts.complete,
        f"a part of the images in {parts.folder}",
    )


def _threads_of(folder: Path) -> int:
    """The number of threads that the parts in a folder are made with: this process's where there are none yet."""
    path = folder / _THREADS
    own = torch.get_num_threads()
    try:
        begun = int(json.loads(path.read_text(encoding="utf-8"))["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        write_text(path, json.dumps({"threads": own}) + "\n")
        return own
    if begun != own:
        logger.warning(
            "what is in %s was begun with %d thread(s) a process, not %d, and goes on so: its sums stay the same to the"
            " bit (delete %s to begin again with %d)",
            folder,
            begun,
            own,
            folder,
            own,
        )
    return begun


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
