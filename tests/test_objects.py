"""``rethink-heads objects``: the ranking, and the boxes that are drawn."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from rethink_heads.commands.objects import rank
from rethink_heads.errors import UserError


def correlations(*pccs: tuple[int, str, float]) -> pd.DataFrame:
    """A frame of ``object_correlations``: object, head and its own PCC."""
    frame = pd.DataFrame(pccs, columns=["object_id", "head", "pcc"])
    return frame.assign(image_id=1, class_name="red", size="small")


def test_the_lowest_mean_over_the_heads_comes_first() -> None:
    objects = correlations(
        (1, "fc", 0.9),
        (1, "conv", -0.9),
        (2, "fc", 0.2),
        (2, "conv", 0.1),
        (3, "fc", 0.5),
        (3, "conv", 0.5),
    )
    found = rank(objects, 2)
    assert found["object_id"].tolist() == [1, 2]
    assert found["pcc"].tolist() == pytest.approx([0.0, 0.15])
    assert found["rank"].tolist() == [1, 2]


def test_an_object_without_a_pcc_by_every_head_is_left_out() -> None:
    objects = correlations((1, "fc", math.nan), (1, "conv", -0.9), (2, "fc", 0.2), (2, "conv", 0.1))
    assert rank(objects, 5)["object_id"].tolist() == [2]


@pytest.mark.parametrize("objects", [pd.DataFrame(), correlations((1, "fc", math.nan))])
def test_nothing_to_rank_is_a_sentence(objects: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="no object has a PCC"):
        rank(objects, 5)
