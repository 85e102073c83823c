"""Final detections of a data set by every head of a detector: found once, kept, and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.data.results import CORNERS, DETECTION_COLUMNS, DETECTION_TYPES, in_order
from rethink_heads.detectors import answers
from rethink_heads.detectors.answers import on_image
from rethink_heads.detectors.base import Detections, Detector, SupportsDetect, missing
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

DETECTIONS_NAME = "detections.parquet"


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
        raise UserError(f"{detector_name} cannot be evaluated: {missing('detect')}")
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
