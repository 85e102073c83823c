"""What became of every object: at which step of a detector it was lost, or that it was found; and how many of each.

Each object has the first of these FATES that holds, at an IoU threshold t. A box *fits* an object where their IoU is t
or more; boxes are those of the detector's own proposals, regressed for the object's class.

- ``outranked``: found, but where its detection stands the precision that AP reads (the best at this rank of its class
  or below it) is under 0.5, so that false positives outnumber true ones wherever it counts;
- ``found``: matched to a final detection of its class, as COCO matches;
- ``taken``: final detections of its class fit it, but each is another object's true positive;
- ``cut``: a box that fits is left by NMS, but better detections of all classes fill the image's hundred;
- ``suppressed``: boxes that fit pass the threshold of score, but NMS leaves none of them; the box that suppressed the
  best of these is named;
- ``wrong_class``: boxes fit, but none has a score for the object's class that passes the threshold; a box of another
  class passes it and fits the object, and no object of that other class better;
- ``below_threshold``: boxes fit, but no score passes the threshold;
- ``regressed_away``: a proposal fits, but no regressed box;
- ``no_proposal``: neither a proposal fits nor a regressed box.

Of final detections alone, as in a results file, a fate is the first of FILE_FATES: ``outranked``, ``found``, ``taken``
as above; ``wrong_class``: a detection of another class fits it, and no object of that class better; ``not_localized``:
a detection of its class overlaps it by 0.1; ``missed``: anything else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.detections import Quantities, keys_of, tables_of
from rethink_heads.evaluation.ladder import (
    ALL,
    STAGES,
    CandidateOutcomes,
    beyond_most,
    follow,
    recalls,
)
from rethink_heads.evaluation.matching import (
    NO_OBJECT,
    Flags,
    GroundTruth,
    HeadDetections,
    Indices,
    box_ious,
    by_image,
    image_overlaps,
    match_detections,
)
from rethink_heads.files import write_csv, write_parquet
from rethink_heads.measure.candidates import LEAST_IOU, Candidates
from rethink_heads.measure.store import SIZES, Key, size_name
from rethink_heads.statistics.bootstrap import (
    REPLICATES,
    SHARE,
    Array,
    ImageBootstrap,
    join,
)
from rethink_heads.statistics.sums import ratio
from rethink_heads.suppression import NO_BOX, REJECTED, SUPPRESSED

FATES = (
    "found",
    "outranked",
    "taken",
    "cut",
    "suppressed",
    "below_threshold",
    "wrong_class",
    "regressed_away",
    "no_proposal",
)
FILE_FATES = ("found", "outranked", "taken", "wrong_class", "not_localized", "missed")
ALL_FATES = (*FATES, *FILE_FATES[-2:])
FIT_IOU = 0.5
LEAST_PRECISION = 0.5
OBJECT_FATES_NAME = "object_fates"
_Group = tuple[str, str]
"""A size and a class, "all" for any."""


@dataclass(frozen=True)
class _Found:
    """What the matching says of G objects; score, rank and precision are nan for those that are not found."""

    found: Flags
    score: Array
    rank: Array
    precision: Array


def object_fates(
    candidates: Candidates,
    dataset: CocoDataset,
    *,
    iou_threshold: float = FIT_IOU,
    least_precision: float = LEAST_PRECISION,
) -> pd.DataFrame:
    """What became of every object under every head.

    Args:
        candidates: of :func:`~rethink_heads.measure.candidate_runner.measure_candidates`.
        dataset: what they are of.
        iou_threshold: from which on a box fits an object.
        least_precision: below which an object that is found is outranked.

    Returns:
        A row an object and head with "image_id", "object_id", "class_name", "size", "detector", "head" and

        - "fate": of FATES;
        - "iou_proposals", "iou_regressed", "iou_classified", "iou_after_nms", "iou_detections": the best IoU at each
          stage (of :mod:`~rethink_heads.evaluation.ladder`), 0 where nothing overlaps it by 0.1;
        - "score": of its true positive, or else the best of the boxes that fit it; nan where none does;
        - "rank", "precision": of its true positive among the detections of its class, 1 for the first; nan for none;
        - "suppressor_score", "suppressor_iou", "suppressor_object": where it is suppressed, of the box that suppressed
          the best box that fits: its score, its IoU with this object, and the id of the object of the class that it
          fits best (-1: it fits none);
        - "other_class", "other_score": where its class is wrong, the best box of another class that fits ("" and nan).
    """
    truth = GroundTruth(dataset)
    frames = [
        _fates(follow(candidates, truth, key), key, iou_threshold, least_precision)
        for key in candidates.keys
    ]
    return pd.concat(frames, ignore_index=True)


def detection_fates(
    detections: pd.DataFrame,
    dataset: CocoDataset,
    *,
    keys: Iterable[Key] | None = None,
    iou_threshold: float = FIT_IOU,
    least_precision: float = LEAST_PRECISION,
) -> pd.DataFrame:
    """What became of every object, as far as final detections tell.

    Args:
        detections: in the columns of :mod:`rethink_heads.measure.detections`, of any detectors and heads.
        keys: (detector, head) of the heads, also of one that found nothing; None: all that found anything.
        dataset, iou_threshold, least_precision: as of :func:`object_fates`.

    Returns:
        As :func:`object_fates`, with fates of FILE_FATES; what detections do not tell is nan, -1 or "".

    Raises:
        UserError: detections in other images or of other classes than the dataset's.
    """
    truth = GroundTruth(dataset, detections)
    frames = []
    for key in keys_of(detections) if keys is None else keys:
        head = _looked_at(truth.detections_of(detections, key), truth)
        matched = _match(head, truth, iou_threshold)
        best, fitting = np.zeros((2, len(truth.labels)))
        for rows, objects, ious in image_overlaps(head.images, head.boxes, truth):
            same = head.labels[rows][:, None] == truth.labels[objects][None]
            best[objects] = (ious * same).max(axis=0, initial=0.0)
            fits = same & (ious >= iou_threshold)
            fitting[objects] = np.where(fits, head.scores[rows][:, None], 0.0).max(
                axis=0, initial=0.0
            )
        is_open = ~matched.found & (best < iou_threshold)
        other = _other_class(head, truth, is_open, iou_threshold)
        is_other = other != NO_BOX
        fate = np.select(
            [
                matched.found & (matched.precision < least_precision),
                matched.found,
                best >= iou_threshold,
                is_other,
                best >= LEAST_IOU,
            ],
            ["outranked", "found", "taken", "wrong_class", "not_localized"],
            default="missed",
        )
        ious = np.full((len(STAGES), len(best)), np.nan)
        ious[-1] = best
        score = np.where(matched.found, matched.score, np.where(fitting > 0, fitting, np.nan))
        frames.append(_frame(truth, key, fate, ious, score, matched, None, (other, head)))
    return pd.concat(frames, ignore_index=True)


def _fates(
    followed: CandidateOutcomes,
    key: Key,
    iou_threshold: float = FIT_IOU,
    least_precision: float = LEAST_PRECISION,
) -> pd.DataFrame:
    """One head's rows of :func:`object_fates`."""
    truth, best = followed.truth, followed.best_ious
    matched = _match(followed.detections, truth, iou_threshold)
    proposals, regressed, classified, after_nms, detected = best >= iou_threshold
    passes = np.flatnonzero(followed.outcome != REJECTED)
    scored = HeadDetections(
        followed.images[passes],
        followed.labels[passes],
        followed.scores[passes],
        followed.boxes[passes],
    )
    other = _other_class(scored, truth, regressed & ~classified, iou_threshold)
    fate = np.select(
        [
            matched.found & (matched.precision < least_precision),
            matched.found,
            detected,
            after_nms,
            classified,
            regressed & (other != NO_BOX),
            regressed,
            proposals,
        ],
        [
            "outranked",
            "found",
            "taken",
            "cut",
            "suppressed",
            "wrong_class",
            "below_threshold",
            "regressed_away",
        ],
        default="no_proposal",
    )
    fits = followed.box_ious >= iou_threshold
    fitting = np.full(len(fate), -np.inf)
    np.maximum.at(fitting, followed.pair_objects[fits], followed.scores[followed.pair_rows[fits]])
    score = np.where(matched.found, matched.score, np.where(fitting >= 0, fitting, np.nan))
    suppressor = _suppressors(followed, fits, fate == "suppressed", iou_threshold)
    return _frame(truth, key, fate, best, score, matched, suppressor, (other, scored))


