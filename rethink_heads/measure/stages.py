"""Boxes of a detector's own two later stages, matched to objects (paper Figure 3, middle and right).

The predefined proposals of :mod:`rethink_heads.measure.runner` are the same for every detector.
RPN's proposals and the final detections are a detector's own: so here heads are compared on the
boxes that they get, and that they give, in use.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.detectors import answers
from rethink_heads.detectors.answers import on_image
from rethink_heads.detectors.base import Detector, SupportsPropose, missing, supports
from rethink_heads.detectors.classes import class_columns
from rethink_heads.distributed import processes
from rethink_heads.measure.by_image import (
    dataset_provenance,
    file_provenance,
    frames_by_image,
    rename_detector,
)
from rethink_heads.measure.detections import keep_detections, load_detections
from rethink_heads.measure.responses import ask
from rethink_heads.measure.stage_boxes import (
    RPN,
    STAGE_COLUMNS,
    STAGE_TYPES,
    STAGES_NAME,
    UNMATCHED,
    Array,
    Objects,
    ious_with,
    load_stages,
    match_detections,
    most_overlapping,
)
from rethink_heads.measure.store import size_name

DEFAULT_MEMORY_MB = 512

logger = logging.getLogger(__name__)


def measure_stages(
    detector: Detector,
    dataset: CocoDataset,
    detector_name: str,
    folder: Path,
    provenance: Mapping[str, str],
    memory_mb: int = DEFAULT_MEMORY_MB,
    progress: bool = True,
) -> pd.DataFrame:
    """RPN's proposals and the final detections in every image of a dataset, matched to its objects.

    They are kept as :func:`keep_stages` does, whose arguments and errors these are. Processes that torchrun started
    share the images, and all of them get the frame.

    Returns:
        A row a box and head, in STAGE_COLUMNS, with "image_id"; "object_id" of the object that the box
        is matched to, -1 for none; "class_name" and "size" of that object ("" for none; a detection
        without object has its own class); "detector"; "head"; "stage"; "score"; "iou";
        "regressed_iou"; "true_positive_iou".

        Stage "rpn": every proposal that overlaps an object, matched to the one it overlaps most,
        whatever its class. Its score is the head's of that object's class, "iou" the proposal's
        with the object, "regressed_iou" that of the box that the head regresses for the class.

        Stage "detections": every final detection after NMS, matched to the object of its class that
        it overlaps most. Several may be matched to one object; "iou" is 0 where there is none, and
        "regressed_iou" the same as "iou". "true_positive_iou" is the IoU with the object whose true
        positive the detection is in COCO's matching at IoU 0.5, where an object has one at most,
        and nan for the others and for the proposals.

        A detector that shows no proposals, or no detections, has no rows of that stage; a line on
        standard error says so.
    """
    keep_stages(detector, dataset, detector_name, folder, provenance, memory_mb, progress)
    return load_stages(folder)[0]


def keep_stages(
    detector: Detector,
    dataset: CocoDataset,
    detector_name: str,
    folder: Path,
    provenance: Mapping[str, str],
    memory_mb: int = DEFAULT_MEMORY_MB,
    progress: bool = True,
) -> None:
    """Keep what :func:`measure_stages` gives as ``folder``/stages.parquet, and do not hold it.

    Arguments, errors and resuming are those of :func:`keep_detections`, which keeps the detections in the same folder;
    a detector without detections is no error.
    """
    columns = class_columns(detector, dataset)
    if isinstance(detector, torch.nn.Module):
        detector.eval()
    folder = Path(folder)
    known = {**dataset_provenance(dataset), **provenance}
    path = folder / STAGES_NAME
    if processes().broadcast(lambda: file_provenance(path) == known):
        rename_detector(folder, detector_name)
        return
    for method in ("propose", "detect"):
        if not supports(detector, method):
            logger.warning("%s: %s", detector_name, missing(method))
    final: dict[int, pd.DataFrame] = {}
    if supports(detector, "detect"):
        keep_detections(detector, dataset, detector_name, folder, provenance, progress)
        frame, _ = load_detections(folder)
        final = {int(str(image_id)): rows for image_id, rows in frame.groupby("image_id")}

    def measure_image(sample: Sample) -> pd.DataFrame:
        with on_image(detector_name, sample.image_id):
            frames = list(
                _proposal_frames(detector, columns, dataset.class_names, sample, memory_mb)
            )
        if sample.image_id in final:
            there = _objects(sample)
            frames.append(
                match_detections(final[sample.image_id], lambda _: there, dataset.class_names)
            )
        merged = pd.concat(frames) if frames else pd.DataFrame(columns=list(STAGE_COLUMNS))
        named = merged.assign(detector=detector_name)[list(STAGE_COLUMNS)]
        return named.astype(STAGE_TYPES).reset_index(drop=True)

    title = f"matching proposals and detections of {detector_name}"
    types = STAGE_TYPES
    frames_by_image(
        measure_image, dataset, path, types, known, title, progress, detector=detector_name
    )


@torch.inference_mode()
def _proposal_frames(
    detector: Detector,
    columns: Tensor,
    class_names: tuple[str, ...],
    sample: Sample,
    memory_mb: int,
) -> Iterator[pd.DataFrame]:
    """By head: one image's RPN proposals that overlap an object."""
    if not len(sample.boxes) or not isinstance(detector, SupportsPropose):
        return
    features, proposals = answers.propose(detector, sample.image.to(detector.device))
    objects = _objects(sample)
    index, iou = most_overlapping(ious_with(_corners(proposals), objects.boxes))
    kept = np.flatnonzero(index != UNMATCHED)
    if not len(kept):
        return
    index, iou = index[kept], iou[kept]
    boxes = proposals[torch.from_numpy(kept).to(proposals.device)]
    labels = columns[sample.labels[torch.from_numpy(index)]]
    numbers = np.arange(len(kept))
    matched = {
        "image_id": sample.image_id,
        "object_id": objects.ids[index],
        "class_name": [class_names[label] for label in objects.labels[index]],
        "size": [size_name(area) for area in objects.areas[index]],
    }
    labels = labels.to(boxes.device)

    def take(values: Tensor, rows: slice) -> Tensor:
        own = labels[rows]
        return values[torch.arange(len(own), device=own.device), own].double().cpu()

    found = ask(detector, features, boxes, memory_mb, take)
    for head, (scores, regressed) in found.items():
        values = {
            "score": scores.numpy(),
            "iou": iou,
            "regressed_iou": ious_with(_corners(regressed), objects.boxes)[numbers, index],
        }
        named = {**matched, "head": head, "stage": RPN}
        yield pd.DataFrame({**named, **values, "true_positive_iou": np.nan})


def _objects(sample: Sample) -> Objects:
    ids, labels, areas = (each.numpy() for each in (sample.object_ids, sample.labels, sample.areas))
    return Objects(ids, labels, areas, _corners(sample.boxes))


def _corners(boxes: Tensor) -> Array:
    return np.asarray(boxes.cpu().double().numpy())
