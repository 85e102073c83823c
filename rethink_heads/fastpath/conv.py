"""A conv-head on many proposals of one object, block by block, and a backbone without its batch normalisation.

Maps lie with their channels last, (N * S * S, channels), so that 1x1 convolutions are products. Batch normalisation is
folded into the convolutions before it, in float64, so that only one rounding is added.

In bfloat16 a rounded bias is off by the same amount in every RoI, where rounded sums are off by chance: of all that is
rounded it changed correlations most. So each channel is scaled by a factor that makes its biases numbers of the type,
which ReLU lets through, and the layers after it are divided by it.

A 3x3 convolution of small maps is a product frequency by frequency: a fifth of the multiplications. A map of S x S
cells convolved with a 3x3 kernel, zeros around it, is a cyclic convolution of length S + 1 along each axis: of the
S + 2 places that it reaches only the first and the last fall on each other, and neither is asked for. The discrete
Fourier transform makes it a product at each frequency. Of the (S + 1)^2 frequencies of real maps half are the others'
conjugates, and a complex product is three real ones (Karatsuba and Ofman, Multiplication of Multidigit Numbers on
Automata, 1963): for S = 7 these are 94 products of a map's channels instead of 441. The transform is orthogonal up to
a factor, so that rounding does not grow as it does with Winograd's: in float32 the result is about as near to
float64's as the plain convolution's. For S = 7 its factors are 0, 1 and roots of 2 and 1/2, which bfloat16 holds to
1e-4.
"""

from __future__ import annotations

import copy
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.profiler import record_function
from torchvision.ops import FrozenBatchNorm2d

from rethink_heads.fastpath.fc import by_convolution, product, products_by_place
from rethink_heads.fastpath.pooling import POOLED_AT_ONCE, LevelRoIs
from rethink_heads.heads import Bottleneck, ConvHead, NonLocal, ResidualBlock

Step = Callable[[Tensor], Tensor]
"""(N * S * S, channels) to the same shape with the channels of the block's output."""

Norm: TypeAlias = nn.BatchNorm2d | FrozenBatchNorm2d
TRIAL_SIZE = (96, 128)
"""(height, width) of the image that shows which convolutions a backbone's normalisations follow."""
TOLERANCE = 1e-3
"""By which rounding may change features, in parts of the largest; of random weights it did by 1e-6 to 1e-4."""
# Factors from 1 to 2 that are tried: one bias gets as many times nearer, two its root.
FACTORS = 1024
EXACT = (torch.float32, torch.float64)
# On two cores 64 to 128 RoIs took the same time within 10%, more of them longer: their maps leave the cache. Those of
# non-local blocks do so earlier.
MOST_ON_CPU, MOST_ON_CPU_NON_LOCAL = 128, 64
# Maps of the head's width that are held at once: a block's output and what the next makes of it; and what a 3x3
# convolution makes of a quarter of the width, transformed and multiplied.
MAPS_AT_ONCE = 4
MAPS_OF_NON_LOCAL = 1
KERNEL = 3
# Time of a multiplication in the products and in the transforms, in multiplications of the plain convolution. Measured
# on two cores at 256 channels of 7 x 7 cells: 1.4 to 2 and 1.5 to 3, the more in float32.
PRODUCT_COST, TRANSFORM_COST = 2.0, 3.0
# Of the transforms' factors in bfloat16.
LARGEST_ERROR = 2.0**-12


