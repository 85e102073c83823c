"""Opens the runs that options name: trained here, external, or the demo's, which is trained first if need be.

And what the options change of a run's settings: the data, and how it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from rethink_heads.config import LITE0, Config, DataConfig, StudyConfig, load_preset
from rethink_heads.console import log, redirect_stdout
from rethink_heads.data.sources import split_paths
from rethink_heads.distributed import processes
from rethink_heads.errors import UserError, shorten
from rethink_heads.files import expand_home
from rethink_heads.locking import hold
from rethink_heads.options import DataOptions, StudyOptions, flag_of
from rethink_heads.runs import ExternalConfig, ExternalDetector, Run, default_runs_root, external_at

Settings = TypeVar("Settings", bound=StudyConfig)

NOTHING = "none"
DEMO_PRESET, DEMO_HEAD = "shapes-tiny", "double-ext"
# Of a detector whose heads nobody knows beforehand; the whole grid with measuring.proposals_per_object=none.
PROPOSALS_PER_OBJECT = 1000
LONGEST_NAME = 80
MOST_NAME_BYTES = 240


def one_each(given: Sequence[str] | None, count: int, option: str, of: str) -> list[str | None]:
    """One of ``given`` for each of ``count``, the same for all where there is one; ``none`` as None.
    Raises UserError where there are neither as many nor one.
    """
    given = given or [NOTHING]
    if len(given) not in (1, count):
        raise UserError(
            f"{len(given)} times {option} for {count} {of}; give it once for all, or once for each in their order"
            f" ({NOTHING} for none)"
        )
    each = list(given) if len(given) == count else list(given) * count
    return [None if text == NOTHING else text for text in each]


def with_data(config: Settings, options: DataOptions) -> Settings:
    """Return a detector's settings with the data asked for as their test data.
    Raises UserError where the options contradict each other.
    """
    if isinstance(config, ExternalConfig) and (options.annotations or options.data):
        # Nothing of the data that its folder was made with belongs to other data, such as the split.
        config = config.model_copy(update={"data": DataConfig()})
    if (options.annotations is None) != (options.images is None):
        raise UserError("--annotations and --images go together: give both or neither")
    changes: dict[str, Any] = {}
    if options.annotations is not None:
        if options.data is not None:
            raise UserError("give either --data or --annotations and --images, not both")
        changes = {"test_annotations": options.annotations, "test_images": options.images}
    elif options.data is not None or options.split is not None:
        changes = {"test_annotations": None, "test_images": None}
        if options.data is not None:
            changes["source"] = options.data
    if options.split is not None:
        changes["test_split"] = options.split
    return config.with_data(**changes)


def with_options(config: Settings, options: StudyOptions, number: int = 0, of: int = 1) -> Settings:
    """Return the settings of detector ``number`` of so many with the data, measuring settings and class map asked for.
    Raises UserError where the options contradict themselves or each other, for a bad value, or an override of what the
    detector was trained with.
    """
    config, overrides = with_data(config, options.data), options.measuring.overrides or []
    for override in overrides:
        if "=" in override and not override.startswith("measuring."):
            raise UserError(
                f"cannot change {shorten(override.partition('=')[0])!r} of a trained detector;"
                " only settings that begin with measuring. can be given here"
            )
    config = config.with_overrides(overrides)
    for name, value in vars(options.measuring).items():
        if name != "overrides" and value is not None:
            setting = "images" if name == "max_images" else name
            config = config.with_overrides([f"measuring.{setting}={value}"], flag_of(name))
    class_map = one_each(options.detectors.class_map, of, "--class-map", "detectors")[number]
    if class_map is None:
        return config
    measuring = config.measuring.model_copy(update={"class_map": Path(class_map).absolute()})
    return config.model_copy(update={"measuring": measuring})


def open_runs(options: StudyOptions) -> list[Run]:
    """The detectors' folders, runs first; a model's detector is opened where it has no folder yet.
    Raises UserError where one is missing, untrained or cannot be opened, or two have the same name.
    """
    asked = options.detectors
    models = asked.model or []
    if not models:
        for option, given in (("--weights", asked.weights), ("--class-names", asked.class_names)):
            if given:
                raise UserError(f"{option} belongs to --model, which is not given")
    if not asked.run and not models:
        return [demo_run(options)]
    runs = [_open_run(Path(path)) for path in asked.run or ()]
    each = zip(
        models,
        one_each(asked.weights, len(models), "--weights", "models"),
        one_each(asked.class_names, len(models), "--class-names", "models"),
        strict=True,
    )
    # Told before anything is opened.
    one_each(asked.class_map, len(runs) + len(models), "--class-map", "detectors")
    for text, weights, names in each:
        runs.append(_open_model(text, weights, names, options))
        check_names(runs)
    check_names(runs)
    return runs


def check_names(runs: Sequence[Run]) -> None:
    """Measurements call a detector by its run's name, so no two may be equal.
    Raises UserError where two runs have the same name.
    """
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two of the detectors are called {name!r}; rename one of the folders, or name a model:"
                " --model NAME=MODEL"
            )


def _open_run(path: Path) -> Run:
    run = Run.open(path)
    if not run.is_external:
        # It may just be trained, or imported, by another command.
        with hold(run.path, run.detector_path.is_file):
            if not run.detector_path.is_file():
                raise UserError(
                    f"{run.path} is not fully trained; go on with: rethink-heads train --run {run.path}"
                )
        run.check_settings()
    return run


def _open_model(
    text: str, weights: str | None, class_names: str | None, options: StudyOptions
) -> Run:
    """A model's folder in ``runs/``; where there is none, one that is not yet written, with this data as its own."""
    from rethink_heads.detectors.classes import read_class_names
    from rethink_heads.detectors.external import model_name, open_model
    from rethink_heads.machine import resolve_device

    name, model = _named(text)
    path = default_runs_root() / (name or model_name(model))
    weights = _absolute(weights)
    names = None if class_names is None else list(read_class_names(class_names))
    there = external_at(path, model)
    if there is not None:
        same = (there.model, there.weights) == (model, weights)
        if same and names in (None, there.class_names):
            return Run.open(path)
        raise UserError(
            f"{path} belongs to {there.model} with {there.weights or 'no'} weights, or to other class names; name"
            f" this detector otherwise: --model NAME={model}"
        )
    if options.data == DataOptions():
        raise UserError(
            f"there is no data for {model}: give --annotations FILE and --images DIR, or --data FOLDER"
        )
    where = resolve_device(options.device)
    # Found before the detector, which may take long to open.
    own = with_data(StudyConfig(), options.data)
    split_paths(own.data, "test")
    own = own.with_overrides([f"measuring.proposals_per_object={PROPOSALS_PER_OBJECT}"])
    log(f"opening {model}")
    with redirect_stdout():
        detector = open_model(model, weights, names, where)
    said = ExternalDetector(
        model=model,
        weights=weights,
        class_names=list(detector.class_names),
        heads=list(detector.heads),
        imported_from=str(Path.cwd()) if model.startswith("python:") else None,
    )
    run = Run(path, ExternalConfig(detector=said, data=own.data, measuring=own.measuring))
    run.keep(detector, where)
    return run


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


