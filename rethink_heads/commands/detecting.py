"""Final detections for ``rethink-heads evaluate``: which detectors have them, and finding them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rethink_heads.commands.detected import Detected
from rethink_heads.commands.sessions import logged, opened
from rethink_heads.console import say, work
from rethink_heads.errors import UserError
from rethink_heads.options import StudyOptions
from rethink_heads.runs import Run, with_fusion
from rethink_heads.study_folder import StudyFolder

if TYPE_CHECKING:
    from rethink_heads.detectors.rcnn import RCNN


def detecting(runs: Sequence[StudyFolder], device: str) -> list[StudyFolder]:
    """The detectors that show their detections, before any of them takes long; the others are said.

    Raises:
        UserError: there is none.
    """
    from rethink_heads.detectors.base import missing, supports
    from rethink_heads.machine import resolve_device

    kept = []
    for run in runs:
        if isinstance(run, Run) or supports(run.load(resolve_device(device)), "detect"):
            kept.append(run)
        else:
            say(f"{run.name} is left out: {missing('detect')}")
    if not kept:
        raise UserError(f"none of the detectors can be evaluated: {missing('detect')}")
    return kept


def fuses(head: str) -> bool:
    """Whether a head fuses the scores of two classifiers."""
    from rethink_heads.heads import HEAD_CONFIGURATIONS

    return head in HEAD_CONFIGURATIONS and len(HEAD_CONFIGURATIONS[head].classifiers) > 1


def detect(
    run: StudyFolder,
    heads: Sequence[str],
    options: StudyOptions,
    index: int,
    count: int,
    fusion: str | None,
    classes: Sequence[str] | None,
) -> Detected:
    """Detect with a detector, where it was not done before.

    Args:
        run: the detector's folder.
        heads: those that are looked at.
        options, fusion: as on the command line.
        index, count, classes: as of ``sessions.opened``.

    Raises:
        UserError: none of the heads is trained, or something cannot be read or written.
    """
    from rethink_heads.detectors.rcnn import RCNN
    from rethink_heads.measure.detections import keep_detections

    found = opened(run, options, index, count, classes)
    detector, dataset, provenance = found.detector, found.dataset, found.provenance
    # Unlike the measuring of predefined proposals, detecting is quick: all images by default.
    if options.measuring.max_images is not None:
        dataset = dataset.subset(options.measuring.max_images)
    name = found.name
    # Task weights may have left a reading of the structure untrained.
    trained = [head for head in heads if head in detector.heads]
    if not trained:
        raise UserError(
            f"the task weights of {run.path} left {', '.join(heads)} untrained;"
            f" it has {', '.join(detector.heads)}"
        )
    if fusion is not None and isinstance(detector, RCNN) and any(map(fuses, trained)):
        name, provenance = _with_fusion(detector, fusion, name, provenance)
    with logged(run, f"detecting {name}"), work():
        keep_detections(found.detector, dataset, run.name, run.measurements(name), provenance)
    sides = [(run.name, head) for head in trained]
    return Detected(run, dataset, name, sides)


def _with_fusion(
    detector: RCNN, rule: str, name: str, provenance: dict[str, str]
) -> tuple[str, dict[str, str]]:
    """Have a detector fuse scores by a rule; name and provenance of what it then detects."""
    if rule == detector.roi_heads.fusion:
        return name, provenance
    detector.roi_heads.fusion = rule
    return with_fusion(name, provenance, rule)