def _looked_at(head: HeadDetections, truth: GroundTruth) -> HeadDetections:
    """Those of one head's detections that COCO looks at."""
    kept = ~beyond_most(head.images, head.labels, truth.class_count)
    return HeadDetections(*(getattr(head, each.name)[kept] for each in dataclasses.fields(head)))


def _match(head: HeadDetections, truth: GroundTruth, threshold: float) -> _Found:
    """Match one head's detections, and rank the true positives in their classes."""
    matches = match_detections(truth, head, np.array([threshold]), sizes=1)
    true, counted = matches.true[0, 0], matches.counted[0, 0]
    objects = len(truth.labels)
    found = np.zeros(objects, bool)
    score, rank, precision = np.full((3, objects), np.nan)
    order = np.lexsort((head.images, -head.scores, head.labels))
    order = order[counted[order]]
    for rows in by_image(head.labels[order]):
        ranked = order[rows]
        places = np.arange(1, len(ranked) + 1)
        best = true[ranked].cumsum() / places
        best = np.maximum.accumulate(best[::-1])[::-1]
        is_true = true[ranked]
        matched = matches.objects[0, 0, ranked[is_true]]
        found[matched] = True
        score[matched] = head.scores[ranked[is_true]]
        rank[matched], precision[matched] = places[is_true], best[is_true]
    return _Found(found, score, rank, precision)


