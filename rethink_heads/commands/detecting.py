"""Final detections for ``rethink-heads evaluate``: which detectors have them, and finding them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rethink_heads.console import say, work
from rethink_heads.errors import UserError
from rethink_heads.runs import Run, with_fusion
from rethink_heads.study import Key, Subject

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.measure.kept_detections import KeptDetections


@dataclass(frozen=True)
class Detected:
    """A run's final detections.

    Attributes:
        run: the run; dataset: what was detected on; name: of the measurements' folder.
        sides: (detector, head) of the heads that are looked at, in the run's order.
        memory_mb: bound on what is held of them at once, in MiB.
        provenance: what the detections depend on.
    """

    run: Run
    dataset: CocoDataset
    name: str
    sides: list[Key]
    memory_mb: int
    provenance: dict[str, str]


def open_detected(found: Sequence[Detected]) -> KeptDetections:
    """The detections of runs on the same data, without reading them."""
    from rethink_heads.measure.kept_detections import open_detections

    folders = [each.run.measurements(each.name) for each in found]
    memory_mb = min(each.memory_mb for each in found)
    return open_detections(folders, memory_mb).of_images(found[0].dataset.image_ids)


def with_detections(subjects: Sequence[Subject]) -> list[Subject]:
    """The detectors that show their detections, before any of them takes long; the others are said.

    Raises:
        UserError: there is none.
    """
    from rethink_heads.detectors.base import missing, supports

    kept = []
    for subject in subjects:
        if not subject.run.is_external or supports(subject.load(), "detect"):
            kept.append(subject)
        else:
            say(f"{subject.run.name} is left out: {missing('detect')}")
    if not kept:
        raise UserError(f"none of the detectors can be evaluated: {missing('detect')}")
    return kept


def fuses(head: str) -> bool:
    """Whether a head fuses the scores of two classifiers."""
    from rethink_heads.heads import HEAD_CONFIGURATIONS

    return head in HEAD_CONFIGURATIONS and len(HEAD_CONFIGURATIONS[head].classifiers) > 1


def detect(
    subject: Subject, heads: Sequence[str], images: int | None, fusion: str | None
) -> Detected:
    """Detect with a detector, where it was not done before.

    Args:
        subject: the detector.
        heads: those that are looked at.
        images: how many; None for all, since detecting is quick, unlike measuring predefined proposals.
        fusion: the rule by which scores are fused; None for the run's own.

    Raises:
        UserError: none of the heads is trained, or something cannot be read or written.
    """
    from rethink_heads.detectors.rcnn import RCNN
    from rethink_heads.measure.detections import keep_detections

    run, detector, dataset = subject.run, subject.opened.detector, subject.opened.dataset
    name, provenance = subject.name, subject.provenance
    if images is not None:
        dataset = dataset.subset(images)
    # Task weights may have left a head configuration of the structure untrained.
    trained = [head for head in heads if head in detector.heads]
    if not trained:
        raise UserError(
            f"the task weights of {run.path} left {', '.join(heads)} untrained;"
            f" it has {', '.join(detector.heads)}"
        )
    if (
        isinstance(detector, RCNN)
        and fusion not in (None, detector.roi_heads.fusion)
        and any(map(fuses, trained))
    ):
        detector.roi_heads.fusion = fusion
        name, provenance = with_fusion(name, provenance, fusion)
    with run.logged(f"detecting {name}"), work():
        keep_detections(detector, dataset, run.name, run.measurements(name), provenance)
    sides = [(run.name, head) for head in trained]
    return Detected(run, dataset, name, sides, subject.config.measuring.memory_mb, provenance)
