"""The folded backbone against the one it was made from."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.detectors.rcnn.backbone import build_backbone
from rethink_heads.fastpath.conv import fold_norms

NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def backbone_of(name: str, norm: str, conventions: ConventionsConfig | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = ModelConfig(backbone=name, fpn_channels=16, norm=norm, trainable_layers=5)
    if conventions is not None:
        model = model.model_copy(update={"conventions": conventions})
    backbone, _ = build_backbone(model, pretrained=False)
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, NORMS):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return backbone.eval()


@pytest.mark.parametrize(
    ("name", "norm"),
    [("resnet18", "frozen"), ("resnet50", "frozen"), ("resnet50", "batch"), ("tiny", "batch")],
)
def test_folding_leaves_the_features_and_no_normalisation(name, norm):
    backbone = backbone_of(name, norm)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    image = torch.rand(1, 3, 97, 130)
    copied = fold_norms(backbone)
    with torch.inference_mode():
        expected = backbone.double()(image.double())
        found = copied(image)
    assert list(found) == list(expected)
    for level, features in expected.items():
        scale = features.abs().max()
        assert (found[level] - features).abs().max() < 1e-5 * scale, level
    assert not any(isinstance(module, NORMS) for module in copied.modules())
    # The detector's own backbone is as it was.
    for key, value in backbone.float().state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_folding_keeps_a_bottlenecks_stride_in_its_1x1_convolution():
    backbone = backbone_of("resnet50", "frozen", ConventionsConfig(stride_in_1x1=True))
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected, found = backbone(image), fold_norms(backbone)(image)
    for level, features in expected.items():
        torch.testing.assert_close(found[level], features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("given", [{"affine": False}, {"track_running_stats": False}])
def test_norms_without_weights_or_statistics_stay(given):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **given)).eval()
    image = torch.rand(2, 3, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(fold_norms(layers)(image), layers(image), rtol=1e-5, atol=1e-6)