def _other_class(
    scored: HeadDetections, truth: GroundTruth, is_open: Flags, threshold: float
) -> Indices:
    """(G,) the best of the scored boxes of other classes that fit an open object, and none of theirs better."""
    found = np.full(len(truth.labels), NO_BOX)
    for rows, objects, ious in image_overlaps(scored.images, scored.boxes, truth):
        if not is_open[objects].any():
            continue
        same = scored.labels[rows][:, None] == truth.labels[objects][None]
        own = (ious * same).max(axis=1)
        fits = ~same & (ious >= threshold) & (ious > own[:, None])
        scores = np.where(fits, scored.scores[rows][:, None], -np.inf)
        best = scores.argmax(axis=0)
        there = is_open[objects] & fits.any(axis=0)
        found[objects[there]] = rows[best[there]]
    return found


def _suppressors(
    followed: CandidateOutcomes, fits: Flags, is_suppressed: Flags, threshold: float
) -> pd.DataFrame:
    """What suppressed the best box that fits each suppressed object; a row an object."""
    truth = followed.truth
    score, iou = np.full((2, len(truth.labels)), np.nan)
    its_object = np.full(len(truth.labels), NO_OBJECT)
    pairs = np.flatnonzero(
        fits
        & is_suppressed[followed.pair_objects]
        & (followed.outcome[followed.pair_rows] == SUPPRESSED)
    )
    # Of equal scores the first.
    pairs = pairs[np.argsort(-followed.scores[followed.pair_rows[pairs]], kind="stable")]
    objects, first = np.unique(followed.pair_objects[pairs], return_index=True)
    rows = followed.suppressor[followed.pair_rows[pairs[first]]]
    score[objects] = followed.scores[rows]
    iou[objects] = box_ious(followed.boxes[rows], truth.boxes[objects])
    # The pairs of one box are neighbours, and its objects are of its own class.
    starts, ends = (np.searchsorted(followed.pair_rows, rows, side=s) for s in ("left", "right"))
    for place, start, end in zip(objects.tolist(), starts.tolist(), ends.tolist(), strict=True):
        best = start + int(followed.box_ious[start:end].argmax())
        if followed.box_ious[best] >= threshold:
            its_object[place] = truth.ids[followed.pair_objects[best]]
    return pd.DataFrame(
        {"suppressor_score": score, "suppressor_iou": iou, "suppressor_object": its_object}
    )


