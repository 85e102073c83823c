"""3x3 convolutions frequency by frequency and folded normalisations, against torch's own in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from rethink_heads.config import ConventionsConfig, ModelConfig
from rethink_heads.detectors.rcnn.backbone import build_backbone
from rethink_heads.fastpath import fc
from rethink_heads.fastpath.conv import Convolution, fold_norms
from rethink_heads.fastpath.fc import (
    product,
    product_of_blocks,
    products_by_place,
)

# Largest difference from float64, of the root mean square of all outputs.
ERRORS = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 0.04}


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 products as on an Intel processor and as on another one."""
    monkeypatch.setattr(fc, "mkl_is_slow", lambda: request.param)


def plain(x: Tensor, weight: Tensor, bias: Tensor, side: int) -> Tensor:
    """torch's own convolution of maps (N * S * S, C), in their type."""
    maps = x.view(-1, side, side, x.shape[1]).permute(0, 3, 1, 2)
    found = F.conv2d(maps, weight, bias, padding=1).relu()
    return found.permute(0, 2, 3, 1).reshape(len(x), -1)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", list(ERRORS), ids=str)
@pytest.mark.parametrize("side", [1, 3, 6, 7, 14])
def test_convolution_with_bias_and_relu(dtype: torch.dtype, side: int) -> None:
    generator = torch.Generator().manual_seed(side)
    weight = torch.randn(96, 128, 3, 3, dtype=torch.float64, generator=generator)
    bias = torch.randn(96, dtype=torch.float64, generator=generator) * 20
    x = torch.randn(5 * side**2, 128, dtype=torch.float64, generator=generator).relu()
    layer = Convolution(weight, bias.to(dtype).double(), side, dtype)
    expected = plain(x, weight, bias.to(dtype).double(), side)
    found = layer(x.to(dtype))
    assert found.dtype == dtype
    bound = ERRORS[dtype] * float(expected.square().mean().sqrt())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound)
    if side in (3, 7):
        assert layer.by_frequency is not None
    elif dtype == torch.bfloat16 and side > 1:
        # It does not hold these transforms' factors.
        assert layer.by_frequency is None


def test_few_channels_are_left_to_the_plain_convolution() -> None:
    weight, bias = torch.zeros(16, 16, 3, 3, dtype=torch.float64), torch.zeros(16)
    assert Convolution(weight, bias, 7, torch.float32).by_frequency is None


@pytest.mark.usefixtures("library")
@given(
    count=st.integers(0, 70),
    channels=st.integers(1, 20),
    outputs=st.integers(1, 20),
    places=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_products(count: int, channels: int, outputs: int, places: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, channels, generator=generator)
    weight = torch.randn(outputs, channels, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    close = {"rtol": 0, "atol": 1e-4}
    expected = x.double() @ weight.double().t()
    torch.testing.assert_close(product(x, weight).double(), expected, **close)
    torch.testing.assert_close(product(x, weight, bias).double(), expected + bias, **close)
    block = torch.randn(count, places, places, channels, generator=generator)
    weights = torch.randn(outputs, places**2 * channels, generator=generator)
    expected = block.flatten(1).double() @ weights.double().t()
    torch.testing.assert_close(product_of_blocks(block, weights).double(), expected, **close)
    x = torch.randn(count, places, channels, generator=generator)
    matrices = torch.randn(places, outputs, channels, generator=generator)
    expected = torch.einsum("npc,poc->npo", x.double(), matrices.double())
    torch.testing.assert_close(products_by_place(x, matrices).double(), expected, **close)


@pytest.mark.parametrize(
    ("text", "slow"),
    [
        ("vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n", True),
        ("vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)\n", False),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", False),
        (None, False),
    ],
)
def test_where_mkl_is_slow(
    text: str | None, slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        pytest.skip("this torch has no MKL, or no oneDNN, to choose between")
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(fc, "PROCESSORS", path)
    assert fc.mkl_is_slow.__wrapped__() == slow


NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def backbone_of(name: str, norm: str, conventions: ConventionsConfig | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = ModelConfig(backbone=name, fpn_channels=16, norm=norm, trainable_layers=5)
    if conventions is not None:
        model = model.model_copy(update={"conventions": conventions})
    backbone, _ = build_backbone(model, pretrained=False)
    for module in backbone.modules():
        if isinstance(module, NORMS):
            randomise(module)
    return backbone.eval()


@torch.no_grad()
def randomise(norm: nn.Module) -> None:
    """Random weights and statistics, timm's kinds of normalisation included."""
    norm.running_mean.normal_(0, 0.2)
    norm.running_var.uniform_(0.5, 2)
    norm.weight.uniform_(0.5, 1.5)
    norm.bias.normal_(0, 0.2)


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


class Shared(nn.Module):
    """A convolution whose normalisation is not all that takes what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Again(nn.Module):
    """A convolution before two normalisations, as heads have that are shared by levels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = norm(self.conv(x))
        return x


class Standardised(nn.Conv2d):
    """A convolution that brings its weights to a spread of one, whatever they are."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight.std(), self.bias)


@pytest.mark.parametrize(
    "layers",
    [
        Shared(),
        Again(),
        nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
    ],
    ids=["shared", "again", "standardised", "before"],
)
def test_normalisation_that_no_convolution_can_take_stays(layers: nn.Module) -> None:
    torch.manual_seed(0)
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomise(module)
    norms = sum(isinstance(module, NORMS) for module in layers.modules())
    image, copied = torch.rand(2, 3, 9, 9), fold_norms(layers)
    with torch.no_grad():
        torch.testing.assert_close(copied(image), layers.eval()(image), rtol=1e-5, atol=1e-6)
    assert sum(isinstance(module, NORMS) for module in copied.modules()) == norms
