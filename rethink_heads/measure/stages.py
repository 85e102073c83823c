"""Boxes of a detector's own two later stages, matched to objects (paper Figure 3, middle and right).

The predefined proposals of :mod:`rethink_heads.measure.runner` are the same for every detector.
RPN's proposals and the final detections are a detector's own: so here heads are compared on the
boxes that they get, and that they give, in use.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pandas.api.types import union_categoricals
from torch import Tensor
from torchvision.ops import box_iou

from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.detectors import answers
from rethink_heads.detectors.answers import on_image
from rethink_heads.detectors.base import Detector, Features, SupportsPropose, missing, supports
from rethink_heads.detectors.classes import class_columns
from rethink_heads.distributed import processes
from rethink_heads.files import read_table
from rethink_heads.measure.by_image import frames_by_image, rename_detector
from rethink_heads.measure.detections import (
    CORNERS,
    DETECTION_TYPES,
    keep_detections,
    load_detections,
)
from rethink_heads.measure.moments import VALUE_COLUMNS
from rethink_heads.measure.provenance import dataset_provenance, file_provenance
from rethink_heads.measure.responses import chunk_size
from rethink_heads.measure.store import Key, Measurements, View, size_name
from rethink_heads.measure.store_files import (
    IDS,
    MOMENTS,
    OBJECT_COLUMNS,
    ROW_TYPE,
    ROWS,
    Name,
)
from rethink_heads.proposals import IOU_BINS

STAGES_NAME = "stages.parquet"
RPN, DETECTIONS = "rpn", "detections"
STAGE_TYPES: Mapping[str, str] = {
    "image_id": "int64",
    "object_id": "int64",
    "class_name": "str",
    "size": "str",
    "detector": "str",
    "head": "str",
    "stage": "str",
    "score": "float64",
    "iou": "float64",
    "regressed_iou": "float64",
    "true_positive_iou": "float64",
}
STAGE_COLUMNS = tuple(STAGE_TYPES)
_NAMES = [name for name, kind in STAGE_TYPES.items() if kind == "str"]
DEFAULT_MEMORY_MB = 512

POSITIVE_IOU = 0.5
"""Least IoU of a true positive."""
UNMATCHED = -1

Indices = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]

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
        A row a box and head, in STAGE_COLUMNS: "image_id"; "object_id" of the object that the box
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

    Args:
        memory_mb: bound on what the heads hold at once, in MiB.
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
    nothing = pd.DataFrame(columns=list(DETECTION_TYPES))

    def measure_image(sample: Sample) -> pd.DataFrame:
        with on_image(detector_name, sample.image_id):
            frames = list(
                _proposal_frames(detector, columns, dataset.class_names, sample, memory_mb)
            )
        detections = final.get(sample.image_id, nothing)
        frames += detection_frames(detections, sample, dataset.class_names)
        merged = pd.concat(frames) if frames else pd.DataFrame(columns=list(STAGE_COLUMNS))
        named = merged.assign(detector=detector_name)[list(STAGE_COLUMNS)]
        return named.astype(STAGE_TYPES).reset_index(drop=True)

    title = f"matching proposals and detections of {detector_name}"
    frames_by_image(
        measure_image, dataset, path, STAGE_TYPES, detector_name, known, title, progress
    )


def load_stages(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read the stages that :func:`measure_stages` left in ``folder``, and their provenance.

    Returns:
        The boxes in STAGE_COLUMNS, names as categories, sorted by detector, head, stage and image; those of one image
        as they came.

    Raises:
        UserError: there are none, or the file is damaged.
    """
    table, provenance = read_table(Path(folder) / STAGES_NAME)
    frame = join_stages([table.select(STAGE_COLUMNS).to_pandas(categories=_NAMES)])
    keys = [frame["image_id"], *(frame[name].cat.codes for name in ("stage", "head", "detector"))]
    return frame.take(np.lexsort(keys)).reset_index(drop=True), provenance


