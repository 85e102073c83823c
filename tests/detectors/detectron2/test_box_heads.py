"""Our heads' layers as box heads of detectron2's own RoI heads, against loops in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.utils.events import EventStorage
from torch import nn

from rethink_heads.detectors.box_heads import parts_of
from tests.detectors.detectron2.small_detectors import batch, small_model
from tests.heads import reference

Reference = Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]
BLOCKS, GROUPS = 2, 2


def with_box_head(name: str) -> nn.Module:
    """A small detector whose head's normalisations have statistics and weights of their own."""
    model = small_model(
        "fc",
        MODEL__ROI_HEADS__NAME="StandardROIHeads",
        MODEL__ROI_BOX_HEAD__NAME=name,
        MODEL__RETHINK_HEADS__CONV_BLOCKS=BLOCKS,
        MODEL__RETHINK_HEADS__NON_LOCAL=True,
        MODEL__RETHINK_HEADS__NON_LOCAL_GROUPS=GROUPS,
    )
    generator = torch.Generator().manual_seed(2)
    for norm in model.roi_heads.box_head.modules():
        if isinstance(norm, nn.BatchNorm2d):
            # A non-local block begins with weights of 0 here, as the identity.
            for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
                values.uniform_(0.5, 1.5, generator=generator)
    return model


def fc_reference(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    hidden = reference.relu(reference.linear(x.reshape(len(x), -1), weights, "fc6"))
    return reference.relu(reference.linear(hidden, weights, "fc7"))


def conv_reference(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    x = reference.residual_block(x, weights, "blocks.0")
    for block in range(BLOCKS):
        x = reference.non_local(x, weights, f"blocks.{1 + 2 * block}", GROUPS)
        x = reference.bottleneck(x, weights, f"blocks.{2 + 2 * block}")
    return x.mean(axis=(2, 3))


@pytest.mark.parametrize(
    ("name", "kind", "expected_of"),
    [("RethinkFCHead", "fc", fc_reference), ("RethinkConvHead", "conv", conv_reference)],
)
def test_features_are_those_of_the_reference(name: str, kind: str, expected_of: Reference) -> None:
    head = with_box_head(name).roi_heads.box_head.eval()
    assert parts_of(head).kind == kind
    features = torch.rand(2, 16, 7, 7, generator=torch.Generator().manual_seed(1))
    expected = expected_of(features.double().numpy(), reference.arrays(head))
    assert expected.std() > 0
    with torch.inference_mode():
        found = head(features).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["RethinkFCHead", "RethinkConvHead"])
def test_detectron2s_roi_heads_train_them(name: str) -> None:
    model = with_box_head(name).train()
    with EventStorage():
        losses = model(batch())
    assert set(losses) >= {"loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    head = model.roi_heads.box_head
    assert all(p.grad is not None for p in head.parameters())
