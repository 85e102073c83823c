"""Resolves a command's options into a study, once: subjects that can be compared, and what was measured of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rethink_heads.bounds import HEADS, head_name
from rethink_heads.config import MeasuringConfig
from rethink_heads.console import log
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.options import StudyOptions
from rethink_heads.run_options import open_runs, with_options
from rethink_heads.runs import Run
from rethink_heads.subject import Datasets, Key, Subject, name_some

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.measure.store import Measurements

# By entry of the provenance: how a message calls it, and the options that make it equal.
COMPARED = {
    "data": ("annotations", "--data FOLDER, or --annotations FILE and --images DIR,"),
    "images": ("number of images", "--max-images N"),
    "image files": ("content of the images", "the same images"),
    "seed": ("measuring seed", "--seed N"),
}
# Each detector has classes of its own.
NOT_COMPARED = ("class_map",)
SHOWN_OF_A_HASH = 8
HASHES = ("data", "image files")


@dataclass(frozen=True)
class Study:
    """One or more detectors, the heads of them that are looked at, and what was measured.

    Attributes:
        subjects: the detectors, in the order given.
        heads: the heads asked for; None means all.
        seed: of the bootstrap.
        measured: all their heads together; the column "detector" is the run's name. None before measuring.
    """

    subjects: list[Subject]
    heads: list[str] | None
    seed: int
    measured: Measurements | None = None

    @property
    def runs(self) -> list[Run]:
        """The detectors' folders."""
        return [subject.run for subject in self.subjects]

    @property
    def names(self) -> list[str]:
        """Each detector's name of its measurements (see :mod:`rethink_heads.runs`)."""
        return [subject.name for subject in self.subjects]

    @property
    def measurements(self) -> Measurements:
        """What was measured."""
        assert self.measured is not None
        return self.measured

    @property
    def keys(self) -> list[Key]:
        """(detector, head) of each head that is looked at, detectors in the order given."""
        return in_order(self.runs, self.measurements.keys, self.heads)

    @property
    def selected(self) -> Measurements:
        """The measurements of the heads that are looked at."""
        return self.measurements.select(heads=self.heads)

    def measure(self) -> Study:
        """Measure every detector on the classes that all have, or read what was measured before."""
        found = [subject.measure() for subject in self.subjects]
        return dataclasses.replace(self, measured=merge_measurements(self.runs, found))

    def compare(
        self, statistic: str, keys: Sequence[Key] | None = None, **options: Any
    ) -> pd.DataFrame:
        """Compare the heads, or ``keys``, by a statistic; options as of ``statistics.comparison.compare``."""
        from rethink_heads.statistics.comparison import compare

        keys = self.keys if keys is None else keys
        return self.compare_by(compare, keys, statistic, statistic=statistic, **options)

    def compare_by(
        self,
        compared: Callable[..., pd.DataFrame],
        keys: Sequence[Key],
        what: str = "",
        optional: str = "",
        **options: Any,
    ) -> pd.DataFrame:
        """Compare heads or branches, pair by pair. Raises UserError where a pair cannot be compared and must be.

        Args:
            keys: (detector, head) or (detector, branch).
            what: is compared: see ``compared_pairs``.
            optional: how messages call what some pairs may lack, which are then left out; empty: none may.
        """
        from rethink_heads.statistics.comparison import compare_pairs, compared_pairs

        pairs, skip = compared_pairs(keys, what), log if optional else None
        options |= {"seed": self.seed}
        return compare_pairs(compared, self.measurements, pairs, optional, skip, **options)


def in_order(
    runs: Sequence[Run], there: Collection[Key], heads: Sequence[str] | None = None
) -> list[Key]:
    """The heads of ``there``, detectors in the order of ``runs``; heads as asked for, else in that of HEADS."""
    return [
        (run.name, head)
        for run in runs
        for head in heads
        or sorted(run.heads, key=lambda each: HEADS.index(each) if each in HEADS else len(HEADS))
        if (run.name, head) in there
    ]


def study(options: StudyOptions, branches: bool = False) -> Study:
    """Measure detectors, or read what was measured before; of several processes only the first goes on then.
    ``branches``: whether a head may also name a branch of a double head that is no head itself.
    Raises UserError where a head or run is not there, measuring fails, or detectors are not comparable.
    """
    found = open_study(options, branches).measure()
    rank_zero_only()
    return found


