"""Reduce what a head made of an object's proposals to counts and moments per IoU bin.

Moments (counts, sums, sums of squares and of products) of all proposals are enough for every
mean, standard deviation and correlation of the project, and adding two sets of moments is the same
as measuring both sets of proposals at once. Everything is float64: a bin holds at most some
thousands of values of order one.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from rethink_heads.errors import UserError
from rethink_heads.proposals import IOU_BINS

Array = npt.NDArray[np.float64]
ArrayLike = Any  # a torch tensor on any device, or anything numpy takes

ERRORS = ("dx", "dy", "dw", "dh")
VARIABLES = ("iou", "score", "regressed_iou", *ERRORS)
PRODUCTS = (
    *((v, v) for v in VARIABLES),
    ("iou", "score"),
    ("iou", "regressed_iou"),
    ("score", "regressed_iou"),
)
VALUE_COLUMNS = (
    "n",
    "measured",
    *(f"sum_{v}" for v in VARIABLES),
    *(f"sum_{a}_{b}" for a, b in PRODUCTS),
    *(f"sum_abs_{v}" for v in ERRORS),
)
# Totals whose sampling errors are kept, in groups that statistics combine: of the scores for correlations, means and
# spreads, of the regressed boxes for means and spreads.
SAMPLED_TOTALS = (
    ("iou", "score", "iou_iou", "score_score", "iou_score"),
    ("iou", "regressed_iou", "regressed_iou_regressed_iou"),
)


def covariance_column(a: str, b: str) -> str:
    """Name of the column of the covariance of two totals."""
    return f"cov_{a}__{b}"


SAMPLING_COLUMNS = tuple(
    dict.fromkeys(
        covariance_column(a, b)
        for totals in SAMPLED_TOTALS
        for a, b in itertools.combinations_with_replacement(totals, 2)
    )
)

# A regressed box that is clipped to a sliver of the image has next to no width, and the logarithm
# of its width would drown every other value. The bound is the one of the usual box coder.
SMALLEST_RATIO = 16 / 1000


def proposal_values(
    iou: ArrayLike, score: ArrayLike, regressed_boxes: ArrayLike, object_box: ArrayLike
) -> dict[str, Array]:
    """The VARIABLES of each proposal of one object, for one head.
    Raises UserError where the head gave scores or boxes that are not finite.

    Args:
        iou: (N,) IoU of each proposal with the object.
        score: (N,) probability of the object's class.
        regressed_boxes: (N, 4) regressed box of the object's class, xyxy, px.
        object_box: (4,) the object's box, xyxy, px.

    Returns:
        For each of VARIABLES a float64 array (N,). "dx", "dy": the regressed centre less the
        object's, in units of the object's width and height; "dw", "dh": logarithm of the regressed
        width and height over the object's, whose ratio is held at 0.016 or more.
    """
    boxes = _float64(regressed_boxes).reshape(-1, 4)
    target = _float64(object_box).reshape(4)
    values = {"iou": _float64(iou), "score": _float64(score)}
    wrong = ~(np.isfinite(values["score"]) & np.isfinite(boxes).all(axis=1))
    if wrong.any():
        from rethink_heads.detectors.answers import NOT_FINITE

        raise UserError(
            f"the head gave scores or boxes for {int(wrong.sum())} of {len(wrong)} proposals {NOT_FINITE}"
        )
    size, target_size = boxes[:, 2:] - boxes[:, :2], target[2:] - target[:2]
    values["regressed_iou"] = _iou_with(boxes, target)
    centre_error = ((boxes[:, 2:] + boxes[:, :2]) - (target[2:] + target[:2])) / 2 / target_size
    log_ratio = np.log(np.maximum(size / target_size, SMALLEST_RATIO))
    values["dx"], values["dy"] = centre_error.T
    values["dw"], values["dh"] = log_ratio.T
    return values


def bin_moments(
    values: dict[str, Array], bins: ArrayLike, weights: ArrayLike | None = None
) -> Array:
    """Moments (20, M) of each IoU bin, in the order of VALUE_COLUMNS, of what :func:`proposal_values` gives.

    "n" is the exact number of proposals, "measured" how many went through the head, and each sum is the weighted one,
    an unbiased estimate of the sum over all proposals.

    Args:
        values: (N,) per variable of VARIABLES.
        bins: (N,) IoU bin of each proposal, 0..19.
        weights: (N,) how many proposals of its bin each row stands for, N_b / n_b when n_b of the
            N_b proposals of bin b were measured; None: one each.
    """
    index = _float64(bins).astype(np.int64)
    weight = None if weights is None else _float64(weights)

    def total(column: Array | None) -> Array:
        if weight is not None:
            column = weight if column is None else column * weight
        return np.bincount(index, column, IOU_BINS).astype(np.float64)

    # Weights N_b / n_b add up to a whole number but for rounding.
    columns = [np.rint(total(None)), np.bincount(index, minlength=IOU_BINS).astype(np.float64)]
    columns += [total(values[variable]) for variable in VARIABLES]
    columns += [total(values[first] * values[second]) for first, second in PRODUCTS]
    columns += [total(np.abs(values[variable])) for variable in ERRORS]
    return np.stack(columns, axis=-1)


def bin_covariances(values: dict[str, Array], bins: ArrayLike, weights: ArrayLike) -> Array:
    """How far the weighted sums of :func:`bin_moments` may be from those over all proposals.

    The proposals of each bin were drawn without replacement, bin by bin (Cochran, Sampling Techniques, 3rd edition,
    theorem 2.2 and chapter 5): the weighted sums of a and b over n of N proposals have the estimated covariance
    N^2 (1 / n - 1 / N) s_ab, with s_ab the covariance (divided by n - 1) of a and b among those measured.

    Args:
        values, bins: as of :func:`bin_moments`.
        weights: (n,) how many proposals of its bin each row stands for.

    Returns:
        (20, C) in the order of SAMPLING_COLUMNS, ``cov_a__b`` being the covariance of the sums over a and b: 0 for a
        bin that was measured whole, nan where one proposal stands for several.
    """
    index = _float64(bins).astype(np.int64)
    n = np.bincount(index, minlength=IOU_BINS).astype(np.float64)
    population = np.rint(np.bincount(index, _float64(weights), IOU_BINS))
    drawn = (n > 0) & (n < population)
    columns: dict[str, Array] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = population**2 * (1 / n - 1 / population) / (n - 1)
        centred = {}
        for name in dict.fromkeys(itertools.chain(*SAMPLED_TOTALS)):
            column = _total_of(values, name)
            centred[name] = column - (np.bincount(index, column, IOU_BINS) / n)[index]
        for totals in SAMPLED_TOTALS:
            for a, b in itertools.combinations_with_replacement(totals, 2):
                product = np.bincount(index, centred[a] * centred[b], IOU_BINS)
                known = np.where(n > 1, factor * product, np.nan)
                columns[covariance_column(a, b)] = np.where(drawn, known, 0.0)
    return np.stack([columns[name] for name in SAMPLING_COLUMNS], axis=-1)


def _total_of(values: dict[str, Array], name: str) -> Array:
    """What is added up to the total of a name: a variable, or the product of two."""
    if name in values:
        return values[name]
    first, second = next((a, b) for a, b in PRODUCTS if f"{a}_{b}" == name)
    return values[first] * values[second]


def _iou_with(boxes: Array, target: Array) -> Array:
    """IoU (N,) of boxes (N, 4) with one box (4,). A box without extent has IoU 0."""
    overlap = np.minimum(boxes[:, 2:], target[2:]) - np.maximum(boxes[:, :2], target[:2])
    intersection = np.prod(np.maximum(overlap, 0), axis=1)
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    union = area + np.prod(target[2:] - target[:2]) - intersection
    return np.asarray(intersection / union)


def _float64(values: ArrayLike) -> Array:
    if hasattr(values, "detach"):
        # A tensor, turned by torch, because numpy lacks bfloat16.
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
