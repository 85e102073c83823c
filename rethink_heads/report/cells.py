"""Cells of result tables, the same on the terminal, in Markdown and in LaTeX.

A column ``AP`` with columns ``AP_low`` and ``AP_high`` beside it is one column of cells, ``31.2 [29.0, 33.4]``; with
``AP_sd`` it is ``31.2 ± 0.4``. Every other column stands for itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

LOW, HIGH, SPREAD = "_low", "_high", "_sd"
UNDEFINED, NO_INTERVAL = "-", "[-]"

# Headers of columns, and names of the statistics that stand in a column.
LABELS = {
    "detector": "run",
    "measured": "proposals",
    "n": "boxes",
    "groups": "averaged",
    "excludes_zero": "excludes zero",
    "distance": "distance in RoI positions",
    "pcc": "PCC",
    "object_pcc": "mean PCC of objects",
    "spearman": "Spearman",
    "gain": "gain over the proposal",
    "regressed_iou": "IoU of the regressed box",
    "spatial_correlation": "correlation of RoI positions",
    "drop_dx": "drop along x",
    "drop_dy": "drop along y",
    "half_width_dx": "half-width along x",
    "half_width_dy": "half-width along y",
    "delta_ap": "gain in AP",
    "d_ece": "D-ECE",
    "laece": "LaECE",
    "mean_absolute_change": "mean absolute change",
    "displacement_score": "displaced box, score",
    "cell_score": "zeroed position, score",
    "cell_iou": "zeroed position, regressed IoU",
}

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&])")
_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "\u2013": "--",
    "±": r"$\pm$",
    "\u2212": "$-$",
}


def estimate(
    value: float,
    low: float = math.nan,
    high: float = math.nan,
    spread: float = math.nan,
    digits: int = 3,
    without: str = "",
) -> str:
    """Format an estimate: ``31.2 [29.0, 33.4]``, ``31.2 ± 0.4`` or ``31.2``; a dash where it is undefined.

    Args:
        value, low, high, spread: NaN where there is none.
        digits: decimals; more where a value that is not 0 would be shown as 0, so that two are significant.
        without: put in the interval's place where there is none.
    """
    if not math.isfinite(value):
        return UNDEFINED
    # Below a millionth it is rounding.
    if 1e-6 <= abs(value) < 0.5 * 10**-digits:
        digits = 1 - math.floor(math.log10(abs(value)))
    text = f"{value:z.{digits}f}"
    if math.isfinite(low) and math.isfinite(high):
        text += f" [{low:z.{digits}f}, {high:z.{digits}f}]"
    elif without:
        text += f" {without}"
    return text + (f" ± {spread:z.{digits}f}" if math.isfinite(spread) else "")


def estimate_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of a frame that have an interval or a spread beside them."""
    columns = set(frame.columns)
    return [
        name
        for name in frame.columns
        if {f"{name}{LOW}", f"{name}{HIGH}"} <= columns or f"{name}{SPREAD}" in columns
    ]


def text_cells(
    frame: pd.DataFrame,
    *,
    digits: int = 3,
    scale: float = 1.0,
    formats: Mapping[str, str] | None = None,
    without: str = "",
) -> pd.DataFrame:
    """The cells of a frame as text: its columns, but that an estimate has taken in its interval and spread.

    Args:
        digits: decimals of estimates.
        scale: estimates are multiplied by it, 100 for percent.
        formats: how numbers of other columns are written, by column, such as ``.2f``.
        without: put in an interval's place where there is none; not where an estimate is of no objects, as one of
            the weights.
    """
    estimates = estimate_columns(frame)
    parts = {f"{name}{end}" for name in estimates for end in (LOW, HIGH, SPREAD)}
    cells: dict[Any, list[str]] = {}
    for name in frame.columns:
        if name in estimates:
            ends = [f"{name}{end}" for end in ("", LOW, HIGH, SPREAD)]
            cells[name] = []
            for row in frame.to_dict("records"):
                absent = without if row.get("objects", 1) else ""
                value, low, high, spread = (_scaled(row.get(end), scale) for end in ends)
                cells[name].append(estimate(value, low, high, spread, digits, absent))
        elif name not in parts:
            form = (formats or {}).get(name, ".6g")
            cells[name] = [_plain(value, form) for value in frame[name].tolist()]
    return pd.DataFrame(cells, index=frame.index, dtype=object)


