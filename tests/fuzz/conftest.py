"""Options of the fuzz campaigns, and the fixture that runs one (see :mod:`tests.fuzz.harness`)."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz campaigns")
    group.addoption(
        "--fuzz-cases",
        type=int,
        help="Cases of each kind. Without it: a few, in about half a minute.",
    )
    group.addoption(
        "--fuzz-first", type=int, default=0, help="Seed of the first case of each kind."
    )


@pytest.fixture
def seeds_from(request: pytest.FixtureRequest) -> tuple[int, int | None]:
    """The first seed and the number of cases asked for."""
    # Defaults: where this folder is not named on the command line, pytest reads this file after the options.
    first = request.config.getoption("--fuzz-first", 0)
    return first, request.config.getoption("--fuzz-cases", None)
