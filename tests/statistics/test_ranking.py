"""Detections ranked in turns, against one sort of all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.measure.kept_detections import FrameDetections, HeadDetections
from rethink_heads.statistics import ranking
from rethink_heads.statistics.ranking import Candidates, Turn, by_class, score_keys, turns_of

CLASSES = 4
finite = st.floats(-1e6, 1e6, allow_nan=False)
# Few different scores, so that many are equal, and some that float32 cannot tell apart.
scores = st.lists(
    st.one_of(st.sampled_from([0.1, 0.5, 0.5 + 1e-12, 0.9, 1.0]), st.floats(0, 1)), max_size=40
)


@given(st.lists(finite, min_size=2, max_size=30))
def test_keys_rise_with_scores(values: list[float]) -> None:
    ordered = np.sort(np.array(values))
    assert len({*score_keys(np.array([0.0, -0.0])).tolist()}) == 1
    keys = score_keys(ordered).astype(int)
    assert (np.diff(keys) >= 0).all()
    for key in np.unique(keys).tolist():
        least = Turn(np.array([0]), key).least_score
        assert (ordered[keys >= key] >= least).all()
        # It leaves out what is clearly below.
        lower = ordered[keys < key - 1]
        assert (lower < least).all()


@settings(deadline=None, max_examples=60)
@given(scores, st.integers(0, 2**16), st.sampled_from([1, 3, 10, 1000]))
def test_turns_hold_each_detection_once_in_falling_order(
    values: list[float], seed: int, most: int
) -> None:
    generator = np.random.default_rng(seed)
    count = len(values)
    frame = pd.DataFrame(
        {
            "image_id": np.sort(generator.integers(0, 6, count)),
            "detector": "run",
            "head": "fc",
            "label": generator.integers(0, CLASSES, count),
            "score": np.array(values, float),
        }
    )
    head = HeadDetections(FrameDetections(frame, memory_mb=1), ("run", "fc"))
    whole = next(head.read(["image_id", "label", "score"]))
    labels, images = whole["label"].to_numpy(), whole["image_id"].to_numpy()
    flags = generator.random((11, count)) < 0.5
    kept = flags | (generator.random((11, count)) < 0.5)

    def gather(turn: Turn) -> Iterator[Candidates]:
        # More than the turn's own, an image after another, as matching gives them.
        for image in np.unique(images).tolist():
            of = images == image
            found = whole["score"].to_numpy()[of]
            yield Candidates.of(labels[of], images[of], found, flags[:, of], kept[:, of])

    with pytest.MonkeyPatch.context() as patch:
        room = ranking.MIB // ranking._PART_OF_MEMORY
        patch.setattr(ranking, "_BYTES_EACH", room // most)
        turns = turns_of(head, CLASSES)
    seen: dict[int, list[Candidates]] = {label: [] for label in range(CLASSES)}
    ended = []
    for label, found, is_last in by_class(gather, turns):
        assert label not in ended
        ended += [label] if is_last else []
        seen[label].append(found)
        keys = score_keys(found.scores)
        assert len(found) <= most or len(np.unique(keys)) == 1
    assert sorted(ended) == list(range(CLASSES))
    for label, parts in seen.items():
        of_class = np.flatnonzero(labels == label)
        order = of_class[np.lexsort((images[of_class], -whole["score"].to_numpy()[of_class]))]
        joined = ranking._joined(parts)
        np.testing.assert_array_equal(joined.images, images[order])
        np.testing.assert_array_equal(joined.scores, whole["score"].to_numpy()[order])
        for number in range(11):
            hits, counted = joined.setting(number)
            np.testing.assert_array_equal(hits, flags[number, order])
            np.testing.assert_array_equal(counted, kept[number, order])


def test_many_classes_share_a_turn_and_a_large_one_takes_several() -> None:
    counts = {0: 3, 1: 3, 2: 20, 3: 2}
    labels = np.repeat(list(counts), list(counts.values()))
    frame = pd.DataFrame(
        {
            "image_id": np.arange(len(labels)),
            "detector": "run",
            "head": "fc",
            "label": labels,
            "score": np.linspace(0.05, 0.95, len(labels)),
        }
    )
    head = HeadDetections(FrameDetections(frame, memory_mb=1), ("run", "fc"))
    assert [turn.labels.tolist() for turn in turns_of(head, 5)] == [[0, 1, 2, 3, 4]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BYTES_EACH", ranking.MIB // ranking._PART_OF_MEMORY // 7)
        turns = turns_of(head, 5)
    assert [turn.labels.tolist() for turn in turns] == [[0, 1], [2], [2], [2], [3, 4]]
    assert [turn.is_last for turn in turns if turn.labels.tolist() == [2]] == [False, False, True]
