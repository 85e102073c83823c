"""Heads side by side: the same numbers once, the leader in a sentence, the differences that matter."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rethink_heads.report.heads import MOST_DIFFERENCES, Heads, interval

FC, CONV, DOUBLE = (("demo", head) for head in ("fc", "conv", "double"))
VALUES = {FC: (0.7, 0.65, 0.75), CONV: (0.6, 0.55, 0.65), DOUBLE: (0.7, 0.65, 0.75)}


def estimates(values: dict[tuple[str, str], tuple[float, float, float]]) -> pd.DataFrame:
    columns = ["detector", "head", "pcc", "pcc_low", "pcc_high"]
    frame = pd.DataFrame([(*key, *value) for key, value in values.items()], columns=columns)
    return frame.assign(size="all")


def compared(*rows: tuple[str, str, float, float, float], **more: object) -> pd.DataFrame:
    columns = ["a", "b", "difference", "difference_low", "difference_high"]
    frame = pd.DataFrame(
        [(f"demo/{a}", f"demo/{b}", *ends) for a, b, *ends in rows], columns=columns
    )
    undecided = frame["difference_low"].le(0) & frame["difference_high"].ge(0)
    decided = ~undecided & frame["difference_low"].notna()
    return frame.assign(statistic="pcc", size="all", excludes_zero=decided, objects=9, **more)


def test_heads_with_the_same_numbers_are_named_together() -> None:
    frame = estimates(VALUES)
    heads = Heads(list(VALUES), frame)
    cells = heads.rows(frame, ["pcc"])
    assert cells.to_numpy().tolist() == [
        ["fc, double", "0.700 [0.650, 0.750]"],
        ["conv", "0.600 [0.550, 0.650]"],
    ]
    assert heads.share("classifier")[0].startswith("Heads named together have the same classifier")
    all_pairs = compared(
        ("fc", "conv", 0.1, 0.05, 0.15), ("fc", "double", 0.0, 0.0, 0.0),
        ("conv", "double", -0.1, -0.15, -0.05),
    )  # fmt: skip
    shown, said = heads.differences(all_pairs)
    assert shown.to_numpy().tolist() == [
        ["PCC", "fc, double - conv", "0.100 [0.050, 0.150]", "yes", "9"]
    ]
    assert said == []


def test_no_heads_have_no_rows() -> None:
    assert Heads([]).rows(estimates({}), ["pcc"]).empty
    assert Heads([]).leader(estimates({}), pd.DataFrame(), "pcc") == "PCC: undefined."


def test_heads_of_detectors_trained_apart_are_told_apart() -> None:
    """Equal numbers of two detectors are no shared head."""
    frame = estimates({("a", "fc"): VALUES[FC], ("b", "fc"): VALUES[FC]})
    heads = Heads([("a", "fc"), ("b", "fc")], frame)
    assert list(heads.names.values()) == ["a/fc", "b/fc"]
    assert heads.share("classifier") == []


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.05, 0.15, "PCC: fc 0.700 [0.650, 0.750] is ahead of conv 0.600 [0.550, 0.650];"
                     " fc - conv 0.100 [0.050, 0.150]."),
        (-0.05, 0.25, "PCC: no clear leader, fc 0.700 [0.650, 0.750], conv 0.600 [0.550, 0.650];"
                      " fc - conv 0.100 [-0.050, 0.250]."),
        (np.nan, np.nan, "PCC: no clear leader, fc 0.700 [0.650, 0.750], conv 0.600 [0.550, 0.650];"
                         " fc - conv 0.100 [-]."),
    ],
)  # fmt: skip
def test_the_leader(low: float, high: float, said: str) -> None:
    frame = estimates({key: VALUES[key] for key in (CONV, FC)})
    heads = Heads([CONV, FC], frame)
    assert heads.leader(frame, compared(("fc", "conv", 0.1, low, high)), "pcc") == said


def test_a_file_is_called_by_its_name_alone() -> None:
    assert Heads([("old", "detections")]).names == {("old", "detections"): "old"}
    beside = Heads([("old", "detections"), FC])
    assert list(beside.names.values()) == ["old", "demo/fc"]


def test_the_leader_without_a_comparison() -> None:
    frame = estimates({FC: VALUES[FC], CONV: (np.nan, np.nan, np.nan)})
    heads = Heads([FC, CONV], frame)
    assert heads.leader(frame, pd.DataFrame(), "pcc") == "PCC: fc 0.700 [0.650, 0.750]."
    both = estimates({FC: VALUES[FC], CONV: VALUES[CONV]})
    lowest = Heads([FC, CONV], both).leader(both, pd.DataFrame(), "pcc", "error", lowest=True)
    assert lowest.startswith("error: conv 0.600 [0.550, 0.650], then fc")
    assert lowest.endswith("not compared.")


def test_the_leader_is_compared_with_the_best_that_it_has_a_difference_from() -> None:
    frame = estimates({FC: VALUES[FC], CONV: VALUES[CONV], DOUBLE: (0.65, 0.6, 0.7)})
    heads = Heads([FC, CONV, DOUBLE], frame)
    pairs = compared(("conv", "fc", -0.1, -0.15, -0.05), ("conv", "double", -0.05, -0.1, 0.0))
    assert heads.leader(frame, pairs, "pcc") == (
        "PCC: fc 0.700 [0.650, 0.750] is ahead of conv 0.600 [0.550, 0.650]; fc - conv 0.100"
        " [0.050, 0.150]; not compared with it: double 0.650 [0.600, 0.700]."
    )


def test_of_many_differences_those_that_exclude_zero() -> None:
    heads = Heads([FC, CONV])
    many = pd.concat(
        [
            compared(("fc", "conv", 0.1, low, 0.2), stage=str(low))
            for low in np.linspace(-1, 0.1, 20)
        ]
    )
    shown, said = heads.differences(many)
    assert set(shown["excludes_zero"]) == {"yes"}
    assert said == [f"Of 20 differences {len(shown)} exclude zero; --full prints all."]
    assert len(heads.differences(many, full=True)[0]) == 20
    one_size = many.assign(size="small")
    assert heads.differences(one_size)[0].empty
    assert len(shown) < MOST_DIFFERENCES


def test_curves_have_a_column_a_head_and_a_column_a_pair() -> None:
    curve = pd.concat([estimates(VALUES).assign(bin=i) for i in (0, 1)])
    heads = Heads(list(VALUES), curve)
    by_bin = compared(("fc", "conv", 0.1, 0.05, 0.15), bin=1)
    table = heads.columns(curve, ["bin"], lambda row: interval(row, "pcc"), by_bin)
    assert list(table) == ["bin", "fc, double", "conv", "fc, double - conv"]
    assert table["fc, double - conv"].tolist() == ["-", "0.100 [0.050, 0.150]"]
