"""A doctor for files of detections: does another reading fit the ground truth better than the one asked for?

Detections that are read in another way than they were written give an average precision near zero and no error. So
before anything is counted, a sample of them is set against the objects in each way that exports differ: the boxes'
format and image, the images' and classes' ids, the scores' scale. A reading is proposed, with its evidence, only where
it fits far better than chance and than the one asked for; a bad detector fits none, and is not complained of.

The evidence of boxes is the share of the best-scored ones that overlap an object of their image, of any class, by an
IoU of 0.5. Chance is the same share with the objects of another image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from rethink_heads.data.box_sample import BoxSample, Flags
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.results import (
    NORMALISED,
    UNKNOWN,
    Results,
    ResultsFormat,
    first_few,
    parse_frame,
    to_corners,
)
from rethink_heads.errors import UserError

FITS = 0.45
"""Where this share of the boxes overlaps an object, the reading asked for is not doubted."""
# Another reading must do this much better: share of boxes, times the share as asked for, and McNemar's chi-square of
# the difference.
LEAST_SHARE, LEAST_RATIO, LEAST_CHI_SQUARE = 0.15, 2.0, 3.84
MANY_BEYOND, FEW_BEYOND = 0.4, 0.02
"""Shares of boxes far beyond their image at which one wonders, and with which another format is held to fit."""
MANY_AWAY = 0.6
"""Share of boxes with their centre outside the image at which one wonders, though no reading fits."""
LEAST_BOXES = 8
CLEARLY = 0.02
FORMATS = ("xywh", "xyxy", "cxcywh", "yxyx")
_SIDES = "300 320 416 448 512 600 608 640 672 736 768 800 896 960 1024 1280 1333"
COMMON_SIDES = tuple(map(int, _SIDES.split()))
COMMON_SHORT = ((800, 1333), (600, 1000), (640, 1333), (640, 640), (480, 800), (512, 1024))
# Beyond rounding.
ABOVE_ONE, LARGEST_LOGIT, LARGEST_PERCENT = 1.0001, 20.0, 100.0001
WITHIN_UNIT = 2.0
"""Boxes with no number above this are in units of the image's sides."""


@dataclass(frozen=True)
class Finding:
    """Something that does not fit, with what speaks for another reading and the options that accept it."""

    evidence: str
    options: str = ""


def check_reading(
    results: Results, dataset: CocoDataset, reading: ResultsFormat, leave_out_unknown: bool = False
) -> None:
    """Refuse detections that do not fit the ground truth in the reading asked for, where another one does.
    Raises UserError where they do not; the message has the evidence and the options.
    """
    findings = list(find_misreadings(results, dataset, reading, leave_out_unknown))
    if findings:
        said = "; ".join(finding.evidence for finding in findings)
        options = " ".join(finding.options for finding in findings if finding.options)
        give = f"give {options}" if options else "give the ground truth that was detected on"
        raise UserError(
            f"{results.where} does not fit {dataset.where} as it is read: {said}; {give}, or --as-written to read it"
            " so all the same"
        )


def find_misreadings(
    results: Results, dataset: CocoDataset, reading: ResultsFormat, leave_out_unknown: bool = False
) -> Iterator[Finding]:
    """Yield what does not fit, each found with what was found before it put right."""
    if not len(results):
        return
    images = _images(results, dataset, reading, leave_out_unknown)
    if images is not None:
        finding, how = images
        yield finding
        if how is None:
            return
        reading = replace(reading, image_ids=how)
    boxes = _boxes(results, dataset, reading)
    if boxes is not None:
        finding, reading = boxes
        yield finding
    classes = _classes(results, dataset, reading, leave_out_unknown)
    if classes is not None:
        yield classes
    scores = _scores(results, reading)
    if scores is not None:
        yield scores


