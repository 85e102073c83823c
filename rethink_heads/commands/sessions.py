"""What the commands over runs have in common: find or make runs, their data, their measurements."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.commands.choices import configured
from rethink_heads.config import Config, StudyConfig, load_preset
from rethink_heads.console import say, work
from rethink_heads.distributed import is_first_process, processes
from rethink_heads.errors import SignalReceived, UserError, interruption
from rethink_heads.machine import other_processes
from rethink_heads.options import DataOptions, StudyOptions
from rethink_heads.runs import Run, default_runs_root, measurements_name
from rethink_heads.study_folder import StudyFolder

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.base import Detector
    from rethink_heads.measure.store import Measurements

DEMO_PRESET, DEMO_HEAD = "shapes-tiny", "double-ext"


@dataclass(frozen=True)
class Opened:
    """A detector and data with the same classes.

    Attributes:
        detector: as it was opened.
        dataset: cut down to the classes that both have.
        config: the detector's settings with what the command line changes.
        provenance: what anything that the detector says of the data depends on.
        name: of the measurements (see :mod:`rethink_heads.runs`).
        seed: of the measuring.
    """

    detector: Detector
    dataset: CocoDataset
    config: StudyConfig
    provenance: dict[str, str]
    name: str
    seed: int


@contextlib.contextmanager
def logged(run: StudyFolder, what: str) -> Iterator[None]:
    """Note in a run's log, with the command's words, when something begins and how it ends."""
    command = shlex.join(["rethink-heads", *sys.argv[1:]])

    def note(state: str) -> None:
        # Under torchrun every process runs the command; one of them notes it.
        if is_first_process():
            run.log(f"{what} {state}: {command}")

    note("begins")
    busy = other_processes.told()
    if busy is not None and is_first_process():
        say(f"the machine is busy: {busy}, so that this takes longer")
        run.log(f"the machine is busy: {busy}")
    try:
        yield
    except BaseException as error:
        stopped = interruption(error)
        of_signal = isinstance(stopped, SignalReceived)
        note(f"stopped by {stopped if of_signal else type(stopped or error).__name__}")
        raise
    busy = other_processes.told()
    note("ends" if busy is None else f"ends (meanwhile {busy})")


def train_run(path: Path, config: Config, device: str) -> Run:
    """Train into a folder, or go on where an interrupted training stopped."""
    from rethink_heads.training.train import train

    run = Run.create(path, config)
    with logged(run, "training"), work():
        train(config, run, device)
    return run


def demo_run(options: StudyOptions, path: Path | None = None, seed: int | None = None) -> Run:
    """Return the demo's run: runs/demo, trained first where there is none.

    Args:
        options: what is to be read and measured then, checked before the training.
        path: another folder.
        seed: of the training.

    Raises:
        UserError: the run there is of another seed, or the options cannot be followed.
    """
    path = path or default_runs_root() / "demo"
    # Another process may just be making it.
    if processes().broadcast(path.exists):
        run = Run.open(path)
        if seed is not None and seed != run.config.seed:
            raise UserError(
                f"{path} is a run of seed {run.config.seed}; choose another folder for"
                f" seed {seed} with --run"
            )
        if run.detector_path.is_file():
            return run
        _check_options(run.config, options)
        # Its settings, not the preset's of today: an interrupted training goes on.
        say(f"{path} is not fully trained: going on with it.")
        return train_run(path, run.config, options.device)
    config = load_preset(DEMO_PRESET, DEMO_HEAD, seed=seed)
    _check_options(config, options)
    say(
        f"No run yet: training the demo's detector first ({DEMO_PRESET}, {DEMO_HEAD}) into {path};"
        " this takes some minutes."
    )
    return train_run(path, config, options.device)


def _check_options(config: Config, options: StudyOptions) -> None:
    """Find a mistake in what is to be measured before minutes of training, not after them."""
    from rethink_heads.machine import resolve_device

    resolve_device(options.device)
    chosen = configured(config, options)
    # The training reads the run's own data itself.
    if options.data == DataOptions():
        return
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.classes import match_classes, read_class_map

    test_set = CocoDataset(*chosen.data.paths("test"))
    train_set = CocoDataset(*config.data.paths("train"))
    given = read_class_map(chosen.measuring.class_map)
    test_set.with_classes(match_classes(test_set.class_names, train_set.class_names, given).matched)


def read_data(config: StudyConfig) -> CocoDataset:
    """Read the test data of the settings and say on standard error what was left out of it."""
    from rethink_heads.data.coco import CocoDataset

    dataset = CocoDataset(*config.data.paths("test"))
    measuring = config.measuring
    chosen = dataset if measuring.images is None else dataset.subset(measuring.images)
    counts = chosen.box_counts
    of_all = f" of {len(dataset)}" if len(chosen) < len(dataset) else ""
    each = measuring.objects_per_image
    at_most = "" if each is None else f", of which at most {each} an image are measured"
    say(
        f"{dataset.where}: {len(chosen)}{of_all} images, {counts.objects} objects{at_most}"
        f" ({counts.clipped} clipped to the image); left out: {counts.crowd} crowd boxes,"
        f" {counts.degenerate} of zero size, {counts.outside} outside the image"
    )
    return dataset


def opened(
    folder: StudyFolder,
    options: StudyOptions,
    index: int = 0,
    count: int = 1,
    classes: Sequence[str] | None = None,
) -> Opened:
    """Open a detector and the data for it, with the classes that both have; its folder is there afterwards.

    Args:
        folder: the detector's.
        options: as on the command line.
        index, count: which one of how many detectors it is.
        classes: of the data, those that all of several detectors have; None for all of this one's.

    Raises:
        UserError: data and detector have no class in common, or something cannot be read.
    """
    from rethink_heads.brought import BroughtRun
    from rethink_heads.commands.classes import keep_match, narrowed, shared_classes
    from rethink_heads.machine import resolve_device

    config = configured(folder.config, options, index, count)
    dataset = read_data(config)
    with work():
        detector = folder.load(resolve_device(options.device))
        provenance = folder.provenance(detector)
    shared = shared_classes(detector, dataset, config.measuring.class_map, folder.name)
    match = shared.match
    provenance |= shared.provenance
    seed = folder.config.seed if options.seed is None else options.seed
    if classes is not None and tuple(classes) != shared.dataset.class_names:
        shared, of_all = narrowed(shared, classes)
        provenance |= of_all
    else:
        classes = None
    counts = shared.dataset.subset(config.measuring.images or len(shared.dataset)).box_counts
    if counts.other_classes:
        say(
            f"{folder.name}: {counts.objects} objects are of the {len(shared.dataset.class_names)} of"
            f" {len(dataset.class_names)} classes that are looked at"
        )
    name = measurements_name(folder.config, config, seed, classes)
    if isinstance(folder, BroughtRun):
        folder.write()
    keep_match(match, folder.measurements(name))
    return Opened(shared.detector, shared.dataset, config, provenance, name, seed)


def measured(
    folder: StudyFolder,
    options: StudyOptions,
    index: int = 0,
    count: int = 1,
    classes: Sequence[str] | None = None,
) -> tuple[Measurements, str]:
    """Measure a detector's heads, or read what was measured before; arguments as of :func:`opened`.

    Returns:
        The measurements and their name (see :mod:`rethink_heads.runs`).

    Raises:
        UserError: data and detector do not fit, or something cannot be read or written.
    """
    from rethink_heads.brought import BroughtRun
    from rethink_heads.measure.runner import measure

    found = opened(folder, options, index, count, classes)
    with logged(folder, f"measuring {found.name}"), work():
        measurements = measure(
            found.detector,
            found.dataset,
            folder.name,
            found.config.measuring,
            found.seed,
            folder.measurements(found.name),
            found.provenance,
        )
    if isinstance(folder, BroughtRun):
        kept = folder.measurements(found.name)
        say(f"kept in {kept}; its tables and figures: rethink-heads figures --run {folder.path}")
    return measurements, found.name


def chosen_heads(available: Sequence[str], heads: Sequence[str] | None, where: str) -> list[str]:
    """Check the heads asked for against those there are; none asked for means all.

    Raises:
        UserError: a head is not there; the message names those that are.
    """
    for head in heads or ():
        if head not in available:
            raise UserError(f"{where} has no head {head!r}; it has {', '.join(available)}")
    return list(dict.fromkeys(heads)) if heads else list(available)
