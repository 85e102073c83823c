"""No generated input makes a traceback, hangs, takes memory without need or is taken for another thing."""

from __future__ import annotations

import pytest

from tests.fuzz.harness import KINDS, failures


@pytest.mark.parametrize("kind", KINDS)
def test_campaign(kind: str, pytestconfig: pytest.Config) -> None:
    # Defaults: where this folder is not named on the command line, pytest reads its options too late.
    first = pytestconfig.getoption("--fuzz-first", 0)
    count = pytestconfig.getoption("--fuzz-cases", None) or KINDS[kind]
    found = failures(kind, range(first, first + count))
    assert not found, "\n".join([f"{len(found)} of {count} cases of {kind} fail:", *found[:20]])
