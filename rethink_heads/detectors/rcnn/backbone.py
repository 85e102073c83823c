"""Backbones with a feature pyramid: torchvision's ResNets, and a tiny residual network for CPUs."""

from __future__ import annotations

import errno
import logging
from functools import partial
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights, resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from rethink_heads.config import ConventionsConfig
from rethink_heads.errors import UserError

logger = logging.getLogger(__name__)

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
TINY_CHANNELS = (32, 64, 96, 128)


class TinyResNet(nn.Module):
    """Residual network with a 2x2-strided stem and four stages of one basic block, strides 4 to 32.

    About 0.7 M weights; small enough to train on two CPU cores in minutes.
    """

    def __init__(self, channels: tuple[int, int, int, int] = TINY_CHANNELS) -> None:
        super().__init__()
        stem = channels[0] // 2
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        before = stem
        for index, after in enumerate(channels, start=1):
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


def imagenet_state(name: str) -> dict[str, Tensor] | None:
    """torchvision's ImageNet weights (V1) of a ResNet, or None, with a warning, where they cannot be had."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        if (
            isinstance(error, OSError)
            and not isinstance(error, URLError)
            and (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT))
        ):
            # Not the network's matter: a training from scratch would be another one without need.
            raise UserError(
                f"cannot keep the ImageNet weights of {name} in {error.filename or torch.hub.get_dir()}:"
                f" {error.strerror}; free some space, or name another folder in the environment variable TORCH_HOME"
            ) from error
        logger.warning(
            "ImageNet weights of %s could not be downloaded (%s): the backbone trains from scratch, "
            "with trainable batch normalisation in every layer.",
            name,
            error,
        )
        return None


def _stride_in_1x1(body: nn.Module) -> None:
    for module in body.modules():
        if isinstance(module, resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride


def _resnet_body(
    name: str, norm: str, trainable_layers: int, pretrained: bool, conventions: ConventionsConfig
) -> tuple[nn.Module, str]:
    state = imagenet_state(name) if pretrained else None
    if pretrained and state is None:
        norm, trainable_layers = "batch", 5
    frozen = partial(FrozenBatchNorm2d, eps=conventions.frozen_norm_epsilon)
    body = resnet.__dict__[name](norm_layer=frozen if norm == "frozen" else nn.BatchNorm2d)
    if conventions.stride_in_1x1:
        _stride_in_1x1(body)
    if state is not None:
        body.load_state_dict(state, strict=norm != "frozen")
    trainable = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trainable.append("bn1")
    for parameter_name, parameter in body.named_parameters():
        if not any(parameter_name.startswith(layer) for layer in trainable):
            parameter.requires_grad_(False)
    return body, norm


def build_backbone(
    name: str,
    fpn_channels: int = 256,
    norm: str = "frozen",
    trainable_layers: int = 3,
    pretrained: bool = True,
    conventions: ConventionsConfig | None = None,
) -> tuple[BackboneWithFPN, str]:
    """Backbone with FPN, levels P2 to P6, and the normalisation that it ended up with.

    Args:
        name: ``tiny`` or a torchvision ResNet of ``RESNETS``.
        fpn_channels: channels of every pyramid level.
        norm: ``frozen`` or ``batch`` normalisation in a ResNet; the tiny network always has ``batch``.
        trainable_layers: stages trained, counted from the last; 5 trains all.
        pretrained: begin from ImageNet weights. Where they cannot be downloaded the network is trained from scratch
            and ``norm`` becomes ``batch``, since frozen statistics mean nothing without weights.
        conventions: where a bottleneck strides and the epsilon of frozen normalisation; torchvision's without it.
    """
    body: nn.Module
    if name == "tiny":
        body, norm = TinyResNet(), "batch"
        in_channels = list(TINY_CHANNELS)
    else:
        body, norm = _resnet_body(
            name, norm, trainable_layers, pretrained, conventions or ConventionsConfig()
        )
        widest = int(body.inplanes)  # type: ignore[arg-type]
        in_channels = [widest // 8, widest // 4, widest // 2, widest]
    levels = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    return BackboneWithFPN(body, levels, in_channels, fpn_channels), norm
