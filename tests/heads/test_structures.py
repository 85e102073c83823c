from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink_heads.bounds import HEAD_ALIASES, HEADS
from rethink_heads.heads import BRANCHES, READINGS, STRUCTURES, kind_of

FRACTIONS = st.floats(0, 1)
WEIGHTS = st.floats(0, 10)


def test_settings_know_the_structures() -> None:
    assert set(HEADS) == set(STRUCTURES)
    assert set(HEAD_ALIASES.values()) <= set(STRUCTURES)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_trains_what_it_is_read_from(name: str) -> None:
    structure = STRUCTURES[name]
    weights = structure.weights()
    for reading in (READINGS[r] for r in structure.readings):
        assert all(weights.of(branch)[0] > 0 for branch in reading.classifiers)
        assert weights.of(reading.regressor)[1] > 0
    used = {
        b for r in structure.readings for b in (*READINGS[r].classifiers, READINGS[r].regressor)
    }
    assert used == set(structure.branches) <= set(BRANCHES)


def test_which_kind_of_head_does_which_task() -> None:
    """The paper's comparison: (classifies, regresses)."""
    kinds = {
        name: tuple(
            "+".join(kind_of(b) for b in branches)
            for branches in (READINGS[name].classifiers, (READINGS[name].regressor,))
        )
        for name in STRUCTURES
    }
    assert kinds == {
        "fc": ("fc", "fc"),
        "conv": ("conv", "conv"),
        "double-fc": ("fc", "fc"),
        "double-conv": ("conv", "conv"),
        "double": ("fc", "conv"),
        "double-reverse": ("conv", "fc"),
        "double-ext": ("fc+conv", "conv"),
    }


@pytest.mark.parametrize("name", ["double-fc", "double-conv", "double", "double-reverse"])
def test_pairs_weigh_the_tasks_alike(name: str) -> None:
    """So that they differ only in which branch does which."""
    weights = STRUCTURES[name].weights()
    of_branches = [weights.of(branch) for branch in STRUCTURES[name].branches]
    assert sorted(of_branches) == [(0.0, 2.5), (2.0, 0.0)]


@given(l_fc=FRACTIONS, l_conv=FRACTIONS, w_fc=WEIGHTS, w_conv=WEIGHTS)
def test_weights_follow_the_papers_formula(
    l_fc: float, l_conv: float, w_fc: float, w_conv: float
) -> None:
    weights = STRUCTURES["double-ext"].weights(l_fc, l_conv, w_fc, w_conv)
    assert weights.of("fc") == (w_fc * l_fc, w_fc * (1 - l_fc))
    assert weights.of("conv") == (w_conv * (1 - l_conv), w_conv * l_conv)
    assert sum(weights.of("fc")) == pytest.approx(w_fc)
    assert sum(weights.of("conv")) == pytest.approx(w_conv)
    assert weights.of("fc2") == (0, 0)