def to_markdown(
    frame: pd.DataFrame,
    *,
    names: Mapping[str, str] | None = None,
    note: str | None = None,
    **settings: Any,
) -> str:
    """Return a frame as a Markdown table (GitHub's), a line a row.

    Args:
        frame, settings: as of :func:`text_cells`.
        names: headers, by column; a column is its own header by default.
        note: a paragraph under the table.
    """
    # The brackets of an interval are no link.
    headers, rows, numeric = _table(frame, names, settings, _markdown, estimates=str)
    dashes = ["---:" if right else "---" for right in numeric]
    lines = [f"| {' | '.join(row)} |" for row in (headers, dashes, *rows)]
    if note:
        lines += ["", " ".join(note.split())]
    return "\n".join(lines) + "\n"


def to_latex(
    frame: pd.DataFrame,
    *,
    names: Mapping[str, str] | None = None,
    note: str | None = None,
    caption: str | None = None,
    label: str | None = None,
    groups: Sequence[object] | None = None,
    wide: bool = False,
    **settings: Any,
) -> str:
    """Return a frame as a LaTeX table with booktabs' rules, which needs ``\\usepackage{booktabs}``.

    Args:
        frame, names, settings: as of :func:`to_markdown`.
        note: added to the caption, or a line under the table where there is none.
        caption, label: of the float; the table stands alone, without one, where both are None.
        groups: of each row; a little space is left between rows of different groups.
        wide: over both columns of the page.
    """

    def with_brackets(text: str) -> str:
        """Those of an interval come after a number, so that no command takes them for its option."""
        return _latex(text).replace("{[}", "[").replace("{]}", "]")

    headers, rows, numeric = _table(frame, names, settings, _latex, with_brackets)
    alignment = "".join("r" if right else "l" for right in numeric)
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", _latex_row(headers), r"\midrule"]
    for index, row in enumerate(rows):
        if groups is not None and index and groups[index] != groups[index - 1]:
            lines.append(r"\addlinespace")
        lines.append(_latex_row(row))
    lines += [r"\bottomrule", r"\end{tabular}"]
    words = [_latex(" ".join(text.split())) for text in (caption, note) if text]
    if caption is None and label is None:
        return "\n".join([*lines, *(rf"\par\smallskip {text}" for text in words)]) + "\n"
    float_name = "table*" if wide else "table"
    above = [rf"\begin{{{float_name}}}[t]", r"\centering"]
    # Six estimates with their intervals just fit a page.
    above += [r"\scriptsize", r"\setlength{\tabcolsep}{3pt}"] if wide else [r"\footnotesize"]
    above += [rf"\caption{{{' '.join(words)}}}"] if words else []
    above += [rf"\label{{{label}}}"] if label else []
    return "\n".join([*above, *lines, rf"\end{{{float_name}}}"]) + "\n"


def _table(
    frame: pd.DataFrame,
    names: Mapping[str, str] | None,
    settings: Mapping[str, Any],
    escape: Callable[[str], str],
    estimates: Callable[[str], str],
) -> tuple[list[str], list[list[str]], list[bool]]:
    """Headers, rows of cells, those of estimates escaped in their own way, and which columns are of numbers."""
    cells = text_cells(frame, **settings)
    headers = [escape((names or {}).get(str(name), str(name))) for name in cells]
    are_estimates = [name in estimate_columns(frame) for name in cells]
    escapes = [estimates if each else escape for each in are_estimates]
    rows = [
        [each(cell) for each, cell in zip(escapes, row, strict=True)]
        for row in cells.itertuples(index=False, name=None)
    ]
    numeric = [
        each or bool(pd.api.types.is_numeric_dtype(frame[name]))
        for name, each in zip(cells, are_estimates, strict=True)
    ]
    return headers, rows, numeric


def _scaled(value: Any, scale: float) -> float:
    return math.nan if value is None or value is pd.NA else scale * float(value)


def _plain(value: Any, form: str) -> str:
    if isinstance(value, float):
        return f"{value:{form}}" if math.isfinite(value) else ""
    return "" if value is None or value is pd.NA else str(value)


def _markdown(text: str) -> str:
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _latex(text: str) -> str:
    escaped = "".join(_LATEX_SPECIAL.get(letter, letter) for letter in text)
    # A hyphen before a digit is a minus, unless it joins words or numbers.
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"
