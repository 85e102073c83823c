"""Every measure of final detections: intervals hold the values, and heads differ by what their tables say."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import rethink_heads as rh
from rethink_heads.data.coco import CocoDataset
from rethink_heads.errors import UserError
from tests.made_detections import make_dataset, make_detections

FC, CONV = ("run", "fc"), ("run", "conv")
Table = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, CocoDataset]:
    """Detections of a head whose boxes are badly shaken, and of one whose are not."""
    dataset = make_dataset(tmp_path_factory.mktemp("data"), images=20)
    heads = [
        make_detections(dataset, head=head, shake=shake)
        for head, shake in (("fc", 0.25), ("conv", 0.05))
    ]
    return pd.concat(heads, ignore_index=True), dataset


@pytest.mark.parametrize(
    ("table", "compare", "keys", "value"),
    [
        (rh.precision_table, rh.compare_precision, ["metric"], "value"),
        (rh.class_table, rh.compare_classes, ["label", "class_name", "size"], "ap"),
        (rh.detection_errors, rh.compare_errors, ["error"], "delta_ap"),
        (rh.calibration_errors, rh.compare_calibration, ["error"], "value"),
        (rh.localization_recall_precision, rh.compare_lrp, ["part"], "value"),
        (rh.lost_precision, rh.compare_lost_precision, ["cause"], "share"),
        (rh.lost_by_threshold, rh.compare_lost_by_threshold, ["iou", "cause"], "share"),
        (rh.lost_precision, rh.compare_oracles, ["cause"], "oracle"),
        (rh.exchange_rate, rh.compare_exchange_rate, ["step"], "ap"),
    ],
)
def test_heads_differ_by_what_their_tables_say(
    both: tuple[pd.DataFrame, CocoDataset],
    table: Table,
    compare: Table,
    keys: list[str],
    value: str,
) -> None:
    options = {"replicates": 100, "seed": 3}
    rows = table(*both, **options).set_index(["head", *keys])
    # What few images bear on has no interval.
    ends = rows.dropna(subset=[f"{value}_low"])
    assert len(ends) > len(rows) / 2
    assert ((ends[f"{value}_low"] <= ends[value]) & (ends[value] <= ends[f"{value}_high"])).all()
    found = compare(*both, FC, CONV, **options)
    assert {*found["a"], *found["b"]} == {"run/fc", "run/conv"}
    expected = rows.loc["fc"][value] - rows.loc["conv"][value]
    differences = found.set_index(keys)["difference"]
    np.testing.assert_allclose(differences, expected.loc[differences.index], atol=1e-12)
    assert found["excludes_zero"].any()
    turned = compare(*both, CONV, FC, **options)
    for end, other in (("difference", "difference"), ("difference_low", "difference_high")):
        np.testing.assert_allclose(turned[end], -found[other], atol=1e-9)
    same = compare(*both, FC, FC, **options)
    assert (same["difference"].dropna() == 0).all()
    assert not same["excludes_zero"].any()
    with pytest.raises(UserError, match=r"no detections of run/zork; there are those of run/"):
        compare(*both, ("run", "zork"), CONV)


@pytest.mark.parametrize(
    ("compare", "key", "worse"),
    [
        (rh.compare_errors, "error", "loc"),
        (rh.compare_lrp, "part", "localization"),
        (rh.compare_lost_precision, "cause", "localization"),
    ],
)
def test_shaken_boxes_are_ill_localised(
    both: tuple[pd.DataFrame, CocoDataset], compare: Table, key: str, worse: str
) -> None:
    found = compare(*both, FC, CONV, replicates=100).set_index(key)
    assert found.loc[worse, "difference_low"] > 0


@pytest.mark.parametrize(
    "function",
    [
        *(rh.lost_precision, rh.lost_by_threshold, rh.lost_by_class, rh.reliability),
        *(rh.compare_lost_precision, rh.compare_lost_by_threshold, rh.compare_calibration),
        rh.compare_classes,
    ],
    ids=lambda function: function.__name__,
)
def test_help_has_the_columns_that_are_returned(
    both: tuple[pd.DataFrame, CocoDataset], function: Table
) -> None:
    is_comparison = function.__name__.startswith("compare")
    returned = function(*both, *((FC, CONV) if is_comparison else ()), replicates=2)
    _, _, told = (inspect.getdoc(function) or "").partition("Returns:")
    named = {*re.findall(r'"(\w+)"', told)}
    assert {name for name in returned if not name.endswith(("_low", "_high"))} <= named
    foreign = {"oracle", "count", "label", "detections", "bin", "ap50"} - {*returned}
    assert not named & foreign


def test_what_is_made_of_a_measure_has_its_own_name_signature_and_help() -> None:
    for function, own in (
        (rh.calibration_errors, ["replicates", "seed", "iou_threshold", "bins"]),
        (rh.compare_calibration, ["a", "b", "replicates", "seed", "iou_threshold", "bins"]),
    ):
        assert list(inspect.signature(function).parameters) == ["detections", "dataset", *own]
        assert getattr(rh, function.__name__) is function
        assert function.__module__ == "rethink_heads.evaluation.calibration"
        help_of = inspect.getdoc(function) or ""
        headings = ("Args:", "Returns:", "Raises:")
        assert [help_of.count(f"\n\n{each}\n    ") for each in headings] == [1, 1, 1]
        assert "\n    bins: number of equal bins" in help_of
