"""The detectors that a command looks at: runs that were trained here, and models that the user brings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.commands.alike import check_names
from rethink_heads.commands.choices import one_each, with_data
from rethink_heads.commands.sessions import demo_run
from rethink_heads.config import StudyConfig
from rethink_heads.console import say, work
from rethink_heads.errors import UserError, shorten
from rethink_heads.files import expand_home
from rethink_heads.locking import hold
from rethink_heads.options import DataOptions, StudyOptions
from rethink_heads.runs import Run, default_runs_root

if TYPE_CHECKING:
    from rethink_heads.brought import BroughtRun
    from rethink_heads.study_folder import StudyFolder

# Of a detector whose heads nobody knows beforehand; the whole grid with measuring.proposals_per_object=none.
PROPOSALS_PER_OBJECT = 1000
LONGEST_NAME = 80
MOST_NAME_BYTES = 240


def opened_folders(options: StudyOptions) -> list[StudyFolder]:
    """The detectors' folders, runs first; a model's detector is opened where it has no folder yet.

    Raises:
        UserError: one is missing, untrained or cannot be opened, or two have the same name.
    """
    asked = options.detectors
    models = asked.model or []
    if not models:
        for option, given in (("--weights", asked.weights), ("--class-names", asked.class_names)):
            if given:
                raise UserError(f"{option} belongs to --model, which is not given")
    if not asked.run and not models:
        return [demo_run(options)]
    folders: list[StudyFolder] = [_opened_run(Path(path)) for path in asked.run or ()]
    of_models = zip(
        models,
        one_each(asked.weights, len(models), "--weights", "models"),
        one_each(asked.class_names, len(models), "--class-names", "models"),
        strict=True,
    )
    # Told before anything is opened.
    one_each(asked.class_map, len(folders) + len(models), "--class-map", "detectors")
    for text, weights, names in of_models:
        folders.append(_opened_model(text, weights, names, options))
        check_names(folders)
    check_names(folders)
    return folders


def _opened_run(path: Path) -> StudyFolder:
    from rethink_heads.brought import open_folder

    folder = open_folder(path)
    if isinstance(folder, Run):
        # It may just be trained, or imported, by another command.
        with hold(folder.path, folder.detector_path.is_file):
            if not folder.detector_path.is_file():
                raise UserError(
                    f"{folder.path} is not fully trained; go on with: rethink-heads train --run {folder.path}"
                )
        folder.check_settings()
    return folder


def _opened_model(
    text: str, weights: str | None, class_names: str | None, options: StudyOptions
) -> BroughtRun:
    """A model's folder in ``runs/``; where there is none, one that is not yet written, with this data as its own."""
    from rethink_heads.brought import BroughtConfig, BroughtDetectorConfig, BroughtRun, found_at
    from rethink_heads.detectors.classes import read_class_names
    from rethink_heads.detectors.external import model_name, open_model
    from rethink_heads.machine import resolve_device

    name, model = _named(text)
    path = default_runs_root() / (name or model_name(model))
    weights = _absolute(weights)
    names = None if class_names is None else list(read_class_names(class_names))
    there = found_at(path, model)
    if there is not None:
        if there.is_of(model, weights, names):
            return there
        raise UserError(
            f"{path} belongs to {there.config.detector.model} with"
            f" {there.config.detector.weights or 'no'} weights, or to other class names; name this detector otherwise:"
            f" --model NAME={model}"
        )
    if options.data == DataOptions():
        raise UserError(
            f"there is no data for {model}: give --annotations FILE and --images DIR, or --data FOLDER"
        )
    where = resolve_device(options.device)
    # Found before the detector, which may take long to open.
    own = with_data(StudyConfig(), options.data)
    own.data.paths("test")
    own = own.with_overrides([f"measuring.proposals_per_object={PROPOSALS_PER_OBJECT}"])
    say(f"opening {model}")
    with work():
        detector = open_model(model, weights, names, where)
    said = BroughtDetectorConfig(
        model=model,
        weights=weights,
        class_names=list(detector.class_names),
        heads=list(detector.heads),
        imported_from=str(Path.cwd()) if model.startswith("python:") else None,
    )
    folder = BroughtRun(path, BroughtConfig(detector=said, data=own.data, measuring=own.measuring))
    folder.keep(detector, where)
    return folder


def _named(text: str) -> tuple[str | None, str]:
    """The name before ``=`` and the model; names of models have no ``=``, file names may."""
    name, sign, model = text.partition("=")
    if sign and ":" not in name:
        unusable = not name or "/" in name or name.startswith(".") or not name.isprintable()
        if unusable or len(name) > LONGEST_NAME or len(name.encode()) > MOST_NAME_BYTES:
            raise UserError(
                f"--model {shorten(text)}: {shorten(name)!r} cannot be the name of a folder; give a printable name of"
                f" at most {LONGEST_NAME} letters without slashes that begins with no dot"
            )
        return name, _with_absolute_path(model)
    return None, _with_absolute_path(text)


def _with_absolute_path(model: str) -> str:
    """A folder is opened again later, perhaps from elsewhere: so a configuration's path is kept absolute."""
    kind, sign, name = model.partition(":")
    return f"{kind}:{_absolute(name)}" if sign and kind == "detectron2" else model


def _absolute(text: str | None) -> str | None:
    """The absolute path where the text names a file, else the text."""
    if text is not None and expand_home(text).is_file():
        return str(expand_home(text).absolute())
    return text
