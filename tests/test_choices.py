"""Measuring settings of the command line: what each flag sets, and mistakes."""

from __future__ import annotations

import pytest

from rethink_heads.commands.choices import MeasuringChoice
from rethink_heads.config import StudyConfig
from rethink_heads.errors import UserError


def test_flags_set_what_is_measured_and_how() -> None:
    choice = MeasuringChoice(proposals_per_object=488, precision="bfloat16", memory_mb=64)
    measuring = choice.config(StudyConfig()).measuring
    assert (measuring.proposals_per_object, measuring.memory_mb) == (488, 64)
    assert measuring.precision == "bfloat16"
    # What is not given stays, and the usual arithmetic is not said.
    assert MeasuringChoice().config(StudyConfig()).measuring == StudyConfig().measuring
    assert "precision" not in MeasuringChoice().config(StudyConfig()).to_yaml()


@pytest.mark.parametrize(
    "choice",
    [
        MeasuringChoice(precision="float16"),
        MeasuringChoice(memory_mb=0),
        MeasuringChoice(proposals_per_object=0),
        MeasuringChoice(grid_steps=4),
        MeasuringChoice(images=10**400),
    ],
)
def test_a_bad_value_is_told_with_its_setting(choice: MeasuringChoice) -> None:
    with pytest.raises(UserError, match=r"bad value for measuring\.(\w+) \(--[a-z-]+\)"):
        choice.config(StudyConfig())