class FastConv:
    """The blocks of a conv-head and the average over the RoI; ``FastFC`` has the same methods and attributes.

    Attributes:
        pooled_dtype: of the RoI features that it takes, and of pooling them.
        hidden_dtype: of the hidden features that it gives.
        width: their length.

    Args:
        head: in evaluation mode; its weights are copied.
        resolution: side S of the RoI features.
        dtype: of the blocks' arithmetic. A CPU's products and convolutions keep their sums in float32 either way, and
            pooling and averaging are in float32, since bfloat16 would round what they are about.
    """

    def __init__(self, head: ConvHead, resolution: int, dtype: torch.dtype) -> None:
        self.dtype, self.positions = dtype, resolution**2
        self.pooled_dtype = self.hidden_dtype = dtype if dtype in EXACT else torch.float32
        self.width = head.predictor.cls_score.in_features
        self.channels = int(next(head.blocks.parameters()).shape[1])
        self.steps, factors = fast_blocks(head.blocks, resolution, dtype)
        self.shares = (1 / factors / self.positions).to(self.hidden_dtype)
        non_local = any(isinstance(step, FastNonLocal) for step in self.steps)
        self.maps = MAPS_AT_ONCE + (MAPS_OF_NON_LOCAL if non_local else 0)
        self.most_on_cpu = MOST_ON_CPU_NON_LOCAL if non_local else MOST_ON_CPU

    def batch_size(self, device: torch.device, memory: int) -> int:
        """RoIs to take at once where ``memory`` bytes may be held."""
        pooled = POOLED_AT_ONCE * self.channels * self.pooled_dtype.itemsize
        maps = self.maps * self.width * self.dtype.itemsize
        fits = memory // ((pooled + maps) * self.positions)
        return int(max(1, min(fits, self.most_on_cpu) if device.type == "cpu" else fits))

    def from_level(self, level: LevelRoIs, memory: int) -> Tensor | None:
        """None: the hidden maps are as many as the RoIs' positions however the first block is computed.

        Its 3x3 convolution and its shortcut are linear and could be pooled by factors like fc6. On two cores that was
        15% quicker in float32, slower in bfloat16, and held half a gigabyte more: not worth its code.
        """
        return None

    def from_features(self, pooled: Tensor) -> Tensor:
        """Maps RoI features (N, S, S, C) to (N, width)."""
        with record_function("convolutions"):
            count, x = len(pooled), pooled.to(self.dtype).flatten(0, 2)
            for step in self.steps:
                x = step(x)
            maps = x.view(count, self.positions, self.width)
            return maps.sum(dim=1, dtype=self.hidden_dtype) * self.shares


class Affine(NamedTuple):
    """A convolution's weight (O, C, ...) and bias (O,), float64."""

    weight: Tensor
    bias: Tensor

    def scaled(self, outputs: Tensor, inputs: Tensor | None = None) -> Affine:
        """The same for outputs that are larger by factors (O,) and inputs that are by factors (C,)."""
        trailing = (1,) * (self.weight.dim() - 2)
        weight = self.weight * outputs.view(-1, 1, *trailing)
        if inputs is not None:
            weight = weight / inputs.view(1, -1, *trailing)
        return Affine(weight, self.bias * outputs)

    def to(self, dtype: torch.dtype) -> Affine:
        """A 1x1 convolution as the matrix (O, C) and the bias of a product, in a type."""
        return Affine(self.weight.flatten(1).to(dtype).contiguous(), self.bias.to(dtype))


def fast_blocks(
    blocks: Iterable[nn.Module], resolution: int, dtype: torch.dtype
) -> tuple[list[Step], Tensor]:
    """The blocks of a conv-head one after another, their weights copied in ``dtype``.

    Returns:
        The steps, and factors (channels,) float64 by which the last one's output is too large.
    """
    blocks = list(blocks)
    factors = factors_for(dtype, *(_last(block).bias for block in blocks))
    kinds: dict[type, Callable[..., Step]] = {
        ResidualBlock: FastResidualBlock,
        Bottleneck: FastBottleneck,
        NonLocal: FastNonLocal,
    }
    steps = [kinds[type(block)](block, factors, resolution, dtype) for block in blocks]
    return steps, factors


class FastResidualBlock:
    """The first block: 3x3 then 1x1 on the main path, 1x1 on the shortcut."""

    def __init__(
        self, block: ResidualBlock, factors: Tensor, resolution: int, dtype: torch.dtype
    ) -> None:
        expand = _folded(block.expand)
        inner = factors_for(dtype, expand.bias)
        self.expand = Convolution(*expand.scaled(inner), resolution, dtype)
        self.project = _folded(block.project).scaled(factors, inner).to(dtype).weight
        self.shortcut = _folded(block.shortcut).scaled(factors).to(dtype).weight
        self.bias = (_last(block).bias * factors).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        main = self.expand(x)
        return _add_product(product(x, self.shortcut, self.bias), main, self.project).relu_()


