"""Backbones with a feature pyramid: torchvision's ResNets, timm's networks, and a tiny residual network for CPUs."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights, resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rethink_heads.config import ModelConfig
from rethink_heads.detectors.rcnn.body_weights import read_body_weights
from rethink_heads.detectors.rcnn.roi_heads import STRIDES
from rethink_heads.detectors.rcnn.timm_body import build_timm_body
from rethink_heads.errors import UserError
from rethink_heads.timm_models import timm_name

Loaded = TypeVar("Loaded")

logger = logging.getLogger(__name__)

TINY_CHANNELS = (32, 64, 96, 128)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in 32 groups, as in detectron2, or in fewer where 32 do not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


FPN_NORMS = {"none": None, "group": group_norm, "batch": nn.BatchNorm2d}
"""By ``model.fpn_norm``: what makes a layer of normalisation for so many channels."""


class TinyResNet(nn.Module):
    """Residual network with a 2x2-strided stem and four stages of one basic block, strides 4 to 32.

    About 0.7 M weights; small enough to train on two CPU cores in minutes.
    """

    def __init__(self) -> None:
        super().__init__()
        stem = TINY_CHANNELS[0] // 2
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        before = stem
        for index, after in enumerate(TINY_CHANNELS, start=1):
            shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after)
            )
            self.add_module(f"layer{index}", resnet.BasicBlock(before, after, 2, shortcut))
            before = after
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, 3, H, W) to the last stage's (N, C, H/32, W/32)."""
        for module in self.children():
            x = module(x)
        return x


class PyramidBackbone(nn.Module):
    """A body and the feature pyramid on its maps, with a level of twice the last one's stride beyond.

    Its state dict has the names of torchvision's ``BackboneWithFPN``.
    ``body``: maps images to feature maps by the names in ``STRIDES``.

    Attributes:
        out_channels: of every level.
        strides: of the body's levels, ascending.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: Sequence[int],
        model: ModelConfig,
        strides: Sequence[int] = tuple(STRIDES.values()),
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            list(channels),
            model.fpn_channels,
            LastLevelMaxPool(),
            FPN_NORMS[model.fpn_norm],
        )
        self.out_channels, self.strides = model.fpn_channels, tuple(strides)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images (N, 3, H, W) to the pyramid's levels, the finest first."""
        levels: dict[str, Tensor] = self.fpn(self.body(x))
        return levels


def imagenet_state(name: str) -> dict[str, Tensor] | None:
    """torchvision's ImageNet weights (V1) of a ResNet, or None, with a warning, where they cannot be had."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    return downloaded(
        lambda: weights.get_state_dict(progress=False, check_hash=True), name, "TORCH_HOME"
    )


def downloaded(load: Callable[[], Loaded], name: str, variable: str) -> Loaded | None:
    """What ``load`` downloads and returns, or None, with a warning, where it cannot be had. ``variable`` is the
    environment variable that names the folder where they are kept. Raises UserError where they cannot be kept.
    """
    try:
        return load()
    except (OSError, RuntimeError) as error:
        if (
            isinstance(error, OSError)
            and not isinstance(error, URLError)
            and (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT))
        ):
            # Not the network's matter: a training from scratch would be another one without need.
            raise UserError(
                f"cannot keep the ImageNet weights of {name} in {error.filename or torch.hub.get_dir()}:"
                f" {error.strerror}; free some space, or name another folder in the environment variable {variable}"
            ) from error
        logger.warning(
            "ImageNet weights of %s could not be downloaded (%s): the backbone trains from scratch, "
            "with trainable batch normalisation in every layer.",
            name,
            error,
        )
        return None


def build_backbone(model: ModelConfig, pretrained: bool = True) -> tuple[PyramidBackbone, str]:
    """Backbone with FPN, levels P2 to P6, and the normalisation that it ended up with, ``frozen`` or ``batch``.

    The tiny network always has batch normalisation. Where ImageNet weights cannot be downloaded another is trained from
    scratch and its normalisation becomes ``batch``, since frozen statistics mean nothing without weights.
    ``pretrained``: False begins without ImageNet weights whatever the settings say.
    """
    if timm_name(model.backbone):
        timm_body, norm = build_timm_body(model, pretrained, downloaded)
        return PyramidBackbone(timm_body, timm_body.channels, model, timm_body.strides), norm
    levels = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    if model.backbone == "tiny":
        tiny = IntermediateLayerGetter(TinyResNet(), levels)
        return PyramidBackbone(tiny, TINY_CHANNELS, model), "batch"
    norm, trainable_layers = model.norm, model.trainable_layers
    state = None
    if model.pretrained and pretrained and model.backbone_weights is None:
        state = imagenet_state(model.backbone)
        if state is None:
            norm, trainable_layers = "batch", 5
    frozen = partial(FrozenBatchNorm2d, eps=model.conventions.frozen_norm_epsilon)
    body = resnet.__dict__[model.backbone](
        norm_layer=frozen if norm == "frozen" else nn.BatchNorm2d
    )
    if model.conventions.stride_in_1x1:
        for module in body.modules():
            if isinstance(module, resnet.Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    if pretrained and model.backbone_weights is not None:
        state = read_body_weights(
            model.backbone_weights, body.state_dict(), ["fc"], f"torchvision's {model.backbone}"
        )
    if state is not None:
        body.load_state_dict(state, strict=norm != "frozen")
    trainable = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trainable.append("bn1")
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(trainable)))
    widest = body.inplanes
    channels = [widest // 8, widest // 4, widest // 2, widest]
    return PyramidBackbone(IntermediateLayerGetter(body, levels), channels, model), norm
