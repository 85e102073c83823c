"""What runs leave in their folders: read for the paper's analyses, and written where several detectors are compared."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.config import CONFIG_NAME
from rethink_heads.console import log, redirect_stdout
from rethink_heads.data.sources import split_paths
from rethink_heads.errors import UserError
from rethink_heads.files import read_csv, write_text
from rethink_heads.locking import hold
from rethink_heads.run_options import check_names
from rethink_heads.runs import DEFAULT_MEASUREMENTS, Run
from rethink_heads.settings import read_mapping
from rethink_heads.study import Study, merge_measurements

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.paper import AnalysisInputs

SWEEP_RECORD, SWEEP_TABLE, SWEEP_ORDERING = "sweep.yaml", "table.csv", "ordering.csv"
NOTE_NAME = "comparison.json"
"""Beside the tables of a comparison of detectors: what was compared. Figures drawn from them name the detectors."""
LONGEST_NAME = 100
HASH_DIGITS = 8


def is_of_detectors(runs: Sequence[Run]) -> bool:
    """Whether detectors are compared of which some were not trained here.

    Detectors trained here are compared for their heads, whose names say enough.
    """
    return len(runs) > 1 and any(run.is_external for run in runs)


def shared_folder(runs: Sequence[Run]) -> Path:
    """The folder that results of one detector, or of several, are written into.

    That of several is beside the first and named after all.
    """
    if len(runs) == 1:
        return runs[0].path
    name = "-".join(folder.name for folder in runs)
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - HASH_DIGITS - 1]}-{_digits(name)}"
    path = runs[0].path.parent / name
    # Where a detector has that name of its own.
    return path.with_name(f"{name}-compared") if (path / CONFIG_NAME).exists() else path


def result_folders(runs: Sequence[Run], names: Sequence[str]) -> tuple[Path, Path]:
    """Where tables and figures of measurements go, given each detector's name of them.

    Into the detector's folder, or the shared one; results of other measurements than the detectors' own in a folder
    that is named after these.
    """
    if len(runs) == 1:
        return runs[0].tables(names[0]), runs[0].figures(names[0])
    shared, different = shared_folder(runs), {*names}
    inner = names[0] if len(different) == 1 else _digits(" ".join(names))
    if different == {DEFAULT_MEASUREMENTS}:
        inner = ""
    return shared / "tables" / inner, shared / "figures" / inner


@contextlib.contextmanager
def writing(
    folder: Path, runs: Sequence[Run], names: Sequence[str], tables: Path, files: int = 0
) -> Iterator[None]:
    """Be the one that writes results of detectors into a folder; libraries' words go to standard error.

    Where detectors are what is compared, or ``files`` of detections, figures name them; where detectors alone, a note
    beside the tables says which measurements.
    """
    from rethink_heads.plots.style import naming_detectors

    compares = len(runs) + files > 1 if files else is_of_detectors(runs)
    with hold(folder), redirect_stdout():
        with naming_detectors() if compares else contextlib.nullcontext():
            yield
        if compares and not files:
            compared = {run.name: name for run, name in zip(runs, names, strict=True)}
            write_text(tables / NOTE_NAME, json.dumps(compared, indent=2) + "\n")


def write_comparison(
    found: Study,
    analysis: str,
    differences: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    inner: str = "",
) -> list[Path]:
    """Write the paired table and the figures of an analysis of several detectors; nothing for one.
    Raises UserError where a file cannot be written.

    Args:
        analysis: what the table of differences is called after.
        differences: of the pairs of heads on the same objects.
        tables: of all the heads, by the names under which ``rethink-heads figures`` draws them.
        inner: folder within those of tables and figures.

    Returns:
        The paths written.
    """
    if len(found.runs) == 1:
        return []
    named = {**tables, f"{analysis}_comparisons": differences}
    return write_run_results(found.runs, found.names, named, inner)


def write_run_results(
    runs: Sequence[Run],
    names: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    inner: str = "",
    output: Path | None = None,
    files: int = 0,
) -> list[Path]:
    """Write tables, and the figures of them, into the detectors' folders or ``output``; return the paths.
    Raises UserError where a file cannot be written.

    Args:
        inner: folder within those of tables and figures.
        output: another folder, which gets tables/ and figures/.
        files: how many files of detections are among the results; without ``output`` nothing is written then, since
            files have no folder of their own.
    """
    from rethink_heads.report.results import write_results

    if files and output is None:
        return []
    folders = (
        result_folders(runs, names) if output is None else (output / "tables", output / "figures")
    )
    tables_folder, figures_folder = (each / inner for each in folders)
    with writing(output or shared_folder(runs), runs, names, tables_folder, files):
        written = write_results(tables, tables_folder, figures_folder)
    if files:
        log(f"written: {len(written)} files in {output}")
    return written


def whereabouts(runs: Sequence[Run], written: Sequence[Path]) -> str:
    """Say where the tables and figures of results are."""
    if written:
        return f"tables and figures are in {' and '.join(dict.fromkeys(str(p.parent) for p in written))}"
    return f"rethink-heads figures --run {runs[0].path} draws all figures"


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def measured_names(run: Run) -> list[str]:
    """Return the names of a run's complete measurements, the default ones first.
    Raises UserError where nothing was measured.
    """
    names = sorted(path.parent.name for path in run.measurements_dir.glob("*/meta.json"))
    if not names:
        raise UserError(
            f"nothing was measured in {run.path};"
            f" measure first: rethink-heads correlate --run {run.path}"
        )
    return sorted(names, key=lambda name: name != DEFAULT_MEASUREMENTS)


def read_inputs(
    runs: Sequence[Run], names: Sequence[str], sweeps: Sequence[Path], seed: int
) -> AnalysisInputs:
    """Read what the analyses need. Raises UserError where something is not there, or runs were not measured alike."""
    from rethink_heads.measure.by_image import rename_detector
    from rethink_heads.measure.store import Measurements
    from rethink_heads.paper import AnalysisInputs

    check_names(runs)
    found = []
    for run, name in zip(runs, names, strict=True):
        if name not in (there := measured_names(run)):
            raise UserError(f"{run.path} has no measurements {name!r}; it has {', '.join(there)}")
        rename_detector(run.measurements(name), run.name)
        found.append(Measurements.load(run.measurements(name)))
    return AnalysisInputs(
        merge_measurements(runs, found, drawing=True) if found else None,
        _stages(runs, names),
        read_detections(runs, names),
        _sweep_tables(sweeps),
        {"seed": seed},
        "; ".join(dict.fromkeys(map(_data_name, runs, names))),
    )


def _data_name(run: Run, name: str) -> str:
    """What the images of a run's measurements are called."""
    data = run.config.data
    if name != DEFAULT_MEASUREMENTS:
        return f"measurements {name}"
    if data.test_annotations is not None or data.source is None:
        return Path(data.test_annotations or "").name
    return f"{Path(data.source).name} {data.test_split}"