def join_stages(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Boxes of several detectors one below the other, their names as categories: text would take most of the time."""
    columns: dict[str, Any] = {}
    for name, kind in STAGE_TYPES.items():
        parts = [frame[name] for frame in frames]
        if name in _NAMES:
            named = [part.astype("category") for part in parts]
            columns[name] = union_categoricals(named, sort_categories=True)
        else:
            columns[name] = np.concatenate([part.to_numpy(kind) for part in parts])
    return pd.DataFrame(columns)


def detection_frames(
    detections: pd.DataFrame, sample: Sample, class_names: tuple[str, ...]
) -> Iterator[pd.DataFrame]:
    """By head: one image's detections matched to its objects.

    Args:
        detections: those of the image, in DETECTION_COLUMNS, of each head in falling order of score.
        sample: the image's objects.
        class_names: by label.
    """
    for head, rows in detections.groupby("head"):
        labels = torch.from_numpy(rows["label"].to_numpy(copy=True))
        boxes = torch.from_numpy(rows[CORNERS].to_numpy(copy=True))
        ious = same_class_ious(ious_with(boxes, sample.boxes), labels, sample.labels)
        index, iou = most_overlapping(ious)
        named = _objects(sample, index, class_names)
        own_class = np.array(class_names, dtype=object)[labels.numpy()]
        named["class_name"] = np.where(index == UNMATCHED, own_class, named["class_name"])
        yield pd.DataFrame(
            {
                **named,
                "head": head,
                "stage": DETECTIONS,
                "score": rows["score"].to_numpy(),
                "iou": iou,
                "regressed_iou": iou,
                "true_positive_iou": _true_positive_ious(ious, labels.numpy()),
            }
        )


def _true_positive_ious(ious: Array, labels: Indices) -> Array:
    """IoU (N,) of each detection with the object whose true positive it is, else nan."""
    found = np.full(len(ious), np.nan)
    for label in np.unique(labels):
        # Objects of other classes have IoU 0 here, and so are never taken.
        rows = np.flatnonzero(labels == label)
        matches = true_positives(ious[rows])
        positive = matches != UNMATCHED
        found[rows[positive]] = ious[rows[positive], matches[positive]]
    return found


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
    index, iou = most_overlapping(ious_with(proposals, sample.boxes))
    kept = np.flatnonzero(index != UNMATCHED)
    if not len(kept):
        return
    index, iou = index[kept], iou[kept]
    boxes = proposals[torch.from_numpy(kept).to(proposals.device)]
    labels = columns[sample.labels[torch.from_numpy(index)]]
    rows = np.arange(len(kept))
    for head, (scores, regressed) in _respond(detector, features, boxes, labels, memory_mb).items():
        values = {
            "score": scores.numpy(),
            "iou": iou,
            "regressed_iou": ious_with(regressed, sample.boxes)[rows, index],
        }
        named = {**_objects(sample, index, class_names), "head": head, "stage": RPN}
        yield pd.DataFrame({**named, **values, "true_positive_iou": np.nan})


def _respond(
    detector: Detector, features: Features, boxes: Tensor, labels: Tensor, memory_mb: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """By head: scores (N,) and regressed boxes (N, 4), float64, each of its own class (N,)."""
    chunk = chunk_size(detector.pool(features, boxes[:1]), memory_mb)
    scores: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
    regressed: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
    for batch, classes in zip(
        boxes.split(chunk), labels.to(boxes.device).split(chunk), strict=True
    ):
        pooled = detector.pool(features, batch)
        outputs = answers.predict(detector, features, pooled, batch)
        rows = torch.arange(len(batch), device=boxes.device)
        for head in scores:
            scores[head].append(outputs[head].scores[rows, classes].double().cpu())
            regressed[head].append(outputs[head].boxes[rows, classes].double().cpu())
    return {head: (torch.cat(scores[head]), torch.cat(regressed[head])) for head in scores}


def _objects(sample: Sample, index: Indices, class_names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns that name the image and the object (N,) of each box; -1 and "" for no object."""
    matched = index != UNMATCHED
    # A place more than there are objects, for the boxes of none: index -1.
    ids = np.append(sample.object_ids.numpy(), UNMATCHED)
    names = np.array([*(class_names[label] for label in sample.labels.tolist()), ""], dtype=object)
    sizes = np.array([*map(size_name, sample.areas.tolist()), ""], dtype=object)
    return {
        "image_id": np.full(len(matched), sample.image_id),
        "object_id": ids[index],
        "class_name": names[index],
        "size": sizes[index],
    }


def stage_measurements(boxes: pd.DataFrame, stage: str, *keys: Key) -> Measurements:
    """The boxes of one stage as measurements of the objects that they are matched to, each box of weight 1.

    Of the moments those of score and IoU are there; the others are 0. A head without boxes at the stage has zeros.

    Args:
        boxes: of any stages, in STAGE_COLUMNS. The objects are those that a box of any stage is matched to, so that the
            bootstrap draws the same images at each.
        stage: "rpn" or "detections".
        keys: (detector, head) of further heads, which may have no boxes at any stage.
    """
    is_matched = (boxes["object_id"] >= 0).to_numpy()
    number = boxes.loc[is_matched, IDS].groupby(IDS, sort=True).ngroup().to_numpy()
    first = np.empty(number.max(initial=-1) + 1, np.int64)
    first[number[::-1]] = np.flatnonzero(is_matched)[::-1]
    objects = boxes[list(OBJECT_COLUMNS)].take(first)
    object_of = np.full(len(boxes), -1)
    object_of[is_matched] = number
    arrays: dict[Name, npt.NDArray[Any] | View] = {}
    chosen_boxes = is_matched & (boxes["stage"] == stage).to_numpy()
    heads = boxes[["detector", "head"]].drop_duplicates().itertuples(index=False, name=None)
    for detector, head in dict.fromkeys([*heads, *keys]):
        is_head = (boxes["detector"] == detector) & (boxes["head"] == head)
        chosen = np.flatnonzero(chosen_boxes & is_head.to_numpy())
        # An object's boxes one below the other, the best first.
        iou = boxes["iou"].to_numpy()
        chosen = chosen[np.lexsort([-iou[chosen], object_of[chosen]])]
        rows = np.ones(len(chosen), ROW_TYPE)
        rows["object"], rows["proposal"] = object_of[chosen], -1
        rows["iou"], rows["score"] = iou[chosen], boxes["score"].to_numpy()[chosen]
        rows["bin"] = np.minimum((rows["iou"] * IOU_BINS).astype(np.int64), IOU_BINS - 1)
        arrays[ROWS, detector, head] = rows
        # Added up when they are asked for: they take more than the boxes.
        arrays[MOMENTS, detector, head] = View(partial(_moments, rows, len(objects)))
    return Measurements(objects, arrays)


def _moments(rows: npt.NDArray[Any], objects: int) -> npt.NDArray[np.float64]:
    iou, score = rows["iou"], rows["score"]
    values = {
        "n": None,
        "measured": None,
        "sum_iou": iou,
        "sum_score": score,
        "sum_iou_iou": iou * iou,
        "sum_score_score": score * score,
        "sum_iou_score": iou * score,
    }
    place = rows["object"].astype(np.int64) * IOU_BINS + rows["bin"]
    # A moment after another: those that are not there then take no memory.
    moments = np.zeros((len(VALUE_COLUMNS), objects, IOU_BINS))
    for name, column in values.items():
        total = np.bincount(place, column, objects * IOU_BINS)
        moments[VALUE_COLUMNS.index(name)] = total.reshape(objects, IOU_BINS)
    return np.moveaxis(moments, 0, -1)


def ious_with(boxes: Tensor, objects: Tensor) -> Array:
    """IoU (N, M), taken in float64, of boxes (N, 4) with objects (M, 4), xyxy in the same pixels."""
    return np.asarray(box_iou(boxes.cpu().double(), objects.cpu().double()).numpy())


def most_overlapping(ious: Array) -> tuple[Indices, Array]:
    """The object that each box overlaps most, the first of equals.

    Args:
        ious: (N, M) of N boxes with M objects; entries of 0 are never matched.

    Returns:
        Index (N,) of the object, -1 where no object is overlapped at all, and the IoU with it (N,),
        there 0.
    """
    if not ious.shape[1]:
        return np.full(len(ious), UNMATCHED), np.zeros(len(ious))
    best = ious.argmax(axis=1)
    iou = ious[np.arange(len(ious)), best]
    return np.where(iou > 0, best, UNMATCHED), iou


def true_positives(ious: Array, least: float = POSITIVE_IOU) -> Indices:
    """COCO's matching of one image's detections and objects of one class.

    The detections take turns, best score first. Each takes the object it overlaps most among those
    that none before it took, if their IoU is ``least`` or more; of equal ones, like pycocotools,
    the last.

    Args:
        ious: (N, M), detections in descending order of score.
        least: the IoU threshold.

    Returns:
        Index (N,) of each detection's object, -1 for a false positive.
    """
    matches = np.full(len(ious), UNMATCHED)
    free = np.ones(ious.shape[1], dtype=bool)
    for index, row in enumerate(ious):
        candidates = np.flatnonzero(free & (row >= least))
        if len(candidates):
            # The last of equal ones: the first in reverse.
            taken = candidates[::-1][row[candidates[::-1]].argmax()]
            matches[index] = taken
            free[taken] = False
    return matches


def same_class_ious(ious: Array, labels: Tensor, object_labels: Tensor) -> Array:
    """The IoUs (N, M) with 0 where box and object are of different classes; labels (N,) and (M,)."""
    same = torch.as_tensor(labels)[:, None] == torch.as_tensor(object_labels)[None]
    return np.where(same.numpy(), ious, 0.0)