def _images(
    results: Results, dataset: CocoDataset, reading: ResultsFormat, leave_out_unknown: bool
) -> tuple[Finding, str | None] | None:
    """What is wrong with the images' ids, and the reading that fits; None where nothing can be read any further."""
    rows = results.image_rows(dataset, reading.image_ids)
    unknown = int((rows == UNKNOWN).sum())
    if not unknown:
        return None
    total, first = (
        len(rows),
        first_few([n for n, r in zip(results.image_names, rows, strict=True) if r == UNKNOWN]),
    )
    count = (
        f"{unknown} of its {total} images ({first})" if unknown < total else f"its images ({first})"
    )
    for how in ("ids", "names", "order"):
        if how == reading.image_ids or (results.image_rows(dataset, how) == UNKNOWN).any():
            continue
        what = {
            "ids": "as ids all are",
            "names": "as names of the images' files all are",
            "order": "counted from 0 in the order of the annotations all are",
        }[how]
        counted = how == "order"
        if counted and not _is_plausible(
            BoxSample(results, dataset, replace(reading, image_ids=how))
        ):
            continue
        evidence = f"{count} are no {reading.image_ids} of the annotations', {what}"
        return Finding(evidence, f"--image-ids {how}"), how
    if leave_out_unknown and unknown < total:
        return None
    known = total - unknown
    if known > total / 20:
        evidence = f"{count} are not among the {len(dataset)} of the annotations"
        return Finding(evidence, "--leave-out-unknown"), reading.image_ids
    has = first_few(list(dataset.image_ids))
    evidence = f"{count} are not among the {len(dataset)} of the annotations ({has}): of another split, it seems"
    return Finding(evidence), None


def _boxes(
    results: Results, dataset: CocoDataset, reading: ResultsFormat
) -> tuple[Finding, ResultsFormat] | None:
    """What is wrong with the boxes, and the reading that fits."""
    sample = BoxSample(results, dataset, reading)
    if not len(sample):
        return None
    largest = float(np.abs(results.boxes).max())
    is_unit = largest <= WITHIN_UNIT
    wrong_unit = is_unit != (reading.box_frame == NORMALISED)
    share = float(sample.hits(sample.asked).mean())
    if not wrong_unit and share >= FITS:
        return None
    fitting = _fitting_boxes(sample)
    if fitting is not None:
        found = sample.hits(sample.corners(fitting)).mean()
        return _box_finding(reading, fitting, found, share), fitting
    if wrong_unit:
        fitting = replace(reading, box_frame=NORMALISED if is_unit else "image")
        evidence = (
            f"no number of a box is above {largest:.3g}: the boxes are in units of their images' sides"
            if is_unit
            else f"numbers of boxes reach {largest:,.0f}: the boxes are in px"
        )
        return Finding(evidence, f"--box-frame {fitting.box_frame}"), fitting
    return _beyond(sample) or _other_order(sample, results, dataset)


def _fitting_boxes(sample: BoxSample) -> ResultsFormat | None:
    """Another reading of the boxes of a sample that fits far better than the one asked for, and than chance."""
    hits = sample.hits(sample.asked)
    best, best_share = None, 0.0
    for candidate in _candidates(sample.results, sample.reading):
        corners = sample.corners(candidate)
        found = sample.hits(corners)
        # Simpler readings come first, and a later one must do clearly better.
        if found.mean() <= best_share + CLEARLY:
            continue
        if _is_better(found, hits) and sample.beats_accident(corners, found):
            best, best_share = candidate, float(found.mean())
    return best


def _is_plausible(sample: BoxSample) -> bool:
    """Whether far more boxes overlap an object than would by accident, in this or another reading of the boxes."""
    if not len(sample):
        return False
    hits = sample.hits(sample.asked)
    return sample.beats_accident(sample.asked, hits) or _fitting_boxes(sample) is not None


def _is_better(found: Flags, hits: Flags) -> bool:
    """Whether a reading does far better than the one asked for on the same boxes."""
    gained, lost = int((found & ~hits).sum()), int((hits & ~found).sum())
    enough = found.mean() >= max(LEAST_SHARE, LEAST_RATIO * hits.mean())
    return bool(
        enough and gained > lost and (gained - lost) ** 2 >= LEAST_CHI_SQUARE * (gained + lost)
    )


