"""What all tests of evaluation share."""

from __future__ import annotations

import pytest

from rethink_heads.statistics import bootstrap


@pytest.fixture(autouse=True)
def few_images_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of fewer images than the package gives any of: these data are small."""
    monkeypatch.setattr(bootstrap, "FEWEST_IMAGES", 2)
