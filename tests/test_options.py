"""Options of the command line: groups of them in a signature, what each sets, and mistakes."""

from __future__ import annotations

import inspect

import pytest
import typer
from typer.testing import CliRunner

from rethink_heads.cli import COMMANDS, app, load_command
from rethink_heads.config import StudyConfig
from rethink_heads.options import DataOptions, JsonOption, MeasuringOptions, StudyOptions, grouped
from rethink_heads.run_options import with_options


def test_groups_are_flattened_and_filled() -> None:
    found = []

    def command(options: StudyOptions, as_json: JsonOption = False) -> None:
        found.append((options, as_json))

    alone = typer.Typer()
    alone.command()(grouped(command))
    words = ["measuring.images=3", "--head", "fc", "--split", "val", "--grid-steps", "5", "--json"]
    result = CliRunner().invoke(alone, words)
    assert result.exit_code == 0, result.output
    expected = StudyOptions(
        head=["fc"],
        data=DataOptions(split="val"),
        measuring=MeasuringOptions(overrides=["measuring.images=3"], grid_steps=5),
    )
    assert found == [(expected, True)]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_help_begins_with(name: str) -> None:
    first = inspect.cleandoc(load_command(name).help).partition("\n\n")[0]
    assert " ".join(first.split()) == COMMANDS[name]


def test_the_shell_completes_commands_and_options() -> None:
    def completed(words: str, number: int) -> str:
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(number)}
        how = {"_RETHINK_HEADS_COMPLETE": "complete_bash", **asked}
        return CliRunner().invoke(app, [], prog_name="rethink-heads", env=how).stdout

    assert completed("rethink-heads corr", 1).split() == ["correlate"]
    assert "--grid-steps" in completed("rethink-heads regress --gr", 2)


def test_flags_set_what_is_measured_and_how() -> None:
    options = MeasuringOptions(proposals_per_object=488, precision="bfloat16", memory_mb=64)
    measuring = with_options(StudyConfig(), StudyOptions(measuring=options)).measuring
    assert (measuring.proposals_per_object, measuring.memory_mb) == (488, 64)
    assert measuring.precision == "bfloat16"
    # What is not given stays.
    assert with_options(StudyConfig(), StudyOptions()) == StudyConfig()