def _stages(runs: Sequence[Run], names: Sequence[str]) -> pd.DataFrame | None:
    """Boxes of the later stages, if every run has them."""
    from rethink_heads.measure.by_image import file_provenance
    from rethink_heads.measure.stage_boxes import STAGES_NAME, join_stages, load_stages

    folders = [run.measurements(name) for run, name in zip(runs, names, strict=True)]
    without = [folder for folder in folders if not (folder / STAGES_NAME).is_file()]
    if without:
        if len(without) < len(folders):
            log(f"only predefined proposals: {without[0]} has no {STAGES_NAME}")
        return None
    found = [file_provenance(folder / STAGES_NAME) or {} for folder in folders]
    if len({provenance.get("classes") for provenance in found}) > 1:
        log("only predefined proposals: the detectors' later stages were measured on other classes")
        return None
    frames = [load_stages(folder)[0] for folder in folders]
    return join_stages(frames) if frames else None


def read_detections(
    runs: Sequence[Run], names: Sequence[str]
) -> tuple[pd.DataFrame, CocoDataset] | None:
    """Final detections with the images that all of them are of, if every run has them of its own data."""
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.measure.by_image import file_provenance
    from rethink_heads.measure.detections import DETECTIONS_NAME, detections_of

    paths = [run.measurements() / DETECTIONS_NAME for run in runs]
    if not runs or {*names} != {DEFAULT_MEASUREMENTS} or not all(path.is_file() for path in paths):
        return None
    try:
        dataset = CocoDataset(*split_paths(runs[0].config.data, "test"))
    except UserError:
        # The data may be elsewhere by now; it is needed by few analyses.
        return None
    provenances = [file_provenance(path) or {} for path in paths]
    recorded = {provenance.get("classes", "") for provenance in provenances}
    if len(recorded) > 1:
        # Detectors with other classes have no AP in common.
        return None
    if recorded != {""}:
        dataset = dataset.with_classes(json.loads(recorded.pop()))
    if any(provenance.get("data") != dataset.fingerprint for provenance in provenances):
        return None
    # Those that were made for the later stages are of the measured images alone.
    dataset = dataset.subset(min(int(provenance["images"]) for provenance in provenances))
    frames = [detections_of(dataset, path.parent) for path in paths]
    return pd.concat(frames, ignore_index=True), dataset


def _sweep_tables(folders: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Each sweep's table by its name, and its ordering, if it has one, by ``NAME_ordering``."""

    tables = {}
    for folder in map(Path, folders):
        if not (folder / SWEEP_RECORD).is_file():
            raise UserError(
                f"{folder} is not a finished sweep: it has no {SWEEP_RECORD};"
                " make one with: rethink-heads sweep NAME --output FOLDER"
            )
        name = str(read_mapping(folder / SWEEP_RECORD).get("name"))
        if name in tables:
            raise UserError(f"two of the sweeps are called {name!r}; give one of them")
        tables[name] = read_csv(folder / SWEEP_TABLE)
        if (folder / SWEEP_ORDERING).is_file():
            tables[f"{name}_ordering"] = read_csv(folder / SWEEP_ORDERING)
    return tables