class FastBottleneck:
    """A bottleneck. It works in place of its input."""

    def __init__(
        self, block: Bottleneck, factors: Tensor, resolution: int, dtype: torch.dtype
    ) -> None:
        reduce, spatial, restore = (
            _folded(each) for each in (block.reduce, block.spatial, block.restore)
        )
        first, second = (factors_for(dtype, each.bias) for each in (reduce, spatial))
        self.reduce = reduce.scaled(first, factors).to(dtype)
        self.spatial = Convolution(*spatial.scaled(second, first), resolution, dtype)
        self.restore = restore.scaled(factors, second).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        main = self.spatial(product(x, *self.reduce).relu_())
        # In place: the block's input is not needed again.
        return _add_product(x.add_(self.restore.bias), main, self.restore.weight).relu_()


class FastNonLocal:
    """A non-local block, a group after another. It works in place of its input."""

    def __init__(
        self, block: NonLocal, factors: Tensor, resolution: int, dtype: torch.dtype
    ) -> None:
        self.width, self.positions = block.inner // block.groups, resolution**2
        # The affinities' division by the number of positions is theta's.
        shares = (1 / self.positions, 1.0, 1.0)
        layers = [
            Affine(conv.weight.detach().double() * share, conv.bias.detach().double() * share)
            for conv, share in zip((block.theta, block.phi, block.g), shares, strict=True)
            if conv.bias is not None
        ]
        same = torch.ones(self.width, dtype=torch.float64, device=factors.device)
        self.groups = [
            [
                Affine(layer.weight[rows], layer.bias[rows]).scaled(same, factors).to(dtype)
                for layer in layers
            ]
            for rows in torch.arange(block.inner, device=factors.device).split(self.width)
        ]
        self.out = _folded(block.out).scaled(factors).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        count, inner = len(x) // self.positions, self.width * len(self.groups)
        gathered = x.new_empty((count, self.positions, inner))
        for into, layers in zip(gathered.split(self.width, dim=2), self.groups, strict=True):
            theta, phi, g = (
                product(x, *layer).view(count, self.positions, self.width) for layer in layers
            )
            into.copy_(torch.bmm(torch.bmm(theta, phi.transpose(1, 2)), g))
        gathered = gathered.view(-1, inner)
        return _add_product(x.add_(self.out.bias), gathered, self.out.weight).relu_()


def factors_for(dtype: torch.dtype, *biases: Tensor) -> Tensor:
    """Factors (O,) from 1 to 2 under which biases (O,) are nearest to numbers of a type; 1 where types are exact."""
    if dtype in EXACT:
        return torch.ones_like(biases[0])
    stacked = torch.stack(biases)
    tried = 1 + torch.arange(FACTORS, dtype=torch.float64, device=stacked.device) / FACTORS
    scaled = stacked * tried[:, None, None]
    # Of the numbers before they were scaled, so that none of the factors is favoured by its size.
    errors = (scaled.to(dtype).double() - scaled) / tried[:, None, None]
    return tried[(errors**2).sum(dim=1).argmin(dim=0)]


