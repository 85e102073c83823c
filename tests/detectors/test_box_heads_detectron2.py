from __future__ import annotations

import pytest
import torch

from rethink_heads.detectors.box_heads import parts_of

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead


@pytest.mark.parametrize(
    ("conv_dims", "fc_dims", "kind"),
    [([], [6, 6], "fc"), ([5, 5], [], "conv"), ([5, 5], [6], "conv-fc")],
)
def test_detectron2_head_is_a_sequence(conv_dims: list[int], fc_dims: list[int], kind: str) -> None:
    torch.manual_seed(0)
    shape = ShapeSpec(channels=4, height=3, width=3)
    head = FastRCNNConvFCHead(shape, conv_dims=conv_dims, fc_dims=fc_dims).eval()
    parts = parts_of(head, (3, 3))
    assert parts.kind == kind
    features = torch.randn(2, 4, 3, 3)
    maps = parts.output_maps(features)
    after = features
    for layer in head.conv_norm_relus:
        after = layer(after)
    if conv_dims:
        torch.testing.assert_close(maps["conv"], after)
    if fc_dims:
        first = head.fcs[0]
        torch.testing.assert_close(
            maps["fc"].sum((2, 3)) + first.bias, first(after.flatten(1)), rtol=1e-4, atol=1e-6
        )
    assert set(maps) == set(kind.split("-"))
