"""Any of timm's networks as the body of a feature pyramid: its features of strides 4, 8, 16 and 32, or those it has."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from rethink_heads.config import ModelConfig
from rethink_heads.detectors.rcnn.body_weights import read_body_weights
from rethink_heads.detectors.rcnn.roi_heads import STRIDES
from rethink_heads.errors import UserError, shorten
from rethink_heads.timm_models import model_config, require_timm, timm_name

logger = logging.getLogger(__name__)

# Arguments by which networks that are built for one size of images take any. Most have neither.
ANY_SIZE: Sequence[Mapping[str, bool]] = (
    {"strict_img_size": False},
    {"dynamic_img_size": True},
    {},
)
TRIAL_SIZE = (96, 128)
"""(height, width) of the image that a network's features are tried with."""
STAGES = 5
"""The stem, and stages that end in strides 4, 8, 16 and 32."""


class TimmBody(nn.Module):
    """A network of timm that gives its feature maps by level, as the body of a pyramid. ``network``: made with
    ``features_only=True``, in evaluation mode. Raises UserError where it has no feature maps at strides of ``STRIDES``,
    or they are not of the sizes that strides say.

    Attributes:
        strides: of its levels, ascending.
        channels: of each level.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        info: Any = network.feature_info
        reductions = info.reduction()
        # Of several with one stride the last, which has seen most.
        last = {stride: index for index, stride in enumerate(reductions)}
        self._chosen = {level: last[stride] for level, stride in STRIDES.items() if stride in last}
        if not self._chosen:
            raise UserError(
                f"timm's {name} has feature maps at strides {', '.join(map(str, reductions))}, none of which a feature"
                f" pyramid has ({', '.join(map(str, STRIDES.values()))}); give another model.backbone"
            )
        self.strides = tuple(STRIDES[level] for level in self._chosen)
        self.channels = [info.channels()[index] for index in self._chosen.values()]
        self._channels_last = self._tried(name)

    def _tried(self, name: str) -> bool:
        """Put an image through the network; return whether its maps have their channels last."""
        height, width = TRIAL_SIZE
        try:
            with torch.no_grad():
                maps = self.network(torch.zeros(1, 3, height, width))
            found = [tuple(maps[index].shape[1:]) for index in self._chosen.values()]
        except Exception as error:  # timm's networks refuse sizes in many ways.
            raise UserError(
                f"timm's {name} gives no features of images of {height} x {width} pixels"
                f" ({shorten(str(error) or type(error).__name__, 100)}), so that it cannot be the backbone of a"
                " detector, whose images have many sizes; give another model.backbone"
            ) from error
        sides = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        first = [(c, *side) for c, side in zip(self.channels, sides, strict=True)]
        last = [(*side, c) for c, side in zip(self.channels, sides, strict=True)]
        if found not in (first, last):
            raise UserError(
                f"timm's {name} gives feature maps of {found} of an image of {height} x {width} pixels, where {first}"
                " are expected: its cells are not at even strides; give another model.backbone"
            )
        return found != first

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images (N, 3, H, W) to feature maps (N, C, H / stride, W / stride) by the names in ``STRIDES``."""
        maps = self.network(x)
        found = {level: maps[index] for level, index in self._chosen.items()}
        if self._channels_last:
            found = {level: value.permute(0, 3, 1, 2) for level, value in found.items()}
        return found


