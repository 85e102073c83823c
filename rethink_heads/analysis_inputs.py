"""Reads what runs and sweeps hold for the paper's analyses; nothing is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.comparable import check_names, merge_measurements
from rethink_heads.console import log
from rethink_heads.data.sources import split_paths
from rethink_heads.errors import UserError
from rethink_heads.runs import DEFAULT_MEASUREMENTS, Run

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.measure.store import Measurements
    from rethink_heads.paper import AnalysisInputs

SWEEP_RECORD, SWEEP_TABLE, SWEEP_ORDERING = "sweep.yaml", "table.csv", "ordering.csv"


def measured_names(run: Run) -> list[str]:
    """Return the names of a run's complete measurements, the default ones first.

    Raises:
        UserError: nothing was measured.
    """
    names = sorted(path.parent.name for path in run.measurements_dir.glob("*/meta.json"))
    if not names:
        raise UserError(
            f"nothing was measured in {run.path};"
            f" measure first: rethink-heads correlate --run {run.path}"
        )
    return sorted(names, key=lambda name: name != DEFAULT_MEASUREMENTS)


def load(run: Run, name: str) -> Measurements:
    """Load a run's measurements.

    Raises:
        UserError: there are none of that name; the message names those there are.
    """
    from rethink_heads.measure.store import Measurements

    names = measured_names(run)
    if name not in names:
        raise UserError(f"{run.path} has no measurements {name!r}; it has {', '.join(names)}")
    return Measurements.load(run.measurements(name))


def read_inputs(
    runs: Sequence[Run], names: Sequence[str], sweeps: Sequence[Path], seed: int
) -> AnalysisInputs:
    """Read what the analyses need.

    Args:
        runs: trained runs; all were measured.
        names: of their measurements, one each.
        sweeps: folders of ``rethink-heads sweep``.
        seed: of the bootstrap.

    Raises:
        UserError: something is not there, or runs were not measured alike.
    """
    from rethink_heads.measure.by_image import rename_detector
    from rethink_heads.paper import AnalysisInputs

    check_names(runs)
    for run, name in zip(runs, names, strict=True):
        rename_detector(run.measurements(name), run.name)
    found = [load(run, name) for run, name in zip(runs, names, strict=True)]
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
    import pandas as pd

    from rethink_heads.measure.provenance import file_provenance
    from rethink_heads.measure.stage_boxes import STAGES_NAME, load_stages

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
    return pd.concat(frames, ignore_index=True) if frames else None


def read_detections(
    runs: Sequence[Run], names: Sequence[str]
) -> tuple[pd.DataFrame, CocoDataset] | None:
    """Final detections with the images that all of them are of, if every run has them of its own data."""
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.measure.detections import DETECTIONS_NAME, detections_of
    from rethink_heads.measure.provenance import file_provenance

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
    from rethink_heads.files import read_csv
    from rethink_heads.settings import read_mapping

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