def open_study(options: StudyOptions, branches: bool = False) -> Study:
    """Open the detectors asked for, and check all that can be checked before anything is measured.

    Args, raises: as of :func:`study`.
    """
    heads = asked_heads(options)
    runs = open_runs(options)
    _check_heads(runs, heads, branches)
    subjects = _as_measured_before(resolve(runs, options), options)
    if len(runs) > 1:
        check_comparable(runs, [subject.planned_provenance() for subject in subjects])
    seed = runs[0].config.seed if options.seed is None else options.seed
    return Study(on_common_classes(subjects), heads, seed)


def resolve(runs: Sequence[Run], options: StudyOptions) -> list[Subject]:
    """The subjects of a command: each detector's settings with what the options change of them.
    Raises UserError where the options contradict themselves or each other, or a value is bad.
    """
    datasets = Datasets()
    return [
        Subject(
            run,
            with_options(run.config, options, number, len(runs)),
            run.config.seed if options.seed is None else options.seed,
            options.device,
            datasets,
        )
        for number, run in enumerate(runs)
    ]


def on_common_classes(subjects: list[Subject]) -> list[Subject]:
    """Restrict subjects to the classes of the data that all of them have, so that all see the same objects.

    Nothing changes where each has the same ones anyway, and where their data differ, which is found out elsewhere.
    Raises UserError where there is none.
    """
    if len(subjects) == 1 or len({subject.data_paths for subject in subjects}) > 1:
        return subjects
    matches = [subject.match() for subject in subjects]
    names, matched = matches[0].dataset_names, [match.matched for match in matches]
    common = tuple(name for name in names if all(name in each for each in matched))
    if all(each == common for each in matched):
        return subjects
    if not common:
        raise UserError(
            "the detectors have no class of the data in common; say which classes are which with --class-map"
        )
    left_out = [name for name in names if name not in common and any(name in m for m in matched)]
    log(f"compared on the classes that all have; some lack {name_some(left_out)}")
    return [
        subject if each == common else dataclasses.replace(subject, classes=common)
        for subject, each in zip(subjects, matched, strict=True)
    ]


def _as_measured_before(subjects: list[Subject], options: StudyOptions) -> list[Subject]:
    """Take what there is of external detectors that were measured with other settings, where none are asked for.

    So ``--run runs/mine`` shows what ``--model mine=... --max-images 4`` measured; it is said, and how to measure all.
    """
    asked = dataclasses.replace(
        options,
        head=None,
        device="auto",
        detectors=dataclasses.replace(options.detectors, run=None),
    )
    if asked != StudyOptions() or not all(each.run.is_external for each in subjects):
        return subjects
    found = [_newest_measured(subject) for subject in subjects]
    taken = [each for each in found if each is not None]
    if len({(each.config.measuring, each.seed) for each in taken}) != 1 or len(taken) < len(found):
        return subjects
    for own, each in zip(subjects, taken, strict=True):
        if each is not own:
            images = each.config.measuring.images
            total = len(each.datasets[each.data_paths])
            log(
                f"{own.run.name}: what is there is shown, {each.name}: {total if images is None else images} of"
                f" {total} images; measuring.images=none measures all with the settings in {own.run.path}"
            )
    return taken


def _newest_measured(subject: Subject) -> Subject | None:
    """The subject with the settings of its newest complete measurements of its own data; itself before others."""
    from rethink_heads.measure.store_files import stored_provenance

    own = subject.run.config
    folders = [path for path in subject.run.measurements_dir.glob("*") if path.is_dir()]
    for folder in sorted(
        folders, key=lambda path: (path == subject.folder, path.stat().st_mtime), reverse=True
    ):
        said = stored_provenance(folder)
        if said is None:
            continue
        if folder == subject.folder:
            return subject
        measuring = MeasuringConfig.model_validate_json(said["measuring"])
        for images in (int(said["images"]), None):
            chosen = measuring.model_copy(update={"images": images})
            config = own.model_copy(update={"measuring": chosen})
            found = dataclasses.replace(subject, config=config, seed=int(said["seed"]))
            if found.folder == folder:
                return found
    return None


