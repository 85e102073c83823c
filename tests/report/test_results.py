from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest

from rethink_heads.errors import UserError
from rethink_heads.measure.store import Measurements
from rethink_heads.report.results import (
    compute_tables,
    write_figures,
    write_tables,
)
from rethink_heads.statistics.by_iou import pearson
from rethink_heads.statistics.comparison import (
    STATISTICS,
    compare,
    compare_responses,
)
from tests.synthetic_measurements import synthetic_measurements

REPLICATES = 50
Tables = dict[str, pd.DataFrame]
TABLES = {
    "pcc",
    "spearman",
    "score_by_iou",
    "regressed_iou",
    "stages",
    "error_components",
    "error_components_by_iou",
    "spatial_correlation",
    "correlation_maps",
    "decay",
    "displacement",
    "cells",
    "response_summary",
    "comparisons",
    "comparisons_by_iou",
    "comparisons_sensitivity",
}


@pytest.fixture(scope="module")
def measurements() -> Measurements:
    return synthetic_measurements(images=4, objects_per_size=1)


@pytest.fixture(scope="module")
def tables(measurements: Measurements) -> Tables:
    return compute_tables(measurements, replicates=REPLICATES)


def names(paths: list[Path]) -> set[str]:
    return {path.stem for path in paths}


def test_every_table_is_written_as_it_was_computed(
    measurements: Measurements, tables: Tables, tmp_path: Path
):
    assert set(tables) == TABLES
    paths = write_tables(tables, tmp_path / "tables")
    assert paths == {name: tmp_path / "tables" / f"{name}.csv" for name in TABLES}
    for name, path in paths.items():
        found = pd.read_csv(path)
        pd.testing.assert_frame_equal(found, tables[name], check_dtype=False)


def test_pcc_holds_both_ranges_of_iou(measurements: Measurements, tables: Tables):
    table = tables["pcc"]
    assert list(table.columns[:6]) == ["detector", "head", "size", "iou_low", "iou_high", "pcc"]
    upper = table[table["iou_low"] == 0.5].drop(columns=["iou_low", "iou_high"])
    expected = pearson(measurements, (0.5, 1.0), replicates=REPLICATES)
    pd.testing.assert_frame_equal(upper.reset_index(drop=True), expected)


def test_comparisons_hold_every_statistic(measurements: Measurements, tables: Tables):
    table = tables["comparisons"]
    assert set(table["statistic"]) == set(STATISTICS)
    assert set(table["a"]) == {"demo/fc"}
    assert set(table["b"]) == {"demo/conv"}
    upper = table[(table["statistic"] == "gain") & (table["iou_low"] == 0.5)]
    sides = (("demo", "fc"), ("demo", "conv"))
    expected = compare(measurements, "gain", *sides, iou_range=(0.5, 1.0), replicates=REPLICATES)
    columns = list(expected.columns)
    pd.testing.assert_frame_equal(upper[columns].reset_index(drop=True), expected)
    assert (table["statistic"] == "spatial_correlation").sum() == 4
    assert len(tables["comparisons_by_iou"]) == 3 * 4 * 20


def test_comparisons_of_sensitivity_hold_decay_and_responses(
    measurements: Measurements, tables: Tables
):
    table = tables["comparisons_sensitivity"]
    assert table.groupby(["kind", "quantity"]).size().to_dict() == {
        ("spatial_correlation", "decay"): 4 * 8,
        ("displacement_score", "drop_dx"): 4,
        ("displacement_score", "drop_dy"): 4,
        ("displacement_score", "half_width_dx"): 4,
        ("displacement_score", "half_width_dy"): 4,
        ("cell_score", "mean_absolute_change"): 4,
        ("cell_iou", "mean_absolute_change"): 4,
    }
    sides = (("demo", "fc"), ("demo", "conv"))
    expected = compare_responses(measurements, "cell_iou", *sides, replicates=REPLICATES)
    found = table.loc[table["kind"] == "cell_iou", list(expected.columns)]
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected)


def test_other_heads_come_in_a_figure_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    measurements = synthetic_measurements(
        {"demo": ("fc", "conv", "double")}, images=2, objects_per_size=1, maps=False, rows=False
    )
    with caplog.at_level(logging.INFO):
        tables = compute_tables(measurements, replicates=REPLICATES)
        del tables["pcc"], tables["error_components"]
        paths = write_figures(tables, tmp_path)
    assert names(paths) == {"figure2", "figure2_all_heads", "figure3", "gain"}
    assert "spearman" not in write_tables(tables, tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    for name in ("correlations", "figure4", "displacement", "cells", "depth"):
        assert any(f"no figure {name}" in message for message in messages)
    assert any("no comparison of spearman" in message for message in messages)
    assert not any(record.name.startswith("fontTools") for record in caplog.records)


def test_one_head_of_one_image_and_size_is_written_without_intervals(tmp_path: Path):
    measurements = synthetic_measurements(
        {"run": ("conv",)}, images=1, sides=(140.0,), objects_per_size=2
    )
    tables = compute_tables(measurements, replicates=REPLICATES)
    assert tables["pcc"]["pcc_low"].isna().all()
    assert set(write_tables(tables, tmp_path)) == {
        name for name in TABLES if not name.startswith("comparisons")
    }
    some = {name: tables[name] for name in ("pcc", "spearman", "cells")}
    assert names(write_figures(some, tmp_path)) == {"correlations", "cells"}


def test_no_measurements_give_no_files(tmp_path: Path):
    assert write_tables(Measurements.empty(), tmp_path) == {}
    assert write_figures(Measurements.empty(), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be_is_a_user_error(tables: Tables, tmp_path: Path):
    (tmp_path / "tables").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_tables(tables, tmp_path / "tables")
    with pytest.raises(UserError, match="cannot write"):
        write_figures({"pcc": tables["pcc"]}, tmp_path / "tables")