def train_run(path: Path, config: Config, device: str) -> Run:
    """Train into a folder, or go on where an interrupted training stopped."""
    from rethink_heads.detectors.rcnn.backbone import build_backbone
    from rethink_heads.training.train import train

    weights = config.model.backbone_weights
    # Before there is a folder, whose settings would then be fixed.
    if not path.exists():
        if weights not in (None, LITE0) and not Path(weights).is_file():
            raise UserError(f"no such file of model.backbone_weights: {weights}")
        with redirect_stdout():
            build_backbone(config.model)
    run = Run.create(path, config)
    with run.logged("training"), redirect_stdout():
        train(config, run, device)
    return run


def demo_run(options: StudyOptions, path: Path | None = None, seed: int | None = None) -> Run:
    """Return the demo's run: runs/demo, trained first where there is none. ``options`` is what is to be read and
    measured then, checked before the training.
    Raises UserError where the run there is of another seed, or the options cannot be followed.
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
        # Its settings, not the preset's of today: an interrupted training goes on.
        config = run.trained_config
        said = f"{path} is not fully trained: going on with it."
    else:
        config = load_preset(DEMO_PRESET, DEMO_HEAD, seed=seed)
        said = (
            f"No run yet: training the demo's detector first ({DEMO_PRESET}, {DEMO_HEAD}) into {path};"
            " this takes some minutes."
        )
    _check_options(config, options)
    log(said)
    return train_run(path, config, options.device)


def _check_options(config: Config, options: StudyOptions) -> None:
    """Find a mistake in what is to be measured before minutes of training, not after them."""
    from rethink_heads.machine import resolve_device

    resolve_device(options.device)
    chosen = with_options(config, options)
    # The training reads the run's own data itself.
    if options.data == DataOptions():
        return
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.classes import match_classes, read_class_map

    test_set = CocoDataset(*split_paths(chosen.data, "test"))
    train_set = CocoDataset(*split_paths(config.data, "train"))
    given = read_class_map(chosen.measuring.class_map)
    test_set.with_classes(match_classes(test_set.class_names, train_set.class_names, given).matched)
