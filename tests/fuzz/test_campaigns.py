"""No generated input makes a traceback, hangs, takes memory without need or is taken for another thing."""

from __future__ import annotations

import pytest

from tests.fuzz.harness import KINDS, failures, report


@pytest.mark.parametrize("kind", KINDS)
def test_campaign(kind: str, seeds_from: tuple[int, int | None]) -> None:
    first, count = seeds_from
    count = KINDS[kind] if count is None else count
    found = failures(kind, range(first, first + count))
    assert not found, report(kind, found, count)