def build_timm_body(
    model: ModelConfig, pretrained: bool, download: Callable[..., nn.Module | None]
) -> tuple[TimmBody, str]:
    """A body for ``model.backbone: timm:NAME`` and the normalisation that it ended up with, ``frozen`` or ``batch``.

    Networks without batch normalisation have nothing to freeze. Raises UserError where timm is not installed, has no
    such model, or one whose features make no pyramid; or the weights do not fit.

    Args:
        pretrained: False begins without ImageNet weights whatever the settings say.
        download: calls its first argument, which downloads; None where that fails.
    """
    timm, name = require_timm(), str(timm_name(model.backbone))
    classifier = model_config(name).classifier or ()
    norm, trainable_layers = model.norm, model.trainable_layers
    # Its builders read values, which fake tensors lack.
    with unset_fake_temporarily() as fake:
        network: nn.Module | None = None
        if pretrained and model.backbone_weights is not None:
            names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
            own = timm.create_model(name).state_dict()
            state = read_body_weights(model.backbone_weights, own, names, f"timm's {name}")
            overlay = {"state_dict": state, "custom_load": False}
            # It warns of what features do not use, which was accounted for.
            with _only_errors("timm.models._builder"):
                network = _features(name, pretrained=True, pretrained_cfg_overlay=overlay)
        elif pretrained and model.pretrained:
            # It tells of each try without a network.
            with _only_errors("huggingface_hub"):
                network = download(
                    lambda: _features(name, pretrained=True), f"timm's {name}", "HF_HOME"
                )
            if network is None:
                norm, trainable_layers = "batch", STAGES
        if network is None:
            network = _features(name)
        if norm == "frozen":
            network = timm.layers.freeze_batch_norm_2d(network)
        body = TimmBody(network.eval(), name).train()
        stages = _stages(network)
        for parameter_name, parameter in network.named_parameters():
            parameter.requires_grad_(stages[parameter_name] >= STAGES - trainable_layers)
        if isinstance(fake, FakeTensorMode):
            _make_fake(body, fake)
    return body, norm


@contextlib.contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """Leave a logger's warnings out."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _features(name: str, **weights: Any) -> nn.Module:
    """A network that gives feature maps, of images of any size where it has a setting for that."""
    timm = require_timm()
    for options in ANY_SIZE:
        try:
            network: nn.Module = timm.create_model(name, features_only=True, **options, **weights)
            break
        except TypeError:
            if not options:
                raise
        except (RuntimeError, AttributeError, AssertionError) as error:
            if weights:
                raise
            raise UserError(
                f"timm's {name} gives no feature maps ({shorten(str(error) or type(error).__name__, 100)}); give"
                " another model.backbone"
            ) from error
    for module in network.modules():
        # timm keeps a state dict that it was given among them.
        for attribute in ("pretrained_cfg", "default_cfg"):
            vars(module).pop(attribute, None)
    return network


def _stages(network: nn.Module) -> dict[str, int]:
    """By parameter: 0 of the stem, 1 to 4 of the stages that end in strides 4 to 32, in the order of the modules.

    Without a feature map before stride 4 the stem is what comes before the stages' container.
    """
    info: Any = network.feature_info

    def plain(name: str) -> str:
        # timm's wrappers hold a model whole under one name, or the parts of its sequences under joined names.
        return name.replace(".", "_") + "_"

    held = [f"{name}." for name, _ in network.named_children()]
    wrapper = held[0] if len(held) == 1 and held[0] in ("model.", "body.") else ""
    places = [plain(name.removeprefix(wrapper)) for name, _ in network.named_modules()]
    ends = dict.fromkeys(range(STAGES), -1)
    for name, stride in zip(info.module_name(), info.reduction(), strict=True):
        stage = min(max(stride.bit_length() - 2, 0), STAGES - 1)
        within = [at for at, place in enumerate(places) if place.startswith(plain(name))]
        ends[stage] = max([ends[stage], *within])
    if ends[0] < 0:
        container = plain(info.module_name()[0].partition(".")[0])
        within = [at for at, place in enumerate(places) if place.startswith(container)]
        ends[0] = min(within, default=0) - 1
    stages = {}
    for at, module in enumerate(network.modules()):
        stage = next((stage for stage, end in ends.items() if at <= end), STAGES - 1)
        for name, _ in module.named_parameters(recurse=False):
            stages[id(module), name] = stage
    owners = {name: module for name, module in network.named_modules()}
    return {
        name: stages[id(owners[name.rpartition(".")[0]]), name.rpartition(".")[2]]
        for name, _ in network.named_parameters()
    }


def _make_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Put fake tensors in the place of a module's own; shared ones stay shared."""
    for each in module.modules():
        own: Sequence[dict[str, Any]] = (each._parameters, each._buffers)
        for values in own:
            for name, value in values.items():
                if value is not None:
                    values[name] = mode.from_tensor(value)
