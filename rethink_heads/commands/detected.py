"""What ``rethink-heads evaluate`` says of final detections, on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink_heads.console import interval, print_table
from rethink_heads.study_folder import StudyFolder

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.data.coco import CocoDataset

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
ERROR_TITLES = {"d_ece": "D-ECE", "laece": "LaECE", "overconfidence": "overconfidence"}
Side = tuple[str, str]
Tables = dict[str, "pd.DataFrame"]


@dataclass(frozen=True)
class Detected:
    """A run's final detections.

    Attributes:
        run: the run; dataset: what was detected on; name: of the measurements' folder.
        sides: (detector, head) of the heads that are looked at, in the run's order.
    """

    run: StudyFolder
    dataset: CocoDataset
    name: str
    sides: list[Side]


def open_detected(found: Sequence[Detected]) -> pd.DataFrame:
    """The detections of runs on the same data."""
    import pandas as pd

    from rethink_heads.measure.detections import detections_of

    folders = [each.run.measurements(each.name) for each in found]
    frames = [detections_of(found[0].dataset, folder) for folder in folders]
    return pd.concat(frames, ignore_index=True)


def as_json_record(
    found: Sequence[Detected], tables: Tables, written: Sequence[Path]
) -> dict[str, Any]:
    """What ``--json`` prints."""
    results = []
    for each in found:
        for detector, head in each.sides:
            rows = _records(tables["ap"], detector, head)
            record: dict[str, Any] = {"detector": detector, "head": head}
            record |= {"annotations": str(each.dataset.annotations_path)}
            record |= {"images": len(each.dataset), "measurements": each.name}
            record |= {row["metric"]: row["value"] for row in rows}
            record["intervals"] = {
                row["metric"]: [row["value_low"], row["value_high"]] for row in rows
            }
            for name in ("detection_errors", "calibration", "reliability"):
                if name in tables:
                    record[name] = _records(tables[name], detector, head)
            results.append(record)
    comparisons = {
        name.removesuffix("_comparisons"): _all_records(table)
        for name, table in tables.items()
        if name.endswith("_comparisons")
    }
    shown: dict[str, Any] = {"results": results, "files": [str(path) for path in written]}
    return shown | ({"comparisons": comparisons} if comparisons else {})


def _records(table: pd.DataFrame, detector: str, head: str) -> list[dict[str, Any]]:
    rows = table[(table["detector"] == detector) & (table["head"] == head)]
    return _all_records(rows.drop(columns=["detector", "head"]))


def _all_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def print_report(found: Sequence[Detected], tables: Tables) -> None:
    """Print a table of each kind."""
    images = {side: str(len(each.dataset)) for each in found for side in each.sides}

    def show(title: str, name: str, column: str, value: str, titles: dict[str, str]) -> None:
        """A row a head, a column a quantity."""
        rows = []
        for (detector, head), count in images.items():
            cells = {row[column]: row for row in _records(tables[name], detector, head)}
            shown = [interval(cells[key], value) for key in titles]
            rows.append([detector, head, count, *shown])
        print_table(title, ["run", "head", "images", *titles.values()], rows)

    show("Average precision [95% interval]", "ap", "metric", "value", {m: m for m in METRICS})
    if "detection_errors" in tables:
        _print_errors(tables["detection_errors"], list(images))
    if "calibration" in tables:
        title = "Calibration errors of scores [95% interval]"
        show(title, "calibration", "error", "value", ERROR_TITLES)
    for name, table in tables.items():
        if name.endswith("_comparisons"):
            _print_differences(name.removesuffix("_comparisons"), table)


def _print_errors(table: pd.DataFrame, sides: Sequence[Side]) -> None:
    rows = []
    for detector, head in sides:
        for row in _records(table, detector, head):
            gain = interval(row, "delta_ap")
            rows.append([detector, head, row["error"], gain, str(row["count"])])
    title = "TIDE: gain in AP at the IoU threshold without each kind of error [95% interval]"
    print_table(title, ["run", "head", "error", "gain", "count"], rows)


def _print_differences(name: str, table: pd.DataFrame) -> None:
    column = str(table.columns[0])
    rows = [
        [
            str(row[column]),
            f"{row['a']} - {row['b']}",
            interval(row, "difference"),
            "-"
            if row["difference_low"] != row["difference_low"]
            else "yes"
            if row["excludes_zero"]
            else "no",
        ]
        for row in _all_records(table)
    ]
    titles = {
        "ap": "average precision",
        "detection_errors": "gain without an error",
        "calibration": "calibration error",
    }
    title = f"Difference in {titles[name]} on the same images [95% interval]"
    print_table(title, [column, "heads", "difference", "excludes zero"], rows)
