"""Average precision with weights against a loop over copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.evaluation import average_precision as module
from rethink_heads.evaluation.average_precision import (
    RECALLS,
    Ranking,
    by_class,
    in_draws,
    precision_at_recalls,
    weighted_precision,
)
from rethink_heads.statistics.bootstrap import ImageBootstrap

IMAGES, SETTINGS = 6, 3


def synthetic_ranking(count: int, seed: int) -> Ranking:
    """Ranked detections of one class; half of the settings may count the same detections."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, IMAGES, count)
    counted = generator.random((SETTINGS, count)) < 0.8
    counted[1] = counted[0]
    true = counted & (generator.random((SETTINGS, count)) < 0.4)
    object_images = np.concatenate([images, generator.integers(0, IMAGES, 5)])
    to_find = np.hstack([true, generator.random((SETTINGS, 5)) < 0.5])
    return Ranking(images, true, counted, object_images, to_find)


def by_hand(weights: np.ndarray, ranking: Ranking, setting: int) -> float:
    """101-point average precision of whole weights, one copy after another."""
    objects = weights[ranking.object_images[ranking.to_find[setting]]].sum()
    if not objects:
        return float("nan")
    true = seen = 0
    points = []
    flags = zip(
        ranking.images.tolist(),
        ranking.true[setting].tolist(),
        ranking.counted[setting].tolist(),
        strict=True,
    )
    for image, hit, counts in flags:
        if not counts:
            continue
        # The image's copies come together: precision is read after the last of them.
        seen += weights[image]
        true += weights[image] * hit
        points.append((true / objects, true / seen if seen else 0.0))
    return float(np.mean([max((p for r, p in points if r >= at), default=0.0) for at in RECALLS]))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 2**16))
def test_equal_to_copies_one_by_one(count: int, seed: int) -> None:
    ranking = synthetic_ranking(count, seed)
    bootstrap = ImageBootstrap(range(IMAGES), 4, seed)
    weights = np.vstack([np.ones(IMAGES), bootstrap.weights])
    found = weighted_precision(ranking, weights.T.astype(np.float32))
    expected = [[by_hand(drawn, ranking, s) for s in range(SETTINGS)] for drawn in weights]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    once = precision_at_recalls(ranking)
    there = ranking.to_find.any(axis=1)
    assert (once[~there] == -1).all()
    np.testing.assert_allclose(once[there].mean(axis=1), found[0, there], rtol=0, atol=1e-12)


def test_how_many_draws_are_counted_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranking, bootstrap = synthetic_ranking(50, 3), ImageBootstrap(range(IMAGES), 30, 1)
    values = []
    for fewest in (1, 7, 128):
        monkeypatch.setattr(module, "_WEIGHTS_AT_ONCE", 1)
        monkeypatch.setattr(module, "_FEWEST_DRAWS", fewest)
        values.append(in_draws(bootstrap, lambda weights: weighted_precision(ranking, weights)))
        assert values[-1].shape == (30, SETTINGS)
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])


def test_classes_are_ranked_apart_and_ties_stay_in_the_order_of_images() -> None:
    labels, images = np.array([1, 0, 1, 1]), np.array([2, 0, 1, 0])
    scores, true = np.array([0.5, 0.9, 0.7, 0.5]), np.array([[True, True, False, False]])

    def objects(label: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full(1, label), np.ones((1, 1), bool)

    found = list(by_class(labels, images, scores, true, ~true, objects, 3))
    assert [ranking.images.tolist() for ranking in found] == [[0], [1, 0, 2], []]
    assert [ranking.true[0].tolist() for ranking in found] == [[True], [False, False, True], []]
    assert [ranking.object_images.tolist() for ranking in found] == [[0], [1], [2]]
