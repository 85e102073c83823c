"""What can be seen inside another framework's box head: its convolutions and its first fully connected layer.

Read are torchvision's ``TwoMLPHead`` and ``FastRCNNConvFCHead``, detectron2's ``FastRCNNConvFCHead``, and any
``nn.Sequential`` of the same order: perhaps convolutions, then an average or ``nn.Flatten``, then perhaps linear
layers. A head that is anything else keeps its scores and boxes, and goes without maps. What counts is the forward pass:
a subclass that changes it is anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

DETECTRON2_HEAD = ("detectron2.modeling.roi_heads.box_head", "FastRCNNConvFCHead.forward")
"""Module and name of the forward pass of detectron2's ``FastRCNNConvFCHead``, a sequence like ``nn.Sequential``."""

DEFAULT_SIZE = (7, 7)
"""Positions of the RoI features along y and x in every framework's own fc-heads."""


@dataclass(frozen=True)
class BoxHeadParts:
    """The parts of a box head that give maps.

    Attributes:
        kind: ``fc`` (linear layers on the flattened RoI features), ``conv`` (convolutions, whose output is a map until
            the end of the head or until it is averaged), ``conv-fc`` (convolutions, then linear layers on their
            flattened output) or ``box`` (anything else).
        convolutions: what makes the map, or None.
        first_layer: the linear layer that takes the flattened map or the flattened RoI features, or None.
        size: positions along y and x of the RoI features.
    """

    kind: str
    convolutions: nn.Module | None = None
    first_layer: nn.Linear | None = None
    size: tuple[int, int] = DEFAULT_SIZE

    def output_maps(self, roi_features: Tensor) -> dict[str, Tensor]:
        """The head's maps for RoI features (N, C, S, S): by part, (N, channels, S', S').

        ``conv`` is the map after the convolutions; ``fc`` is rebuilt from the first linear layer, position (i, j)
        holding W_ij x_ij, whose sum over positions plus the bias is that layer's output (Wu et al., Figure 4). Empty
        for ``box``.
        """
        maps: dict[str, Tensor] = {}
        inputs = roi_features
        if self.convolutions is not None:
            # A copy, since a head may begin with a layer that works in place.
            inputs = self.convolutions(roi_features.clone())
            if inputs.dim() != 4 or inputs.shape[-2:].numel() == 1:
                return {}
            maps["conv"] = inputs
        if self.first_layer is not None:
            weight = self.first_layer.weight
            by_position = weight.view(len(weight), *inputs.shape[1:])
            maps["fc"] = torch.einsum("ncij,ocij->noij", inputs, by_position)
        return maps

    def weight_maps(self) -> dict[str, Tensor]:
        """The first linear layer's weights by position: ``fc``, (width * C, S, S).

        Empty where there is no such layer, and where neither ``size`` nor a square has as many weights.
        """
        if self.first_layer is None:
            return {}
        size, inputs = self.size, self.first_layer.in_features
        if self.convolutions is None:
            fits = inputs % math.prod(size) == 0
        else:
            # Convolutions may stride, but say how many channels they give.
            channels = _convolutions(self.convolutions)[-1].out_channels
            if inputs != channels * math.prod(size):
                size = (math.isqrt(inputs // channels),) * 2
            fits = inputs == channels * math.prod(size)
        return {"fc": self.first_layer.weight.detach().reshape(-1, *size)} if fits else {}


def pooled_size(pooler: nn.Module) -> tuple[int, int]:
    """Positions along y and x that a pooler gives: its ``output_size`` in every framework, one number or two."""
    size = getattr(pooler, "output_size", DEFAULT_SIZE)
    if isinstance(size, int):
        return (size, size)
    height, width = size
    return (int(height), int(width))


def parts_of(box_head: nn.Module, size: tuple[int, int] = DEFAULT_SIZE) -> BoxHeadParts:
    """What kind of box head this is, and its parts.

    Args:
        box_head: what takes RoI features (N, C, S, S) and gives what the predictor takes.
        size: positions along y and x of the RoI features; weights of a first linear layer on these are cut by it.
    """
    if isinstance(box_head, TwoMLPHead) and type(box_head).forward is TwoMLPHead.forward:
        return BoxHeadParts("fc", None, box_head.fc6, size)
    layers = list(_layers(box_head))
    end = next((i for i, layer in enumerate(layers) if _ends_map(layer)), len(layers))
    before, after = layers[:end], layers[end:]
    # A layer, not a sequence, may hold one that takes more than a map.
    if any(isinstance(x, nn.Flatten | nn.Linear) for layer in before for x in layer.modules()):
        return BoxHeadParts("box", size=size)
    has_convolutions = any(_convolutions(layer) for layer in before)
    convolutions = nn.Sequential(*before) if has_convolutions else None
    flattened = bool(after) and isinstance(after[0], nn.Flatten)
    first = next((layer for layer in after[1:] if not _passes_on(layer)), None)
    if flattened and isinstance(first, nn.Linear):
        if convolutions is None and any(not _passes_on(layer) for layer in before):
            return BoxHeadParts("box", size=size)
        return BoxHeadParts("conv-fc" if convolutions else "fc", convolutions, first, size)
    averaged = bool(after) and isinstance(after[0], nn.AdaptiveAvgPool2d)
    if convolutions is not None and (not after or averaged or (flattened and first is None)):
        return BoxHeadParts("conv", convolutions, None, size)
    return BoxHeadParts("box", size=size)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a sequence, and of sequences within it, in their order; of anything else, itself."""
    forward = type(module).forward
    name = (getattr(forward, "__module__", ""), getattr(forward, "__qualname__", ""))
    if forward is nn.Sequential.forward or name == DETECTRON2_HEAD:
        for layer in module.children():
            yield from _layers(layer)
    else:
        yield module


def _ends_map(layer: nn.Module) -> bool:
    """Whether a layer takes the place of the map: an average to one position, or flattening."""
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return layer.output_size in (1, (1, 1))
    flattens = isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1)
    return flattens or isinstance(layer, nn.Linear)


def _passes_on(layer: nn.Module) -> bool:
    """Whether a layer gives what it is given, in evaluation."""
    return isinstance(layer, nn.Identity | nn.Dropout | nn.Dropout1d | nn.Dropout2d)


def _convolutions(layer: nn.Module) -> list[nn.Conv2d]:
    return [inner for inner in layer.modules() if isinstance(inner, nn.Conv2d)]
