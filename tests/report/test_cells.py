"""Tables in Markdown and LaTeX say what the frame says: they are parsed back."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.report.cells import estimate, to_latex, to_markdown

UNESCAPED = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$\pm$": "±",
    "$-$": "-",
    "{[}": "[",
    "{]}": "]",
    **{f"\\{letter}": letter for letter in "{}$&%#_"},
}


def read_markdown(text: str) -> list[list[str]]:
    """Cells of a GitHub table, the line of dashes left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert all(re.fullmatch(r" -+:? ", cell) for cell in rows[1])
    return [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in rows[:1] + rows[2:]]


def read_latex(text: str) -> list[list[str]]:
    """Cells of a booktabs table."""
    body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.endswith(r" \\")]
    rows = [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines]
    pattern = re.compile("|".join(re.escape(key) for key in UNESCAPED))
    return [
        [pattern.sub(lambda found: UNESCAPED[found.group()], cell.strip()) for cell in row]
        for row in rows
    ]


READERS = [(to_markdown, read_markdown), (to_latex, read_latex)]
# Without control characters; words are set with single spaces, and en dashes become hyphens.
texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="\u2013\u2212±"),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize(("write", "read"), READERS)
@settings(deadline=None, max_examples=60)
@given(
    cells=st.lists(st.tuples(texts, texts), min_size=1, max_size=4), headers=st.tuples(texts, texts)
)
def test_any_text_comes_back(
    write: object, read: object, cells: list[tuple[str, str]], headers: tuple[str, str]
) -> None:
    assert callable(write)
    assert callable(read)
    frame = pd.DataFrame(cells, columns=["a", "b"])
    found = read(write(frame, names=dict(zip("ab", headers, strict=True))))
    assert found == [list(headers), *map(list, cells)]


@pytest.mark.parametrize(("write", "read"), READERS)
def test_estimates_come_back(write: object, read: object) -> None:
    assert callable(write)
    assert callable(read)
    frame = pd.DataFrame(
        {
            "point": ["a_b", "50% & more", "c"],
            "count": [3, 10, 200],
            "AP": [0.3125, -0.0512, np.nan],
            "AP_low": [0.29, -0.1, np.nan],
            "AP_high": [0.334, 0.02, np.nan],
            "AP_sd": [np.nan, np.nan, 0.1],
            "mean": [0.5, 0.25, 0.1],
            "mean_sd": [0.01, np.nan, 0.0],
            "of": [1.0, 2.5, np.nan],
        }
    )
    text = write(frame, digits=1, scale=100, names={"of": "M"}, formats={"of": ".2f"})
    assert read(text) == [
        ["point", "count", "AP", "mean", "M"],
        ["a_b", "3", "31.2 [29.0, 33.4]", "50.0 ± 1.0", "1.00"],
        ["50% & more", "10", "-5.1 [-10.0, 2.0]", "25.0", "2.50"],
        ["c", "200", "-", "10.0 ± 0.0", ""],
    ]


def test_an_estimate() -> None:
    nan = float("nan")
    assert estimate(0.5, 0.25, 0.75, nan, 2) == "0.50 [0.25, 0.75]"
    assert estimate(0.5, nan, 0.75, 0.1, 2) == "0.50 ± 0.10"
    assert estimate(0.5, nan, nan, nan) == "0.500"
    assert estimate(nan, 0.2, 0.3, 0.1) == "-"
    assert estimate(0.00023, 0.00011, 0.0035) == "0.00023 [0.00011, 0.00350]"
    assert (estimate(-0.00004), estimate(0.0006), estimate(1e-12)) == (
        "-0.000040",
        "0.001",
        "0.000",
    )


def test_a_float_of_latex() -> None:
    frame = pd.DataFrame({"name": ["a", "a", "b"], "value": [1, 2, -3]})
    text = to_latex(
        frame,
        caption="50% of it",
        note="A note.",
        label="tab:one",
        groups=["a", "a", "b"],
        wide=True,
    )
    assert text.startswith(r"\begin{table*}[t]")
    assert text.endswith("\\end{table*}\n")
    assert r"\caption{50\% of it A note.}" in text
    assert r"\label{tab:one}" in text
    assert r"\begin{tabular}{lr}" in text
    lines = text.splitlines()
    assert lines.index(r"\addlinespace") == lines.index(r"b & $-$3 \\") - 1
    assert lines.count(r"\addlinespace") == 1
    alone = to_latex(frame, note="A note.")
    assert alone.startswith(r"\begin{tabular}")
    assert alone.endswith("\\par\\smallskip A note.\n")


def test_notes_and_headers_of_markdown() -> None:
    text = to_markdown(pd.DataFrame({"a": ["x"], "n": [1]}), note="A\n  note.")
    assert text == "| a | n |\n| --- | ---: |\n| x | 1 |\n\nA note.\n"