def _add_product(x: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """Add to ``x`` (N, O) the product of (N, C) and weights (O, C)."""
    if by_convolution(x):
        return x.add_(product(inputs, weight))
    return x.addmm_(inputs, weight.t())


def _last(block: Any) -> Affine:
    """The layer whose output a block gives on: its bias is all that is added to the channels."""
    if isinstance(block, ResidualBlock):
        project, shortcut = _folded(block.project), _folded(block.shortcut)
        return Affine(project.weight, project.bias + shortcut.bias)
    return _folded(block.restore if isinstance(block, Bottleneck) else block.out)


def _folded(conv_bn: Any) -> Affine:
    """A convolution with the batch normalisation after it."""
    conv, norm = conv_bn
    return fold_norm(conv, norm)


def fold_norm(conv: nn.Conv2d, norm: Norm) -> Affine:
    """A convolution with the normalisation after it, whose running statistics are there."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight.detach().double(),
        None if conv.bias is None else conv.bias.detach().double(),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        None if norm.weight is None else norm.weight.detach().double(),
        None if norm.bias is None else norm.bias.detach().double(),
    )
    return Affine(weight.detach(), bias.detach())


def fold_norms(backbone: nn.Module) -> nn.Module:
    """Copy a backbone without its batch normalisation, channels last: the same features up to rounding, when evaluated.

    An image of noise shows which convolution gives a normalisation its input. The two become one where the result is
    the same, which leaves out convolutions that do more (timm's may standardise their weights); what a normalisation
    does beside (timm's drop and activate) are its children, which stay. At 800 x 1088 pixels ResNet-50 with FPN took
    1.3 s on two cores instead of 1.9.
    """
    plain = copy.deepcopy(backbone).eval().requires_grad_(False)
    device = next(plain.parameters()).device
    # A GPU's convolutions may round to ten bits.
    plain.cpu()
    folded = copy.deepcopy(plain)
    image = torch.randn((1, 3, *TRIAL_SIZE), generator=torch.Generator().manual_seed(0))
    # Weights that inference mode makes could not be used outside it.
    with torch.inference_mode(False), torch.no_grad():
        names = {module: name for name, module in folded.named_modules()}
        for conv, norm, merged in _foldable(folded, image):
            _set_weights(conv, merged)
            parent, _, child = names[norm].rpartition(".")
            setattr(folded.get_submodule(parent), child, nn.Sequential(*norm.children()))
        pairs = zip(_tensors(plain(image)), _tensors(folded(image)), strict=True)
        # What a convolution gives may go elsewhere too.
        same = all(_close(found, expected) for expected, found in pairs)
    return channels_last((folded if same else plain).to(device))


def channels_last(module: nn.Module) -> nn.Module:
    """Lay a module's kernels out with their channels last. ``Module.to`` would fail on those of 3D convolutions."""
    for value in (*module.parameters(), *module.buffers()):
        if value.dim() == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return module


def _foldable(network: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, Any, Affine]]:
    """Convolutions, the normalisations that take what they give, and both in one, of those used once for an image."""
    given: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
    seen: list[tuple[nn.Conv2d, Any, Tensor, Tensor]] = []
    calls: Counter[nn.Module] = Counter()

    def watch(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            given.append((module, inputs[0], output))
        else:
            # What follows may change them in place.
            seen.extend(
                (conv, module, x.clone(), output.clone()) for conv, x, y in given if y is inputs[0]
            )

    hooks = [
        module.register_forward_hook(watch)
        for module in network.modules()
        # One with hooks of its own is read by others, as it is.
        if (isinstance(module, nn.Conv2d) or _is_norm(module)) and not module._forward_hooks
    ]
    network(image)
    for hook in hooks:
        hook.remove()
    found = []
    for conv, norm, x, expected in seen:
        merged, trial = fold_norm(conv, norm), copy.deepcopy(conv)
        _set_weights(trial, merged)
        alone = calls[conv] == calls[norm] == 1
        if alone and _close(nn.Sequential(trial, *norm.children())(x), expected):
            found.append((conv, norm, merged))
    return found


def _set_weights(conv: nn.Conv2d, merged: Affine) -> None:
    conv.weight = nn.Parameter(merged.weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(merged.bias.to(conv.weight.dtype), requires_grad=False)


def _is_norm(module: Any) -> bool:
    """Whether a module normalises by statistics and weights of its own, timm's kinds among them."""
    names = ("running_mean", "running_var", "weight", "bias")
    return all(isinstance(getattr(module, name, None), Tensor) for name in names)


def _tensors(features: Mapping[str, Tensor] | Tensor) -> list[Tensor]:
    return list(features.values()) if isinstance(features, Mapping) else [features]


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two are the same up to rounding."""
    largest = float(expected.abs().max())
    return torch.allclose(found, expected, rtol=0, atol=TOLERANCE * largest)


class Convolution:
    """A 3x3 convolution with its bias and ReLU, on maps (N * S * S, C) whose channels are last.

    Args:
        weight: (O, C, 3, 3) float64.
        bias: (O,) float64.
        resolution: S.
        dtype: of the arithmetic. A CPU's products and convolutions keep their sums in float32 or wider.
    """

    def __init__(self, weight: Tensor, bias: Tensor, resolution: int, dtype: torch.dtype) -> None:
        self.resolution = resolution
        self.bias = bias.to(dtype)
        self.by_frequency: Tensor | None = None
        if _pays(weight, resolution, dtype):
            into, kernel, back = (each.to(weight.device) for each in transforms(resolution))
            spectrum = torch.einsum("ft,oct->foc", kernel, weight.flatten(2))
            self.by_frequency = spectrum.to(dtype).contiguous()
            self.into, self.back = into.to(dtype), back.to(dtype)
        else:
            plain = weight.to(dtype)
            self.weight = plain.contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor) -> Tensor:
        """Maps (N * S * S, C) to (N * S * S, O)."""
        side, channels = self.resolution, x.shape[1]
        if self.by_frequency is None:
            maps = x.view(-1, side, side, channels).permute(0, 3, 1, 2)
            found = F.conv2d(maps, self.weight, self.bias, padding=KERNEL // 2).relu_()
            return found.permute(0, 2, 3, 1).reshape(len(x), -1)
        positions = side**2
        transformed = torch.matmul(self.into, x.view(-1, positions, channels))
        multiplied = products_by_place(transformed, self.by_frequency)
        count, _, outputs = multiplied.shape
        # The bias is in the product's own sum.
        found = torch.baddbmm(
            self.bias.expand(count, positions, outputs),
            self.back.expand(count, -1, -1),
            multiplied,
        )
        return found.relu_().view(-1, outputs)


@functools.cache
def transforms(resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """What makes a 3x3 convolution of S x S cells, zeros around them, into F products.

    Returns:
        Three float64 matrices: of the map into the frequencies (F, S * S), of the kernel (F, 9), and back (S * S, F).
        Of each complex frequency there are three rows, after those of the real ones.
    """
    length = resolution + 1
    real, one_of_pair = _frequencies(length)
    cells = [(y, x) for y in range(resolution) for x in range(resolution)]
    # What torch calls a convolution reads ahead: the kernel lies the other way round.
    taps = [(1 - y, 1 - x) for y in range(KERNEL) for x in range(KERNEL)]
    (map_real, _), (cos, sin) = (_waves(each, cells, length) for each in (real, one_of_pair))
    (kernel_real, _), (a, b) = (_waves(each, taps, length) for each in (real, one_of_pair))
    both = _whole(cos + sin)
    # (x + iy)(a + ib): a (x + y) - y (a + b) is real, a (x + y) + x (b - a) imaginary.
    into = torch.cat([map_real, both, cos, sin])
    kernel = torch.cat([kernel_real, a, b - a, a + b])
    # Real part times cosine and imaginary part times sine, for both of a pair.
    back = torch.cat([map_real, 2 * both, 2 * sin, -2 * cos]) / length**2
    return into, kernel, back.t().contiguous()


def _frequencies(length: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs (k, m): those that are their own conjugates, and one of each two that are each other's."""
    real, one_of_pair = [], []
    for k in range(length):
        for m in range(length):
            conjugate = (-k % length, -m % length)
            if conjugate == (k, m):
                real.append((k, m))
            elif (k, m) < conjugate:
                one_of_pair.append((k, m))
    return real, one_of_pair


def _waves(
    frequencies: list[tuple[int, int]], places: list[tuple[int, int]], length: int
) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts of exp(-2 pi i (k y + m x) / length), each (frequencies, places)."""
    # Whole turns are left out first, so that quarters of a turn come out as they are.
    turns = [[(k * y + m * x) % length for y, x in places] for k, m in frequencies]
    angle = torch.tensor(turns, dtype=torch.float64).view(-1, len(places)) * (2 * math.pi / length)
    return _whole(angle.cos()), _whole(-angle.sin())


def _whole(values: Tensor) -> Tensor:
    """Cosines and sines without the rounding error of those that are 0 or 1."""
    rounded = values.round()
    return torch.where((values - rounded).abs() < 1e-12, rounded, values)


def _pays(weight: Tensor, resolution: int, dtype: torch.dtype) -> bool:
    """Whether the products are less work than the convolution, and no less exact. Measured on CPUs alone."""
    if weight.device.type != "cpu":
        return False
    into, _, back = transforms(resolution)
    if dtype == torch.bfloat16 and max(_error(into, dtype), _error(back, dtype)) > LARGEST_ERROR:
        return False
    outputs, channels = weight.shape[:2]
    products = PRODUCT_COST * channels * outputs
    transforming = TRANSFORM_COST * resolution**2 * (channels + outputs)
    plain = resolution**2 * KERNEL**2 * channels * outputs
    return len(into) * (products + transforming) < plain


def _error(matrix: Tensor, dtype: torch.dtype) -> float:
    """Largest relative error of a matrix's elements in a type."""
    kept = matrix[matrix != 0]
    return float(((kept.to(dtype).double() - kept) / kept).abs().max())