def _candidates(results: Results, reading: ResultsFormat) -> Iterator[ResultsFormat]:
    """Other readings of the boxes, those that differ in less first."""
    if np.abs(results.boxes).max() <= WITHIN_UNIT:
        frames = [NORMALISED]
    else:
        frames = [reading.box_frame] if reading.box_frame != NORMALISED else []
        frames += ["image", *_frames(results, reading.box_format)]
    pairs = product(dict.fromkeys(frames), dict.fromkeys((reading.box_format, *FORMATS)))
    for box_frame, box_format in sorted(
        pairs, key=lambda pair: (pair[0] != reading.box_frame) + (pair[1] != reading.box_format)
    ):
        yield replace(reading, box_format=box_format, box_frame=box_frame)


def _frames(results: Results, box_format: str) -> Iterator[str]:
    """Usual sizes of resized images, and those that the boxes just fill."""
    # Detectors cut boxes at the border, so that the farthest corners lie on it.
    corners = to_corners(results.boxes, box_format)[:, 2:]
    far = np.ceil(np.quantile(corners, 0.9995, axis=0, method="higher") - 0.5)
    width, height = np.clip(far, 1, 10**5).astype(int).tolist()
    yield f"{width}x{height}"
    sides = dict.fromkeys((*COMMON_SIDES, max(width, height)))
    for kind in ("long:{0}", "{0}x{0}", "letterbox:{0}"):
        for side in sides:
            if kind.format(side) != f"{width}x{height}":
                yield kind.format(side)
    for short, most in COMMON_SHORT:
        yield f"short:{short}:{most}"


def _box_finding(
    asked: ResultsFormat, best: ResultsFormat, share: float, asked_share: float
) -> Finding:
    changed = [
        name for name in ("box_format", "box_frame") if getattr(asked, name) != getattr(best, name)
    ]

    def said(reading: ResultsFormat) -> str:
        frame = f"in {_frame_name(reading.box_frame)}" if "box_frame" in changed else ""
        return f"as {reading.box_format} {frame}".strip()

    options = [f"--{name.replace('_', '-')} {getattr(best, name)}" for name in changed]
    evidence = f"{said(best)} {share:.0%} of the boxes overlap an object, as read ({said(asked)}) {asked_share:.0%}"
    return Finding(evidence, " ".join(options))


def _frame_name(text: str) -> str:
    kind, sizes = parse_frame(text)
    numbers = " x ".join(f"{size:g}" for size in sizes)
    return {
        "image": "px of the original images",
        NORMALISED: "units of the images' sides",
        "stretched": f"images stretched to {numbers} px",
        "long": f"images with a longer side of {numbers} px",
        "letterbox": f"the middle of squares of {numbers} px",
        "short": f"images with a shorter and a longest side of {numbers} px",
    }[kind]


def _beyond(sample: BoxSample) -> tuple[Finding, ResultsFormat] | None:
    """Boxes that lie in their images in another format alone: so it shows with a bad detector, too."""
    reading = sample.reading
    out = sample.beyond(sample.asked)
    if len(sample) < LEAST_BOXES or out < MANY_BEYOND:
        return None
    for box_format in FORMATS:
        fitting = replace(reading, box_format=box_format)
        inside = sample.beyond(sample.corners(fitting))
        if inside <= FEW_BEYOND:
            evidence = (
                f"as {box_format} {1 - inside:.0%} of the boxes lie in their images, as read (as {reading.box_format})"
                f" {1 - out:.0%}"
            )
            return Finding(evidence, f"--box-format {box_format}"), fitting
    away = sample.away(sample.asked)
    if away < MANY_AWAY:
        return None
    evidence = (
        f"{away:.0%} of the boxes have their centre outside the image, and in no usual format or size of resized images"
        " do they fit: of another split or another size, it seems (see --box-frame)"
    )
    return Finding(evidence), reading


