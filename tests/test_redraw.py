"""Figures from tables alone: the committed figures are what their tables give, to the byte."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rethink_heads.commands.figures import redraw_folders
from rethink_heads.errors import UserError
from rethink_heads.plots.layout import VERSIONS_NAME, drawing_versions
from rethink_heads.report.results import compute_tables, write_figures, write_tables
from tests.synthetic_measurements import synthetic_measurements

FIGURES = Path(__file__).resolve().parents[1] / "figures"
FOLDERS = sorted(path.parent.name for path in FIGURES.glob("*/tables"))
# Mean difference of grey of pictures reduced to cells of this many pixels: letters that another
# FreeType sets a pixel apart stay below it, a curve that is elsewhere does not.
CELL, TOLERANCE = 15, 6.0


def same_versions() -> bool:
    recorded = json.loads((FIGURES / VERSIONS_NAME).read_text())
    return recorded == drawing_versions()


@pytest.mark.parametrize("name", FOLDERS)
def test_committed_figures_are_drawn_from_committed_tables(name: str, tmp_path: Path) -> None:
    drawn = {path.name: path for path in redraw_folders(FIGURES / name, tmp_path)}
    del drawn[VERSIONS_NAME]
    committed = {
        path.name: path
        for path in (FIGURES / name / "figures").iterdir()
        if path.suffix in (".png", ".pdf")
    }
    assert set(drawn) == set(committed)
    if same_versions():
        different = [n for n in drawn if drawn[n].read_bytes() != committed[n].read_bytes()]
        assert different == []
        return
    warnings.warn(
        f"figures/{VERSIONS_NAME} names other versions than are installed here: pixels are"
        " compared, not bytes",
        stacklevel=1,
    )
    for picture in (n for n in drawn if n.endswith(".png")):
        assert difference(drawn[picture], committed[picture]) < TOLERANCE, picture


def difference(one: Path, other: Path) -> float:
    """Mean absolute difference of two pictures, 0 to 255, after reduction to cells."""
    with Image.open(one) as a, Image.open(other) as b:
        size = (a.width // CELL, a.height // CELL)
        assert abs(a.width - b.width) <= CELL
        assert abs(a.height - b.height) <= CELL
        cells = [
            np.asarray(p.convert("L").resize(size, Image.Resampling.BOX), float) for p in (a, b)
        ]
    return float(np.abs(cells[0] - cells[1]).mean())


def test_the_pixel_comparison_tells_figures_apart() -> None:
    folders = ("bccd", "shapes-apart-0")
    first, second = (FIGURES / name / "figures" / "figure2.png" for name in folders)
    assert difference(first, first) == 0
    assert difference(first, second) > 0
    other = FIGURES / "bccd" / "figures" / "correlations.png"
    assert difference(first, other) > TOLERANCE


def test_redrawing_gives_what_the_measurements_gave(tmp_path: Path) -> None:
    measurements = synthetic_measurements(images=3, objects_per_size=1)
    tables = compute_tables(measurements, replicates=20)
    some = {name: tables[name] for name in ("stages", "score_by_iou", "regressed_iou", "pcc")}
    write_tables(some, tmp_path / "study" / "tables")
    first = write_figures(some, tmp_path / "study" / "figures")
    assert {path.stem for path in first} == {"figure2", "figure3", "correlations", "gain"}
    before = {path: path.read_bytes() for path in first}
    # In place, and elsewhere.
    assert redraw_folders(tmp_path / "study") == [*first, tmp_path / "study" / VERSIONS_NAME]
    assert {path: path.read_bytes() for path in first} == before
    again = redraw_folders(tmp_path, tmp_path / "elsewhere")
    assert again[0] == tmp_path / "elsewhere" / "study" / "figures" / first[0].name
    assert [path.read_bytes() for path in again[:-1]] == list(before.values())
    assert json.loads(again[-1].read_text()) == drawing_versions()


def test_a_folder_without_tables(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tables under"):
        redraw_folders(tmp_path)
