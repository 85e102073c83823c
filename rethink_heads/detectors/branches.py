"""A head's branches as the settings describe them, and the readings that its training makes meaningful."""

from __future__ import annotations

from rethink_heads.config import ModelConfig
from rethink_heads.errors import UserError
from rethink_heads.heads import (
    READINGS,
    STRUCTURES,
    BoxHeads,
    ConvHead,
    FCHead,
    TaskWeights,
    kind_of,
)


def build_heads(model: ModelConfig, head: str, classes: int) -> BoxHeads:
    """Untrained branches of a head of ``STRUCTURES`` for K foreground classes, with their losses."""
    structure = STRUCTURES[head]
    branches: dict[str, FCHead | ConvHead] = {}
    for name in structure.branches:
        if kind_of(name) == "fc":
            branches[name] = FCHead(
                classes, model.fpn_channels, model.roi_resolution, model.fc_width
            )
        else:
            branches[name] = ConvHead(
                classes,
                model.fpn_channels,
                model.conv_width,
                model.conv_bottleneck,
                model.conv_blocks,
                model.non_local,
                model.non_local_groups,
            )
    weights = structure.weights(model.l_fc, model.l_conv, model.w_fc, model.w_conv)
    return BoxHeads(branches, weights, model.smooth_l1_beta)


def enlargements(model: ModelConfig) -> dict[str, float]:
    """By branch: the factor by which an RoI grows about its centre before pooling, where there is one."""
    return {"conv": model.conv_enlargement, "conv2": model.conv_enlargement}


def trained_readings(head: str, weights: TaskWeights) -> tuple[str, ...]:
    """The readings whose classifiers and regressor are all trained under the task weights.

    Raises:
        UserError: there is none.
    """
    trained = tuple(
        name
        for name in STRUCTURES[head].readings
        if all(weights.of(branch)[0] for branch in READINGS[name].classifiers)
        and weights.of(READINGS[name].regressor)[1]
    )
    if not trained:
        raise UserError(
            f"with these task weights nothing trains what head {head!r} is read from: give model.l_fc,"
            " model.l_conv, model.w_fc and model.w_conv so that a branch classifies and a branch regresses"
        )
    return trained
