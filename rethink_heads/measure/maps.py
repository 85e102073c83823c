"""Maps of a head's spatial sensitivity: correlation of its output's cells, and two responses.

Spatial correlation is the paper's (Wu et al., Figure 4); the responses to displacement and to
zeroed cells are this project's. All are taken at the ground-truth box of an object.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_iou

from rethink_heads.boxes import clip
from rethink_heads.detectors import answers
from rethink_heads.detectors.base import (
    Detector,
    Features,
    RoIFeatures,
    SupportsOutputMaps,
    SupportsWeightMaps,
)
from rethink_heads.measure.responses import Responder

DISPLACEMENT_STEPS = 21
MAX_DISPLACEMENT = 1.0


def spatial_correlation(output_map: Tensor) -> Tensor:
    """Cosine of each pair of an output map's cells.

    Args:
        output_map: (N, C, S, S).

    Returns:
        (N, S*S, S*S) float64, cells numbered row by row. A cell whose vector is zero has similarity
        0 with every cell, itself included.

    Raises:
        UserError: it has values that are not finite.
    """
    answers.check_finite("the detector gave a map by RoI cell with values", output_map)
    vectors = torch.nn.functional.normalize(
        output_map.double().flatten(2), dim=1, eps=torch.finfo(torch.float64).tiny
    )
    return vectors.transpose(1, 2) @ vectors


def is_square(cells: Tensor) -> bool:
    """Whether a map (..., S, S) has as many rows of cells as columns: a flattened map does not say them."""
    return cells.shape[-2] == cells.shape[-1]


def weight_correlations(detector: Detector) -> dict[str, Tensor]:
    """By branch with weights for each RoI cell (fc's fc6): their cosines, (S*S, S*S) float64.

    Branches whose cells are not in a square are left out, as everywhere here.
    """
    if not isinstance(detector, SupportsWeightMaps):
        return {}
    return {
        branch: spatial_correlation(weights[None])[0].cpu()
        for branch, weights in detector.weight_maps().items()
        if is_square(weights)
    }


def output_correlations(detector: Detector, exact: RoIFeatures) -> dict[str, Tensor]:
    """By branch: spatial correlation (S*S, S*S) of its output map for one box's RoI features."""
    if not isinstance(detector, SupportsOutputMaps):
        return {}
    return {
        branch: spatial_correlation(output_map)[0].cpu()
        for branch, output_map in detector.output_maps(exact).items()
        if is_square(output_map)
    }


def displaced_boxes(box: Tensor) -> Tensor:
    """The box (4,) moved by -1 to 1 of its size in 21 steps along x and y: (441, 4), x fastest."""
    half = DISPLACEMENT_STEPS // 2
    shifts = (torch.arange(-half, half + 1) * (MAX_DISPLACEMENT / half)).to(box)
    dy, dx = torch.meshgrid(shifts, shifts, indexing="ij")
    offsets = torch.stack([dx, dy, dx, dy], dim=-1).reshape(-1, 4)
    return box + offsets * (box[2:] - box[:2]).repeat(2)


def displacement_scores(
    respond: Responder,
    features: Features,
    box: Tensor,
    label: int,
    image_size: tuple[int, int],
) -> dict[str, Tensor]:
    """By head: score of class `label` for the displaced box, (21, 21) float64, rows dy, columns dx.

    Displaced boxes are clipped to the image like every proposal; where nothing is left the score is
    nan.
    """
    clipped = clip(displaced_boxes(box), image_size)
    kept = torch.nonzero(~clipped.empty).flatten()
    maps = {}
    for head, (scores, _) in respond(features, clipped.boxes[kept], label).items():
        values = torch.full((len(clipped.boxes),), torch.nan, dtype=torch.float64)
        values[kept] = scores.double()
        maps[head] = values.reshape(DISPLACEMENT_STEPS, DISPLACEMENT_STEPS)
    return maps


def cell_responses(
    detector: Detector, features: Features, exact: RoIFeatures, box: Tensor, label: int, chunk: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """What zeroing one RoI cell at a time, in every branch's RoI features, does to each head.

    Args:
        exact: RoI features of the object's `box` (4,).
        label: the object's class.
        chunk: RoIs per forward pass.

    Returns:
        By head: change (zeroed - intact) of the score of the object's class, and of the IoU of the
        regressed box with the object, each (S, S) float64. Empty where the detector shows no RoI
        features, and where their cells are no square, or not one for all branches.
    """
    resolutions = {tuple(pooled.shape[-2:]) for pooled in exact.values()}
    if len(resolutions) != 1 or not all(is_square(pooled) for pooled in exact.values()):
        return {}
    rows, columns = resolutions.pop()
    scores: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
    ious: dict[str, list[Tensor]] = {head: [] for head in detector.heads}
    target = box.cpu().double()[None]
    for batch in _zeroed(exact, rows * columns, chunk):
        count = len(next(iter(batch.values())))
        boxes = box.to(detector.device).expand(count, 4)
        for head, output in answers.predict(detector, features, batch, boxes).items():
            scores[head].append(output.scores[:, label].double().cpu())
            regressed = output.boxes[:, label].double().cpu()
            ious[head].append(box_iou(regressed, target)[:, 0])
    return {
        head: (
            _change(torch.cat(scores[head])).reshape(rows, columns),
            _change(torch.cat(ious[head])).reshape(rows, columns),
        )
        for head in detector.heads
    }


def _zeroed(exact: RoIFeatures, cells: int, chunk: int) -> Iterator[RoIFeatures]:
    """The intact features first, then those with cell 0, 1, ... zeroed, `chunk` at a time."""
    for copies in torch.arange(-1, cells).split(chunk):
        batch = {}
        for branch, pooled in exact.items():
            repeated = pooled.flatten(2).repeat(len(copies), 1, 1)
            changed = torch.nonzero(copies >= 0).flatten()
            repeated[changed.to(pooled.device), :, copies[changed].to(pooled.device)] = 0
            batch[branch] = repeated.reshape(len(copies), *pooled.shape[1:])
        yield batch


def _change(values: Tensor) -> Tensor:
    return values[1:] - values[0]


def flatten(values: Tensor) -> npt.NDArray[np.float32]:
    """A map as `Measurements` keeps it: float32, row by row."""
    return values.float().cpu().flatten().numpy()
