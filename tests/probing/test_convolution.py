"""3x3 convolutions frequency by frequency against torch's own convolution in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from rethink_heads.probing import convolution, products
from rethink_heads.probing.convolution import Convolution, transforms
from rethink_heads.probing.products import product, product_of_blocks, products_by_place

# Largest difference from float64, of the root mean square of all outputs.
ERRORS = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 0.04}


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 products as on an Intel processor and as on another one."""
    monkeypatch.setattr(products, "mkl_is_slow", lambda: request.param)


def expected_of(x: Tensor, weight: Tensor, bias: Tensor, side: int) -> Tensor:
    maps = x.double().view(-1, side, side, x.shape[1]).permute(0, 3, 1, 2)
    found = F.conv2d(maps, weight, bias, padding=1).relu()
    return found.permute(0, 2, 3, 1).reshape(len(x), -1)


@given(
    side=st.integers(1, 9),
    count=st.integers(0, 3),
    channels=st.integers(1, 5),
    outputs=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_transforms_make_a_convolution_of_products(
    side: int, count: int, channels: int, outputs: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count * side**2, channels, dtype=torch.float64, generator=generator)
    weight = torch.randn(outputs, channels, 3, 3, dtype=torch.float64, generator=generator)
    into, of_kernel, back = transforms(side)
    by_frequency = torch.einsum("ft,oct->fco", of_kernel, weight.flatten(2))
    maps = x.view(count, side**2, channels)
    multiplied = torch.einsum("fs,nsc,fco->nfo", into, maps, by_frequency)
    found = torch.einsum("sf,nfo->nso", back, multiplied)
    as_images = x.view(count, side, side, channels).permute(0, 3, 1, 2)
    expected = F.conv2d(as_images, weight, padding=1).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_products_of_the_papers_maps() -> None:
    into, _, back = transforms(7)
    assert into.shape == (94, 49)
    assert back.shape == (49, 94)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", list(ERRORS), ids=str)
@pytest.mark.parametrize("side", [1, 3, 6, 7, 14])
def test_convolution_with_bias_and_relu(dtype: torch.dtype, side: int) -> None:
    generator = torch.Generator().manual_seed(side)
    weight = torch.randn(96, 128, 3, 3, dtype=torch.float64, generator=generator)
    bias = torch.randn(96, dtype=torch.float64, generator=generator) * 20
    x = torch.randn(5 * side**2, 128, dtype=torch.float64, generator=generator).relu()
    layer = Convolution(weight, bias.to(dtype).double(), side, dtype)
    expected = expected_of(x, weight, bias.to(dtype).double(), side)
    found = layer(x.to(dtype))
    assert found.dtype == dtype
    bound = ERRORS[dtype] * float(expected.square().mean().sqrt())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound)
    if side in (3, 7):
        assert layer.frequencies > 0
    elif dtype == torch.bfloat16 and side > 1:
        # It does not hold these transforms' factors.
        assert layer.frequencies == 0


def test_float32_is_nearer_to_the_truth_than_the_plain_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, 3, 3, dtype=torch.float64, generator=generator) / 48
    bias = torch.zeros(256, dtype=torch.float64)
    x = torch.randn(4 * 49, 256, dtype=torch.float64, generator=generator).relu()
    expected = expected_of(x, weight, bias, 7)
    plain = expected_of_type(x.float(), weight.float(), bias.float())
    found = Convolution(weight, bias, 7, torch.float32)(x.float())
    assert (found - expected).square().mean() < 2 * (plain - expected).square().mean()


def expected_of_type(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    maps = x.view(-1, 7, 7, x.shape[1]).permute(0, 3, 1, 2)
    return F.conv2d(maps, weight, bias, padding=1).relu().permute(0, 2, 3, 1).reshape(len(x), -1)


def test_few_channels_and_other_devices_are_left_to_the_plain_convolution() -> None:
    weight, bias = torch.zeros(16, 16, 3, 3, dtype=torch.float64), torch.zeros(16)
    assert Convolution(weight, bias, 7, torch.float32).frequencies == 0
    wide = torch.zeros(256, 256, 3, 3, dtype=torch.float64, device="meta")
    assert not convolution._pays(wide, 7, torch.float32)


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
    of_block = torch.randn(outputs, places**2 * channels, generator=generator)
    expected = block.flatten(1).double() @ of_block.double().t()
    torch.testing.assert_close(product_of_blocks(block, of_block).double(), expected, **close)
    x = torch.randn(count, places, channels, generator=generator)
    matrices = torch.randn(places, outputs, channels, generator=generator)
    expected = torch.einsum("npc,poc->npo", x.double(), matrices.double())
    torch.testing.assert_close(products_by_place(x, matrices).double(), expected, **close)
