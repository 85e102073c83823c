"""Asks the heads of one or several detectors about the same proposals: the detectors' own, put together."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from rethink_heads.data.coco import CocoDataset, Sample
from rethink_heads.detectors import answers
from rethink_heads.detectors.answers import on_image
from rethink_heads.detectors.base import (
    Detector,
    Features,
    SupportsPropose,
    SupportsSuppression,
    missing,
)
from rethink_heads.detectors.classes import SharedClasses, class_columns
from rethink_heads.detectors.fingerprint import fingerprint
from rethink_heads.errors import UserError
from rethink_heads.measure.by_image import dataset_provenance, frames_by_image
from rethink_heads.measure.candidates import (
    CANDIDATES_NAME,
    CORNERS,
    DETECTORS_KEY,
    LEAST_IOU,
    Candidates,
    Source,
    as_json,
    column_names,
    load_candidates,
)
from rethink_heads.measure.detections import DEFAULT_MEMORY_MB
from rethink_heads.measure.responses import ask
from rethink_heads.measure.stage_boxes import ious_with
from rethink_heads.suppression import Suppression

logger = logging.getLogger(__name__)


def measure_candidates(
    detectors: Mapping[str, SharedClasses],
    folder: Path,
    provenance: Mapping[str, Mapping[str, str]] | None = None,
    *,
    memory_mb: int = DEFAULT_MEMORY_MB,
    progress: bool = True,
) -> Candidates:
    """Scores and boxes of every head, before NMS, for the proposals of all detectors together.

    Each detector has features of its own, and its heads are asked about the proposals of every other one, too. They are
    kept as ``folder``/candidates.parquet; an interrupted call loses only the image under way. A complete
    file of the same provenance is read instead. Processes that torchrun started share the images, and all of them get
    the result.

    Classes of a detector that the data lacks are left out, so that their detections do not count among the most of an
    image.

    Args:
        detectors: by name, each with the data (:func:`~rethink_heads.detectors.classes.share_classes`): the same
            images and classes for all.
        folder: where the candidates are kept.
        provenance: by name, what a detector's answers depend on, above all the hash of its weights ("weights"); None:
            that hash alone. The data, the rules and the versions are added.
        memory_mb: bound on what the heads hold at once, in MiB.
        progress: report on standard error.

    Raises:
        UserError: a detector shows no proposals, the data are not the same for all, or ``folder`` cannot be written.
    """
    dataset = _common_dataset(detectors)
    sources = [
        Source(name, tuple(shared.detector.heads), _rule(name, shared.detector))
        for name, shared in detectors.items()
    ]
    known = {**dataset_provenance(dataset), "least IoU": str(LEAST_IOU)}
    for number, (source, shared) in enumerate(zip(sources, detectors.values(), strict=True)):
        if provenance is None:
            own: Mapping[str, str] = {
                "weights": fingerprint(shared.detector),
                **shared.provenance,
            }
        else:
            own = provenance[source.name]
        said = {**own, "heads": json.dumps(source.heads), "rule": str(source.rule)}
        known |= {f"detector {number}: {name}": text for name, text in said.items()}
        if isinstance(shared.detector, torch.nn.Module):
            shared.detector.eval()
    path = Path(folder) / CANDIDATES_NAME
    whole = ("image_id", "proposal", "label")
    types = {
        name: "int64" if name in whole or name.startswith("rank_") else "float32"
        for name in column_names(sources)
    }
    asked = [
        (source, shared.detector, class_columns(shared.detector, shared.dataset))
        for source, shared in zip(sources, detectors.values(), strict=True)
    ]
    frames_by_image(
        partial(_candidates_of, asked, memory_mb=memory_mb),
        dataset,
        path,
        types,
        known,
        f"asking {', '.join(detectors)} about proposals",
        progress,
        counted="candidates",
        metadata={DETECTORS_KEY: as_json(sources).encode()},
    )
    return load_candidates(path.parent, list(detectors))


def _common_dataset(detectors: Mapping[str, SharedClasses]) -> CocoDataset:
    if not detectors:
        raise UserError("there is no detector to ask; give one or more")
    first = next(iter(detectors.values())).dataset
    for name, shared in detectors.items():
        if not isinstance(shared.detector, SupportsPropose):
            raise UserError(f"{name} cannot be asked about its proposals: {missing('propose')}")
        other = shared.dataset
        if (other.fingerprint, other.image_ids, other.class_names) != (
            first.fingerprint,
            first.image_ids,
            first.class_names,
        ):
            raise UserError(
                f"{name} has other images or classes than {next(iter(detectors))}; give all detectors the same data,"
                " and the classes that all have (its method with_classes)"
            )
    return first


def _rule(name: str, detector: Detector) -> Suppression:
    if isinstance(detector, SupportsSuppression):
        return detector.suppression
    logger.warning(
        "%s: it has no `suppression`, so torchvision's rule makes its detections here (score above 0.05, NMS at IoU 0.5"
        " by class, the best 100 of an image)",
        name,
    )
    return Suppression()


@torch.inference_mode()
def _candidates_of(
    asked: Sequence[tuple[Source, Detector, Tensor]], sample: Sample, *, memory_mb: int
) -> pd.DataFrame:
    """One image's candidates, in the file's columns."""
    features: list[Features] = []
    proposed: list[Tensor] = []
    for source, detector, _ in asked:
        assert isinstance(detector, SupportsPropose)
        with on_image(source.name, sample.image_id):
            own_features, own = answers.propose(detector, sample.image.to(detector.device))
        features.append(own_features)
        proposed.append(own.float().cpu())
    proposals = torch.cat(proposed)
    outputs: list[tuple[Tensor, Tensor]] = []
    passes = torch.zeros((len(proposals), len(asked[0][2])), dtype=torch.bool)
    is_near = _near(proposals[:, None], sample, passes.shape[1])
    for (source, detector, columns), own_features in zip(asked, features, strict=True):
        with on_image(source.name, sample.image_id):
            found = _respond(detector, own_features, proposals, columns, memory_mb)
        for scores, regressed in found:
            passes |= scores > source.rule.score_threshold
            is_near |= _near(regressed, sample, passes.shape[1])
        outputs += found
    rows, labels = torch.where(passes | is_near)
    frame = {"image_id": np.full(len(rows), sample.image_id), "proposal": rows.numpy()}
    frame["label"] = labels.numpy()
    frame |= _corners("proposal_{}", proposals[rows])
    first = 0
    for number, own in enumerate(proposed):
        rank = torch.full((len(proposals),), -1)
        rank[first : first + len(own)] = torch.arange(len(own))
        frame[f"rank_{number}"] = rank[rows].numpy()
        first += len(own)
    for number, (scores, regressed) in enumerate(outputs):
        frame[f"score_{number}"] = scores[rows, labels].numpy()
        frame |= _corners(f"{{}}_{number}", regressed[rows, labels])
    return pd.DataFrame(frame)


def _corners(name: str, boxes: Tensor) -> dict[str, npt.NDArray[np.float32]]:
    return {name.format(corner): boxes[:, place].numpy() for place, corner in enumerate(CORNERS)}


def _near(boxes: Tensor, sample: Sample, classes: int) -> Tensor:
    """Whether boxes (N, K, 4), or (N, 1, 4) for all classes, overlap an object of their class by LEAST_IOU: (N, K)."""
    near = torch.zeros((len(boxes), classes), dtype=torch.bool)
    for label in sample.labels.unique().tolist():
        own = boxes[:, label if boxes.shape[1] > 1 else 0]
        objects = sample.boxes[sample.labels == label]
        ious = ious_with(own.double().numpy(), objects.double().numpy())
        near[:, label] = torch.from_numpy((ious >= LEAST_IOU).any(axis=1))
    return near


def _respond(
    detector: Detector, features: Features, boxes: Tensor, columns: Tensor, memory_mb: int
) -> list[tuple[Tensor, Tensor]]:
    """Of each head scores (N, K) and regressed boxes (N, K, 4), float32 on the CPU, in the data's classes."""
    if not len(boxes):
        classes = len(columns)
        return [(torch.zeros(0, classes), torch.zeros(0, classes, 4)) for _ in detector.heads]

    def take(values: Tensor, rows: slice) -> Tensor:
        return values.float().cpu()[:, columns]

    return list(ask(detector, features, boxes.to(detector.device), memory_mb, take).values())