def _other_order(
    asked: BoxSample, results: Results, dataset: CocoDataset
) -> tuple[Finding, ResultsFormat] | None:
    """Images numbered in the order of the annotations, where the numbers are ids of other images, too."""
    other = replace(asked.reading, image_ids="order")
    if asked.reading.image_ids != "ids" or (results.image_rows(dataset, "order") == UNKNOWN).any():
        return None
    sample, share = BoxSample(results, dataset, other), asked.hits(asked.asked).mean()
    found = sample.hits(sample.asked).mean()
    if not _is_plausible(sample) or found < max(LEAST_SHARE, LEAST_RATIO * share):
        return None
    evidence = (
        f"with images counted from 0 in the order of the annotations {found:.0%} of the boxes overlap an object, as"
        f" read (by ids) {share:.0%}"
    )
    return Finding(evidence, "--image-ids order"), other


def _classes(
    results: Results, dataset: CocoDataset, reading: ResultsFormat, leave_out_unknown: bool
) -> Finding | None:
    """What is wrong with the classes' ids."""
    asked = results.labels(dataset, reading.category_ids)
    unknown = [
        n for n, label in zip(results.category_names, asked, strict=True) if label == UNKNOWN
    ]
    sample = BoxSample(results, dataset, reading)
    corners = sample.asked
    place = results.categories[sample.rows]
    overlaps, agrees = sample.same_class(corners, asked[place])
    agreed = _share(agrees, overlaps)
    best: tuple[float, str] | None = None
    for how in ("contiguous", "contiguous-from-1", "file", "names"):
        labels = results.labels(dataset, how)
        if how == reading.category_ids or (labels == UNKNOWN).any() or (labels == asked).all():
            continue
        same = sample.same_class(corners, labels[place])[1]
        share = _share(same, overlaps)
        fits = bool(unknown) or (
            overlaps.sum() >= LEAST_BOXES and _is_better(same[overlaps], agrees[overlaps])
        )
        if fits and (best is None or share > best[0]):
            best = share, how
    first = {"contiguous": 0, "contiguous-from-1": 1}.get(reading.category_ids)
    if first is not None:
        has = f"{first} to {first + len(dataset.category_ids) - 1}"
    else:
        by_id = reading.category_ids == "file"
        has = first_few([*(dataset.category_ids if by_id else dataset.class_names)])
    lacks = f"{len(unknown)} of its {len(asked)} classes ({first_few(unknown)}) are none of the annotations' ({has})"
    if best is not None:
        share, how = best
        names = {
            "contiguous": "numbered from 0 in the order of the annotations'",
            "contiguous-from-1": "numbered from 1 in the order of the annotations'",
            "file": "as the annotations' ids",
            "names": "as names",
        }
        evidence = f"{names[how]} all are known" if unknown else names[how]
        if overlaps.any():
            evidence += (
                f"{' and' if unknown else ''} {share:.0%} of the boxes that overlap an object are of its class, as read"
                f" {agreed:.0%}"
            )
        return Finding(
            f"{lacks}, {evidence}" if unknown else f"classes {evidence}", f"--category-ids {how}"
        )
    if unknown and not leave_out_unknown:
        return Finding(lacks, "--leave-out-unknown" if len(unknown) < len(asked) else "")
    return None


def _share(flags: Flags, among: Flags) -> float:
    return float(flags[among].mean()) if among.any() else 0.0


def _scores(results: Results, reading: ResultsFormat) -> Finding | None:
    """What is wrong with the scores, which are probabilities when they are read."""
    if reading.score_scale == "logit":
        return None
    scores = results.scores
    low, high = float(scores.min()), float(scores.max())
    limit = ABOVE_ONE if reading.score_scale == "probability" else LARGEST_PERCENT
    if low >= 0 and high <= limit:
        return None
    reach = f"scores reach from {low:.4g} to {high:.4g}"
    if low < 0 or high > LARGEST_PERCENT:
        if max(-low, high) > 1000:
            return Finding(f"{reach}, which are neither probabilities, per cent nor logits")
        return Finding(f"{reach}: logits, as it seems", "--score-scale logit")
    if high <= LARGEST_LOGIT:
        return Finding(
            f"{reach}, {np.mean(scores > 1):.0%} above 1: logits, as it seems (or low per cent: --score-scale percent)",
            "--score-scale logit",
        )
    return Finding(f"{reach}, {np.mean(scores > 1):.0%} above 1: per cent", "--score-scale percent")
