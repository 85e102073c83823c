"""What a detector gives in use, by every head: final detections, and RPN's proposals with them, matched to objects.

Found once, kept, and read again. The predefined proposals of :mod:`rethink_heads.measure.runner` are the same for every
detector; those of its RPN and its detections are its own (paper Figure 3, middle and right).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.data.results import CORNERS, DETECTION_COLUMNS, DETECTION_TYPES, in_order
from rethink_heads.detectors import answers
from rethink_heads.detectors.answers import on_image
from rethink_heads.detectors.base import (
    Detections,
    Detector,
    SupportsDetect,
    SupportsPropose,
    missing,
    supports,
)
from rethink_heads.detectors.classes import class_columns, in_data_labels
from rethink_heads.distributed import processes
from rethink_heads.errors import UserError
from rethink_heads.files import read_parquet
from rethink_heads.measure.by_image import (
    IMAGE_FILES,
    dataset_provenance,
    file_provenance,
    frames_by_image,
    rename_detector,
)
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

DETECTIONS_NAME = "detections.parquet"
DEFAULT_MEMORY_MB = 512
logger = logging.getLogger(__name__)


def detect_dataset(
    detector: Detector,
    dataset: CocoDataset,
    detector_name: str,
    folder: Path,
    provenance: Mapping[str, str],
    progress: bool = True,
) -> pd.DataFrame:
    """All heads' final detections in every image of a dataset.

    They are kept as :func:`keep_detections` does, whose arguments and errors these are. Processes that torchrun started
    share the images, and all of them get the frame.

    Returns:
        A row a detection, in DETECTION_COLUMNS, sorted by detector, head, image and falling score; detections of the
        same score keep the detector's order.
    """
    keep_detections(detector, dataset, detector_name, folder, provenance, progress)
    return detections_of(dataset, folder)


def keep_detections(
    detector: Detector,
    dataset: CocoDataset,
    detector_name: str,
    folder: Path,
    provenance: Mapping[str, str],
    progress: bool = True,
) -> None:
    """Keep all heads' final detections in every image of a dataset as ``folder``/detections.parquet.

    A file of the same provenance stays, and so does one of more of the same images. An interrupted call loses only the
    image under way. Processes that torchrun started share the images.
    Raises UserError where the class names differ, the detector shows no detections, or ``folder`` cannot be written.

    Args:
        detector: its class names must be the dataset's.
        detector_name: the value of the column "detector", a run's name.
        provenance: what else they depend on, above all the hash of the weights ("weights"). The data, the number of
            images and the versions are added.
    """
    columns = class_columns(detector, dataset)
    if not isinstance(detector, SupportsDetect):
        raise UserError(
            f"{detector_name} cannot be evaluated: it has no `detect`; write it, or give the"
            " detections as a file (--detections)"
        )
    if isinstance(detector, torch.nn.Module):
        detector.eval()

    def detect_image(sample: Sample) -> pd.DataFrame:
        with on_image(detector_name, sample.image_id), torch.inference_mode():
            found = answers.detect(detector, sample.image.to(detector.device))
        return detection_frame(sample.image_id, in_data_labels(found, columns), detector_name)

    path = Path(folder) / DETECTIONS_NAME
    whole = {**dataset_provenance(dataset), **provenance}
    if processes().broadcast(lambda: _has_more(file_provenance(path), whole, dataset)):
        rename_detector(Path(folder), detector_name)
        return
    title = f"detecting with {detector_name}"
    types = DETECTION_TYPES
    frames_by_image(
        detect_image, dataset, path, types, whole, title, progress, detector=detector_name
    )


def detections_of(dataset: CocoDataset, folder: Path) -> pd.DataFrame:
    """The detections kept in ``folder`` that are of a dataset's images, as :func:`detect_dataset` gives them."""
    frame = load_detections(folder)[0]
    return frame[frame["image_id"].isin(dataset.image_ids)].reset_index(drop=True)


def load_detections(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read the detections that :func:`detect_dataset` left in ``folder``, and their provenance.

    Raises:
        UserError: there are none, or the file is damaged.
    """
    frame, provenance = read_parquet(Path(folder) / DETECTIONS_NAME)
    return in_order(frame), provenance


def open_detections(folders: Sequence[Path]) -> pd.DataFrame:
    """The detections that :func:`detect_dataset` left in folders, one for each detector.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    return pd.concat([load_detections(each)[0] for each in folders], ignore_index=True)


def _has_more(
    saved: Mapping[str, str] | None, wanted: Mapping[str, str], dataset: CocoDataset
) -> bool:
    """Whether a file's provenance is the one wanted but for more of the same images."""
    if saved is None or int(saved.get("images", 0)) <= int(wanted["images"]):
        return False
    count = saved["images"]
    more = {"images": count, IMAGE_FILES: dataset.images_fingerprint(int(count))}
    return saved == {**wanted, **more}


def detection_frame(
    image_id: int, found: Mapping[str, Detections], detector_name: str
) -> pd.DataFrame:
    """One image's detections by head as rows in DETECTION_COLUMNS, heads in the order given."""
    frames = []
    for head, detections in found.items():
        corners = detections.boxes.detach().double().cpu().numpy()
        columns = {
            "image_id": image_id,
            "detector": detector_name,
            "head": head,
            "label": detections.labels.cpu().numpy(),
            **{name: corners[:, place] for place, name in enumerate(CORNERS)},
            "score": detections.scores.detach().double().cpu().numpy(),
        }
        frames.append(pd.DataFrame(columns, index=range(len(corners))))
    merged = pd.concat(frames) if frames else pd.DataFrame(columns=list(DETECTION_COLUMNS))
    return merged[list(DETECTION_COLUMNS)].astype(DETECTION_TYPES).reset_index(drop=True)


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
