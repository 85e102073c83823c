"""What all tests of evaluation share."""

from __future__ import annotations

import pytest

from rethink_heads.data.coco import CocoDataset
from rethink_heads.measure.candidates import Candidates
from rethink_heads.statistics import bootstrap
from tests.made_candidates import crowded_dataset, make_candidates


@pytest.fixture(autouse=True)
def few_images_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of fewer images than the package gives any of: these data are small."""
    monkeypatch.setattr(bootstrap, "FEWEST_IMAGES", 2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    return crowded_dataset(tmp_path_factory.mktemp("crowded"))


@pytest.fixture(scope="module")
def candidates(dataset: CocoDataset) -> Candidates:
    return make_candidates(dataset)