def asked_heads(options: StudyOptions) -> list[str] | None:
    """The heads asked for, each once; None asks for all.
    Raises UserError where the demo's detector, which would be trained first, has no such head.
    """
    heads = list(dict.fromkeys(head_name(head) for head in options.head or ()))
    if not options.detectors.run and not options.detectors.model:
        for head in heads:
            if head not in HEADS:
                raise UserError(f"unknown head {head!r}; the heads are {', '.join(HEADS)}")
    return heads or None


def _check_heads(runs: Sequence[Run], heads: Sequence[str] | None, branches: bool) -> None:
    """Raise UserError before anything is measured where no run has one of the heads."""
    if branches and any(run.is_external for run in runs):
        # What branches a detector that was not trained here has is known when it was measured.
        return
    there = {run.name: [*run.heads, *(run.branches if branches else ())] for run in runs}
    for head in heads or ():
        if not any(head in names for names in there.values()):
            has = "; ".join(
                f"{name} has {', '.join(dict.fromkeys(names))}" for name, names in there.items()
            )
            raise UserError(f"no head {head!r} here: {has}")


def check_comparable(
    runs: Sequence[Run], provenances: Sequence[Mapping[str, str]], drawing: bool = False
) -> None:
    """Refuse to compare measurements of different data, measuring settings or seeds.

    Objects are paired by their ids; other data or other sampled proposals would be paired silently.
    Raises UserError where two runs differ; the message says in what, and which options make them equal.

    Args:
        provenances: of each run; entries that are not given are not compared.
        drawing: whether nothing is measured here, so that the remedy is another command.
    """

    def shown(settings: Mapping[str, str], name: str) -> str:
        text = settings.get(name, "not stated")
        return f"{text[:SHOWN_OF_A_HASH]}..." if name in HASHES else text

    first, *others = [_settings(provenance) for provenance in provenances]
    for run, other in zip(runs[1:], others, strict=True):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if not names:
            continue
        found = "; ".join(
            f"{COMPARED.get(name, (name,))[0]} {shown(first, name)} and {shown(other, name)}"
            for name in names
        )
        options = " ".join(COMPARED.get(name, ("", f"{name}=VALUE"))[1] for name in names)
        remedy = f"give {options} to measure all runs alike"
        if drawing:
            remedy = (
                "measure them alike first (rethink-heads correlate"
                f" {' '.join(f'--run {each.path}' for each in runs)} {options.rstrip(',')})"
                " and give a --measurements NAME for each run"
            )
        raise UserError(
            f"{runs[0].name} and {run.name} cannot be compared object by object,"
            f" they differ in: {found}; {remedy}"
        )


def merge_measurements(
    runs: Sequence[Run], found: Sequence[Measurements], drawing: bool = False
) -> Measurements:
    """Merge the measurements of several runs after :func:`check_comparable`.

    Detectors with other classes have measured other objects: the objects that all have measured are kept.
    """
    from rethink_heads.measure.store import Measurements

    check_comparable(runs, [measurements.provenance for measurements in found], drawing)
    frames = [measurements.objects[["image_id", "object_id"]] for measurements in found]
    objects = [set(frame.itertuples(index=False, name=None)) for frame in frames]
    shared = set.intersection(*objects)
    if any(each != shared for each in objects):
        if not shared:
            raise UserError(
                "the detectors have measured no object in common: their classes differ; give --class-map"
            )
        counts = ", ".join(f"{len(o)} of {r.name}" for r, o in zip(runs, objects, strict=True))
        log(f"compared on the {len(shared)} objects that all have measured ({counts})")
        found = [measurements.restrict(shared) for measurements in found]
    return Measurements.merge(found)


def _settings(provenance: Mapping[str, str]) -> dict[str, str]:
    settings = {name: provenance[name] for name in COMPARED if name in provenance}
    if "annotations" in provenance:
        # The file, of which only some classes were measured: the objects that all have are compared.
        settings["data"] = provenance["annotations"]
    for name, value in json.loads(provenance.get("measuring", "{}")).items():
        if name not in NOT_COMPARED:
            settings[f"measuring.{name}"] = json.dumps(value)
    return settings
