"""Options of the fuzz campaigns (see :mod:`tests.fuzz.harness`)."""

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
