"""Average precision with weights against a loop over copies, and in several parts against all at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.statistics import weighted_precision
from rethink_heads.statistics.bootstrap import ImageBootstrap
from rethink_heads.statistics.ranking import Candidates
from rethink_heads.statistics.weighted_precision import RECALLS, Curves, Draws

IMAGES, SETTINGS = 6, 3


def made_up(count: int, seed: int) -> tuple[Candidates, np.ndarray, np.ndarray, np.ndarray]:
    """Detections of one class, their hits and kept flags (S, N), and objects to find (S, I)."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, IMAGES, count)
    scores = -np.sort(-generator.random(count))
    kept = generator.random((SETTINGS, count)) < 0.8
    hits = kept & (generator.random((SETTINGS, count)) < 0.4)
    positives = np.stack([np.bincount(images[of], minlength=IMAGES) for of in hits])
    positives = positives + generator.integers(0, 2, positives.shape)
    found = Candidates.of(np.zeros(count, np.int64), images, scores, hits, kept)
    return found, hits, kept, positives.astype(float)


def by_hand(
    weights: np.ndarray, images: np.ndarray, hits: np.ndarray, kept: np.ndarray, objects: float
) -> float:
    """101-point average precision of whole weights, one copy after another."""
    if not objects:
        return float("nan")
    true = seen = 0
    points = []
    for image, hit, keep in zip(images.tolist(), hits.tolist(), kept.tolist(), strict=True):
        if not keep:
            continue
        # The image's copies come together: precision is read after the last of them.
        seen += weights[image]
        true += weights[image] * hit
        points.append((true / objects, true / seen if seen else 0.0))
    return float(np.mean([max((p for r, p in points if r >= at), default=0.0) for at in RECALLS]))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 2**16))
def test_equal_to_copies_one_by_one(count: int, seed: int) -> None:
    found, hits, kept, positives = made_up(count, seed)
    draws = Draws(ImageBootstrap(range(IMAGES), 4, seed))
    assert len(draws) == 1 + 4 + 0
    curves = Curves(draws, positives)
    curves.add(found, is_last=True)
    weights = draws.weights(slice(0, len(draws)), np.arange(IMAGES)).T
    for values, drawn in zip(curves.values, weights, strict=True):
        expected = [
            by_hand(drawn, found.images, hit, keep, drawn @ objects)
            for hit, keep, objects in zip(hits, kept, positives, strict=True)
        ]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(
        np.where(positives.any(axis=1), curves.precision.mean(axis=1), np.nan), curves.values[0]
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 2**16), st.lists(st.integers(0, 60), max_size=4))
def test_parts_of_the_ranking_give_what_the_whole_gives(
    count: int, seed: int, cuts: list[int]
) -> None:
    found, _, _, positives = made_up(count, seed)
    draws = Draws(ImageBootstrap(range(IMAGES), 10, seed))
    whole, parts = Curves(draws, positives), Curves(draws, positives)
    whole.add(found, is_last=True)
    ends = [*sorted(min(cut, count) for cut in cuts), count]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        parts.add(found.take(np.arange(start, end)), is_last=False)
    parts.add(found.take(np.arange(0)), is_last=True)
    np.testing.assert_array_equal(whole.values, parts.values)
    np.testing.assert_array_equal(whole.precision, parts.precision)


def test_how_many_sets_are_counted_at_once_changes_nothing() -> None:
    found, _, _, positives = made_up(50, 3)
    draws = Draws(ImageBootstrap(range(IMAGES), 30, 1))
    values = []
    for most in (1, 100, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(weighted_precision, "_MOST_AT_ONCE", most)
            curves = Curves(draws, positives)
        curves.add(found, is_last=True)
        values.append(curves.values)
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])


def test_sets_are_all_images_the_replicates_and_all_but_one() -> None:
    bootstrap = ImageBootstrap(range(IMAGES), 10, 2)
    draws = Draws(bootstrap)
    weights = draws.weights(slice(0, len(draws)), np.arange(IMAGES)).T
    expected = [np.ones((1, IMAGES)), bootstrap.weights, 1 - np.eye(IMAGES)]
    np.testing.assert_array_equal(weights, np.concatenate(expected))
    some = np.array([1, 4])
    np.testing.assert_array_equal(draws.weights(slice(7, 15), some).T, weights[7:15][:, some])
    # Where they would be more than the replicates.
    assert len(Draws(ImageBootstrap(range(IMAGES), 5))) == 6