def _frame(
    truth: GroundTruth,
    key: Key,
    fate: np.ndarray,
    ious: Array,
    score: Array,
    matched: _Found,
    suppressors: pd.DataFrame | None,
    others: tuple[Indices, HeadDetections],
) -> pd.DataFrame:
    names = np.array(truth.dataset.class_names, dtype=object)
    other, scored = others
    is_other = fate == "wrong_class"
    other_class = np.full(len(fate), "", dtype=object)
    other_score = np.full(len(fate), np.nan)
    other_class[is_other] = names[scored.labels[other[is_other]]]
    other_score[is_other] = scored.scores[other[is_other]]
    if suppressors is None:
        suppressors = pd.DataFrame(
            {"suppressor_score": np.nan, "suppressor_iou": np.nan, "suppressor_object": NO_OBJECT},
            index=range(len(fate)),
        )
    frame = pd.DataFrame(
        {
            "image_id": truth.image_ids[truth.images],
            "object_id": truth.ids,
            "class_name": names[truth.labels],
            "size": [size_name(area) for area in truth.areas.tolist()],
            "detector": key[0],
            "head": key[1],
            "fate": fate.astype(object),
            **{f"iou_{stage}": best for stage, best in zip(STAGES, ious, strict=True)},
            "score": score,
            "rank": matched.rank,
            "precision": matched.precision,
            **suppressors,
            "other_class": other_class,
            "other_score": other_score,
        }
    )
    return frame[~truth.crowd]


