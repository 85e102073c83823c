"""What the analyses share: measure the runs asked for, and say which heads are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rethink_heads.bounds import HEADS, head_name
from rethink_heads.commands.alike import check_alike, merged
from rethink_heads.commands.choices import configured, with_measuring
from rethink_heads.commands.classes import common_classes
from rethink_heads.commands.detectors import opened_folders
from rethink_heads.commands.sessions import measured
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.files import sha256
from rethink_heads.options import StudyOptions
from rethink_heads.runs import NOT_MEASURED, Run
from rethink_heads.study_folder import StudyFolder

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.measure.store import Measurements

Side = tuple[str, str]


@dataclass(frozen=True)
class Study:
    """Measurements of one or more runs and the heads of them that are looked at.

    Attributes:
        runs: the runs, in the order given.
        measurements: all their heads together; the column "detector" is the run's name.
        names: each run's name of its measurements (see :mod:`rethink_heads.runs`).
        heads: the heads asked for; None means all.
        seed: of the bootstrap.
    """

    runs: list[StudyFolder]
    measurements: Measurements
    names: list[str]
    heads: list[str] | None
    seed: int

    @property
    def sides(self) -> list[Side]:
        """(detector, head) of each head that is looked at, runs in the order given."""
        pairs = self.measurements.keys
        return [
            (run.name, head)
            for run in self.runs
            for head in self.heads or in_order(run.heads)
            if (run.name, head) in pairs
        ]

    @property
    def selected(self) -> Measurements:
        """The measurements of the heads that are looked at."""
        return self.measurements.select(heads=self.heads)


def in_order(heads: Sequence[str]) -> list[str]:
    """Heads in the order of HEADS, then those of other names as they come."""
    return sorted(heads, key=lambda head: HEADS.index(head) if head in HEADS else len(HEADS))


def chosen_runs(
    options: StudyOptions, branches: bool = False
) -> tuple[list[StudyFolder], list[str] | None]:
    """The runs and heads asked for, checked before anything is measured; arguments as of `study`."""
    heads = asked_heads(options.head)
    if not options.detectors.run and not options.detectors.model:
        # Before the demo is trained.
        check_known(heads)
    runs = opened_folders(options)
    _check_heads(runs, heads, branches)
    if len(runs) > 1:
        # Before the measuring, which takes long.
        check_alike(runs, [_planned(run, options, i, len(runs)) for i, run in enumerate(runs)])
    return runs, heads


def study(options: StudyOptions, branches: bool = False) -> Study:
    """Measure runs, or read what was measured before; of several processes only the first goes on then.

    Args:
        options: as on the command line.
        branches: whether a head may also name a branch of a double head that is no head itself.

    Raises:
        UserError: a head or run is not there, measuring fails, or runs are not measured alike.
    """
    runs, heads = chosen_runs(options, branches)
    found = study_of(runs, heads, options, common_classes(runs, options))
    rank_zero_only()
    return found


def check_precision(runs: Sequence[StudyFolder], options: StudyOptions) -> None:
    """Raise UserError where boxes of a detector's own stages are asked for in another arithmetic than theirs."""
    for run in runs:
        precision = with_measuring(run.config, options.measuring).measuring.precision
        if precision != "float32":
            raise UserError(
                f"{run.name}: the later stages are read in float32 only; give --precision float32, or leave out --stage"
                f" to have the predefined proposals in {precision}"
            )


def study_of(
    runs: list[StudyFolder],
    heads: list[str] | None,
    options: StudyOptions,
    classes: Sequence[str] | None,
) -> Study:
    """Measure what :func:`chosen_runs` gave on the classes that all have, or read what was measured before."""
    found = [measured(run, options, index, len(runs), classes) for index, run in enumerate(runs)]
    return Study(
        runs=runs,
        measurements=merged(runs, [measurements for measurements, _ in found]),
        names=[name for _, name in found],
        heads=heads,
        seed=runs[0].config.seed if options.seed is None else options.seed,
    )


def comparisons(study: Study, statistic: str, **options: Any) -> pd.DataFrame:
    """Compare the heads of a study; options as of ``rethink_heads.statistics.comparison``."""
    import pandas as pd

    from rethink_heads.statistics.comparison import compare, compared_pairs

    frames = [
        compare(study.measurements, statistic, a, b, seed=study.seed, **options)
        for a, b in compared_pairs(study.sides, statistic)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def records(frame: pd.DataFrame, **equal: Any) -> list[dict[str, Any]]:
    """Rows of a frame whose columns equal the values given, without those columns."""
    for column, value in equal.items():
        frame = frame[frame[column] == value].drop(columns=column)
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def verdict(row: dict[str, Any]) -> str:
    """Whether a comparison's interval excludes zero, in a word; a dash where there is none."""
    if row["difference_low"] != row["difference_low"]:
        return "-"
    return "yes" if row["excludes_zero"] else "no"


def one_or_several(heads: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
    """A single head's result is the result; several are listed, with what compares them."""
    if len(heads) == 1:
        shared = {name: value for name, value in rest.items() if name != "comparisons"}
        return heads[0] | shared
    return {"heads": heads, **rest}


def asked_heads(heads: Sequence[str] | None) -> list[str] | None:
    """The heads asked for, each once; None asks for all."""
    return list(dict.fromkeys(head_name(head) for head in heads or ())) or None


def check_known(heads: Sequence[str] | None) -> None:
    """Raise UserError for a head that no detector trained here has."""
    for head in heads or ():
        if head not in HEADS:
            raise UserError(f"unknown head {head!r}; the heads are {', '.join(HEADS)}")


def _planned(run: StudyFolder, options: StudyOptions, index: int, count: int) -> dict[str, str]:
    """What the provenance of a run's measurements will say, as far as runs must have it equal.

    The number of images is left out: it also depends on how many the data has.
    """
    config = configured(run.config, options, index, count)
    return {
        "data": sha256(config.data.paths("test")[0]),
        "measuring": config.measuring.model_dump_json(exclude={*NOT_MEASURED, "images"}),
        "seed": str(run.config.seed if options.seed is None else options.seed),
    }


def _check_heads(runs: Sequence[StudyFolder], heads: Sequence[str] | None, branches: bool) -> None:
    """Raise UserError before anything is measured where no run has one of the heads."""
    if branches and any(not isinstance(run, Run) for run in runs):
        # What branches a detector that was not trained here has is known when it was measured.
        return
    there = {}
    for run in runs:
        names = [*run.heads, *(run.branches if branches and isinstance(run, Run) else ())]
        there[run.name] = list(dict.fromkeys(names))
    for head in heads or ():
        if not any(head in names for names in there.values()):
            has = "; ".join(f"{name} has {', '.join(names)}" for name, names in there.items())
            raise UserError(f"no head {head!r} here: {has}")
