"""Random weights under which an untrained detector's scores, boxes and proposals differ from box to box."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from rethink_heads.detectors.base import Detector, SupportsPropose

IMAGE_SIZE = (256, 320)
SQUARE_SIDES = (8, 32, 64, 128)
"""Sides of the squares that the synthetic image is the sum of, in pixels."""

LEAST_SPREAD = 1e-6


@torch.no_grad()
def spread_outputs(detector: Detector, model: nn.Module, spreads: Mapping[str, float]) -> None:
    """Scale and shift a detector's last layers so that each output has mean 0 and a known spread on a synthetic image.

    As it is initialised, a detector gives all boxes nearly the same scores and hardly moves them. Batch normalisation
    takes its statistics from the image first, without which activations grow from block to block. The change is in
    place, exact for the weights, and the same whenever it is made.

    Args:
        spreads: by a last layer's name within ``model``: the standard deviation over boxes (of RPN layers: over cells)
            that each of its outputs is brought to. Names that it lacks, and layers that are not reached, are passed by.
    """
    threads = torch.get_num_threads()
    # Sums over threads depend on how many there are.
    torch.set_num_threads(1)
    try:
        image = _synthetic_image().to(detector.device)
        _normalise(detector, model, image)
        layers = dict(model.named_modules())
        last = {
            name: layer
            for name in spreads
            if isinstance(layer := layers.get(name), nn.Linear | nn.Conv2d)
        }
        with _recorded_outputs(last) as outputs:
            _run(detector, image)
        for name, layer in last.items():
            if outputs[name]:
                _spread(layer, torch.cat(outputs[name]), spreads[name])
    finally:
        torch.set_num_threads(threads)


def _run(detector: Detector, image: Tensor) -> None:
    """Put an image, and boxes of several sizes all over it, through all stages."""
    if isinstance(detector, SupportsPropose):
        features, _ = detector.propose(image)
    else:
        features = detector.extract(image)
    height, width = IMAGE_SIZE
    grid = [
        (x, y, x + side, y + side)
        for side in (32, 64, 128)
        for y in range(0, height - side + 1, 32)
        for x in range(0, width - side + 1, 32)
    ]
    boxes = torch.tensor(grid, dtype=torch.float32, device=detector.device)
    detector.predict(features, detector.pool(features, boxes), boxes)


def _normalise(detector: Detector, model: nn.Module, image: Tensor) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain mean over the times that it runs
    _run(detector, image)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()
        # One variance for a layer: a channel that hardly varies on this image must not be blown up on others.
        if norm.running_var is not None:
            norm.running_var.fill_(norm.running_var.mean())


def _spread(layer: nn.Linear | nn.Conv2d, outputs: Tensor, spread: float) -> None:
    factor = spread / outputs.std(dim=0).clamp(min=LEAST_SPREAD)
    layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.sub_(outputs.mean(dim=0)).mul_(factor)


@contextmanager
def _recorded_outputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """By layer: (boxes or cells, outputs) of each time that it runs meanwhile."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, output: Tensor) -> None:
        found[name].append(output.movedim(1, -1).reshape(-1, output.shape[1]))

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, layer in layers.items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _synthetic_image() -> Tensor:
    """A uint8 image (3, H, W) with as much contrast at each scale, as photographs have, the same each time."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 3, *IMAGE_SIZE)
    for square in SQUARE_SIDES:
        coarse = torch.randn(1, 3, *(side // square for side in IMAGE_SIZE), generator=generator)
        # All colours together for the most part: photographs are more grey than coloured.
        coarse = 0.7 * coarse[:, :1] + 0.5 * coarse
        image += functional.interpolate(coarse, IMAGE_SIZE, mode="nearest")
    image = 0.45 + 0.27 * image[0] / image.std()
    return (image.clamp(0, 1) * 255).to(torch.uint8)