def write_object_fates(fates: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the objects' fates as ``object_fates.csv`` and ``object_fates.parquet``."""
    paths = [Path(folder) / f"{OBJECT_FATES_NAME}.{ending}" for ending in ("csv", "parquet")]
    write_csv(fates, paths[0])
    write_parquet(fates, paths[1], {})
    return paths


def fate_counts(
    fates: pd.DataFrame, dataset: CocoDataset, *, replicates: int = REPLICATES, seed: int = 0
) -> pd.DataFrame:
    """How many objects have each fate, by size and by class, with 95% intervals over images.

    Args:
        fates: of :func:`object_fates` or :func:`detection_fates`.
        dataset: what they are of.
        replicates, seed: of the bootstrap over the dataset's images.

    Returns:
        A row a head, group of objects and fate with "detector", "head", "size" and "class_name" (of which one at least
        is "all"), "fate", "share", "share_low", "share_high", "count" and "objects" (of the group).
    """
    bootstrap = ImageBootstrap(dataset.image_ids, replicates, seed)
    return count_tables(fates, keys_of(fates), bootstrap)["fates"]


def compare_fates(
    fates: pd.DataFrame,
    dataset: CocoDataset,
    a: Key,
    b: Key,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """The shares of objects with each fate under two heads, and their differences a - b on the same draws of images.

    Returns:
        A row a group and fate with "size", "class_name", "fate", "a", "b" (as "detector/head"), "value_a", "value_b",
        "difference", "difference_low", "difference_high" and "excludes_zero".
    """
    bootstrap = ImageBootstrap(dataset.image_ids, replicates, seed)
    return count_tables(fates, [a, b], bootstrap, [(a, b)])["fate_comparisons"]


def count_tables(
    fates: pd.DataFrame,
    keys: Iterable[Key],
    bootstrap: ImageBootstrap,
    pairs: Iterable[tuple[Key, Key]] = (),
) -> dict[str, pd.DataFrame]:
    """The frames "fates" and, where there are pairs, "fate_comparisons" of some heads' objects."""
    found = {key: {"fates": _shares(fates, key, bootstrap)} for key in keys}
    tables = tables_of(found, pairs)
    counts, compared = tables["fates"], tables.pop("fates_comparisons", None)
    # Of detections alone, where the stages before are not known.
    can_be = {
        key: FILE_FATES if _own(fates, key)["iou_proposals"].isna().all() else FATES
        for key in found
    }
    heads = zip(counts["detector"], counts["head"], counts["fate"], strict=True)
    tables["fates"] = counts[[fate in can_be[d, h] for d, h, fate in heads]].reset_index(drop=True)
    if compared is not None:
        # Without fates that neither head's objects have, such as those of files alone.
        occur = (compared["value_a"] > 0) | (compared["value_b"] > 0)
        tables["fate_comparisons"] = compared[occur].reset_index(drop=True)
    return tables


def _shares(fates: pd.DataFrame, key: Key, bootstrap: ImageBootstrap) -> Quantities:
    """The shares of one head's objects with each of ALL_FATES, by size and class."""
    own = _own(fates, key).sort_values("image_id", kind="stable")
    is_fate = own["fate"].to_numpy()[:, None] == np.array(ALL_FATES, dtype=object)
    columns = np.stack([np.ones(is_fate.shape), is_fate], axis=-1)
    ids, groups, shares = own["image_id"].to_numpy(), dict(_groups(own)), []
    for chosen in groups.values():
        sums = bootstrap.sum_by_image(ids[chosen], columns[chosen])
        shares.append(bootstrap.resample(sums, ratio, SHARE))
    found = join(shares)
    objects = np.repeat([chosen.sum() for chosen in groups.values()], len(ALL_FATES))
    counts = np.rint(found.value * objects).astype(np.int64)
    sizes, names = (np.repeat(each, len(ALL_FATES)) for each in zip(*groups, strict=True))
    keys = {"size": sizes, "class_name": names, "fate": ALL_FATES * len(groups)}
    return Quantities(found, keys, "share", {"count": counts, "objects": objects})


def _groups(objects: pd.DataFrame) -> Iterator[tuple[_Group, Flags]]:
    """By (size, class): all objects, those of each size, those of each class."""
    yield (ALL, ALL), np.ones(len(objects), bool)
    sizes, names = objects["size"].to_numpy(), objects["class_name"].to_numpy()
    for size in SIZES:
        if (sizes == size).any():
            yield (size, ALL), sizes == size
    for name in pd.unique(names):
        yield (ALL, name), names == name


def _own(fates: pd.DataFrame, key: Key) -> pd.DataFrame:
    return fates[(fates["detector"] == key[0]) & (fates["head"] == key[1])]


def fate_tables(
    candidates: Candidates,
    dataset: CocoDataset,
    pairs: Sequence[tuple[Key, Key]] = (),
    *,
    iou_threshold: float = FIT_IOU,
    least_precision: float = LEAST_PRECISION,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """All tables of fates and of the recall ladder, each head followed once.

    Args:
        candidates, dataset, iou_threshold, least_precision: as of :func:`object_fates`.
        pairs: of (detector, head), those that are compared.
        replicates, seed: of the bootstrap over the dataset's images.

    Returns:
        "object_fates", "fates", "recall_ladder", and where there are pairs "fate_comparisons" and
        "recall_ladder_comparisons": the frames of :func:`object_fates`, :func:`fate_counts`,
        :func:`~.ladder.recall_ladder`, :func:`compare_fates` and :func:`~.ladder.compare_ladders`.
    """
    truth = GroundTruth(dataset)
    bootstrap = ImageBootstrap(truth.image_ids, replicates, seed)
    for key in {key for pair in pairs for key in pair}:
        candidates.check(key)
    frames, ladders = [], {}
    for key in candidates.keys:
        followed = follow(candidates, truth, key)
        ladders[key] = {"recall_ladder": recalls(followed, bootstrap)}
        frames.append(_fates(followed, key, iou_threshold, least_precision))
    fates = pd.concat(frames, ignore_index=True)
    counts = count_tables(fates, candidates.keys, bootstrap, pairs)
    return {"object_fates": fates, **counts, **tables_of(ladders, pairs)}
