from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from rethink_heads.plots.layout import save_figure
from rethink_heads.plots.style import paper_style


def figure_with_a_curve() -> Figure:
    with paper_style():
        figure = Figure(figsize=(3, 2))
        ax = figure.subplots()
        ax.plot([0, 1, 2], [0, 1, 0.5])
        ax.set_xlabel("Proposal IoU")
    return figure


def test_save_writes_png_and_pdf_with_the_same_bytes_each_time(tmp_path: Path):
    first = save_figure(figure_with_a_curve(), tmp_path / "one" / "run-0.5")
    second = save_figure(figure_with_a_curve(), tmp_path / "two" / "run-0.5")
    assert [path.name for path in first] == ["run-0.5.png", "run-0.5.pdf"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    with Image.open(first[0]) as image:
        assert image.size == (900, 600)
        assert min(image.info["dpi"]) >= 200
        assert "Software" not in image.info
    pdf = first[1].read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf
    # Type 3 fonts are refused by many publishers.
    assert b"/Type3" not in pdf


def test_saving_again_leaves_the_figure_as_it_was(tmp_path: Path):
    figure = figure_with_a_curve()
    engine = figure.get_layout_engine()
    first = save_figure(figure, tmp_path / "a")
    assert figure.get_layout_engine() is engine
    second = save_figure(figure, tmp_path / "b")
    assert first[0].read_bytes() == second[0].read_bytes()
