"""RoIAlign that takes factors where these pay, with the result of torchvision's operator."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align as operator

from rethink_heads.probing.axis import RoIAlignRule
from rethink_heads.probing.blocks import LevelRoIs, level_rois, pool

# Multiplications of matrix products in the time in which the operator reads one place of the map. On two cores with
# AVX-512 factors were ten times quicker at 8 to 10 of them.
PRODUCTS_A_READING = 30
# With fewer readings than this the operator is done before the factors are found.
LEAST_READINGS = 2**22
# With fewer RoIs of an x-interval than this its matrix products are too small to be quick.
ROIS_AN_INTERVAL = 4
FEW_ROIS = 8
# Places that a bilinear sample reads.
CORNERS = 4
TYPES = (torch.float32, torch.float64)


def roi_align(feature_map: Tensor, rois: Tensor, scale: float, rule: RoIAlignRule) -> Tensor:
    """RoI features (N, C, S, S) of RoIs on one image's feature map.

    By factors, if that is less work, on a CPU and where no gradient is asked for: then the channels are last in memory,
    and numbers differ from the operator's by rounding. Else what torchvision's operator gives, autocast included.

    Args:
        feature_map: (1, C, H, W).
        rois: (N, 4) xyxy, in the detector's frame.
        scale: cells of the map per pixel.
        rule: how RoIAlign samples.
    """
    if _may_factor(feature_map, rois):
        readings = _readings(rois, scale, rule) * feature_map.shape[1]
        # The operator copies a whole map whose channels are last.
        few = len(rois) <= FEW_ROIS and not feature_map.is_contiguous()
        if few or readings >= LEAST_READINGS:
            with torch.autocast(feature_map.device.type, enabled=False):
                level = level_rois(feature_map[0], rois, scale, rule, feature_map.dtype)
                if few or _factors_pay(level, readings):
                    return pool(level)
    found: Tensor = operator(
        feature_map, [rois], rule.resolution, scale, rule.sampling_ratio, rule.aligned
    )
    return found


def _may_factor(feature_map: Tensor, rois: Tensor) -> bool:
    asks_gradient = torch.is_grad_enabled() and (feature_map.requires_grad or rois.requires_grad)
    return (
        # On a GPU the operator reads as quickly as products multiply.
        feature_map.device.type == "cpu"
        and len(feature_map) == 1
        and feature_map.dtype == rois.dtype
        and feature_map.dtype in TYPES
        and not asks_gradient
    )


def _readings(rois: Tensor, scale: float, rule: RoIAlignRule) -> float:
    """Places of one channel that the operator reads for all RoIs."""
    samples = float(len(rois) * rule.sampling_ratio**2)
    if not rule.sampling_ratio:
        lengths = (rois[:, 2:] - rois[:, :2]) * (scale / rule.resolution)
        samples = float(lengths.ceil().clamp(min=1).double().prod(1).sum())
    return CORNERS * rule.resolution**2 * samples


def _factors_pay(level: LevelRoIs, readings: float) -> bool:
    """Whether many RoIs share each x-interval, and multiplications are few for what the operator would read."""
    height, width, channels = level.region.shape
    x, cells, _ = level.x.weights.shape
    products = height * cells * channels * (x * width + len(level) * cells)
    return x * ROIS_AN_INTERVAL <= len(level) and products < PRODUCTS_A_READING * readings
