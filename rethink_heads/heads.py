"""R-CNN box heads on RoI features (N, C, S, S): fc-head, conv-head, and the branches of a detector with their losses.

Layer by layer as in the authors' code of Wu et al. (CVPR 2020): a conv-head's convolutions carry no bias, each is
followed by batch normalisation, and ReLU comes after the residual sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rethink_heads.config import ModelConfig
from rethink_heads.structures import BRANCHES, HEAD_CONFIGURATIONS, STRUCTURES, TaskWeights, kind_of


def conv_bn(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution without bias that keeps the resolution, then batch normalisation."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class ResidualBlock(nn.Module):
    """Residual block that widens the RoI features: 3x3 then 1x1 on the main path, 1x1 on the shortcut.

    The paper's sizes, 256 to 1024 channels, hold 1.0625 x 2^20 convolution weights.
    """

    def __init__(self, in_channels: int = 256, out_channels: int = 1024) -> None:
        super().__init__()
        self.expand = conv_bn(in_channels, in_channels, 3)
        self.project = conv_bn(in_channels, out_channels, 1)
        self.shortcut = conv_bn(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, S, S) to (N, out_channels, S, S)."""
        main = self.project(F.relu(self.expand(x)))
        return F.relu(main + self.shortcut(x))


class Bottleneck(nn.Module):
    """Bottleneck residual block: 1x1 down, 3x3, 1x1 up, each with batch normalisation.

    The paper's sizes, 1024 and 256 channels, hold 1.0625 x 2^20 convolution weights.
    """

    def __init__(self, channels: int = 1024, bottleneck: int = 256) -> None:
        super().__init__()
        self.reduce = conv_bn(channels, bottleneck, 1)
        self.spatial = conv_bn(bottleneck, bottleneck, 3)
        self.restore = conv_bn(bottleneck, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, S, S) to the same shape."""
        main = F.relu(self.reduce(x))
        main = F.relu(self.spatial(main))
        return F.relu(x + self.restore(main))


class NonLocal(nn.Module):
    """Grouped non-local block with embedded dot products divided by the number of positions.

    Each of the groups has its own affinity between all S*S positions. The output convolution starts at zero, so a new
    block is ReLU of the identity. The paper's sizes hold 2 x 2^20 convolution weights (authors' code).
    Raises ValueError if ``inner`` is not divisible by ``groups``.

    Args:
        inner: channels of theta, phi and g together; divisible by ``groups``.
        groups: number of independent affinities.
    """

    def __init__(self, channels: int = 1024, inner: int = 512, groups: int = 4) -> None:
        super().__init__()
        if inner % groups:
            raise ValueError(f"non-local inner width {inner} is not divisible by {groups} groups")
        self.groups, self.inner = groups, inner
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        for conv in (self.theta, self.phi, self.g):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.out = conv_bn(inner, channels, 1)
        for parameter in self.out[0].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, S, S) to the same shape."""
        n, _, height, width = x.shape
        positions = height * width
        # No size is left open, since it could not be told where there is no RoI at all.
        shape = (n, self.groups, self.inner // self.groups, positions)
        theta, phi, g = (conv(x).reshape(shape) for conv in (self.theta, self.phi, self.g))
        affinity = theta.transpose(-1, -2) @ phi / positions
        mixed = torch.einsum("ngab,ngcb->ngca", affinity, g).reshape(n, self.inner, height, width)
        return F.relu(x + self.out(mixed))


class BoxPredictor(nn.Module):
    """Linear classifier and class-specific linear box regressor over one vector per RoI, which end every head.

    Background is class 0 (torchvision's order). Initialised as in the authors' code: weights from N(0, 0.01^2) for
    the logits and N(0, 0.001^2) for the deltas, biases zero.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_features, num_classes + 1)
        self.bbox_pred = nn.Linear(in_features, 4 * (num_classes + 1))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, in_features) to logits (N, K + 1) and deltas (N, 4 (K + 1))."""
        return self.cls_score(x), self.bbox_pred(x)


class FCHead(nn.Module):
    """Two hidden layers, then the predictor (Wu et al.; torchvision's ``TwoMLPHead``).

    With the paper's sizes fc6 and fc7 hold 13.25 x 2^20 weights.
    """

    def __init__(
        self, num_classes: int, channels: int = 256, resolution: int = 7, width: int = 1024
    ) -> None:
        super().__init__()
        self.channels, self.resolution, self.width = channels, resolution, width
        self.fc6 = nn.Linear(channels * resolution**2, width)
        self.fc7 = nn.Linear(width, width)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        self.predictor = BoxPredictor(width, num_classes)

    def forward(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C, S, S) to logits (N, K + 1) and box deltas (N, 4 (K + 1))."""
        hidden = F.relu(self.fc7(F.relu(self.fc6(roi_features.flatten(1)))))
        return self.predictor(hidden)

    def weight_map(self) -> Tensor:
        """fc6's weights by RoI position, (width, C, S, S)."""
        return self.fc6.weight.view(self.width, self.channels, self.resolution, self.resolution)

    def output_map(self, roi_features: Tensor) -> Tensor:
        """fc-head's output rebuilt by position: (N, width, S, S), position (i, j) holding W_ij x_ij.

        The sum over positions plus the bias is fc6's output before ReLU (Wu et al., Figure 4).
        """
        return torch.einsum("ncij,ocij->noij", roi_features, self.weight_map())


class ConvHead(nn.Module):
    """Residual block, K bottlenecks (each optionally after a non-local block), average pool, predictor.

    The defaults are those of the authors' released model without its non-local blocks.

    Args:
        bottleneck: channels inside a bottleneck.
        blocks: number K of bottlenecks.
        non_local: put a non-local block before each bottleneck.
        non_local_groups: affinities of each non-local block.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        width: int = 1024,
        bottleneck: int = 256,
        blocks: int = 2,
        non_local: bool = False,
        non_local_groups: int = 4,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [ResidualBlock(channels, width)]
        for _ in range(blocks):
            if non_local:
                layers.append(NonLocal(width, width // 2, non_local_groups))
            layers.append(Bottleneck(width, bottleneck))
        self.blocks = nn.Sequential(*layers)
        self.predictor = BoxPredictor(width, num_classes)

    def output_map(self, roi_features: Tensor) -> Tensor:
        """Maps (N, C, S, S) to conv-head's output before pooling, (N, width, S, S)."""
        return self.blocks(roi_features)

    def forward(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C, S, S) to logits (N, classes + 1) and box deltas (N, 4 (classes + 1))."""
        return self.predictor(self.output_map(roi_features).mean(dim=(2, 3)))


class BoxHeads(nn.ModuleDict):
    """The branches of a detector by name (one or two of ``BRANCHES``), each on RoI features of its own.

    A single fc- or conv-head has one branch; Double-Head has one of each kind (Wu et al.). Layers that no loss
    of nonzero weight reaches are frozen, so that no gradient, momentum or weight decay moves them.

    Args:
        branches: modules that map (N, C, S, S) to logits (N, K + 1) and deltas (N, 4 (K + 1)).
        weights: each branch's loss weights.
        beta: smooth L1's turning point.
    """

    def __init__(
        self, branches: Mapping[str, FCHead | ConvHead], weights: TaskWeights, beta: float = 1.0
    ) -> None:
        super().__init__(dict(branches))
        self.weights, self.beta = weights, beta
        for name, branch in branches.items():
            cls_weight, reg_weight = weights[name]
            branch.predictor.cls_score.requires_grad_(cls_weight != 0)
            branch.predictor.bbox_pred.requires_grad_(reg_weight != 0)
            if not (cls_weight or reg_weight):
                branch.requires_grad_(False)

    @property
    def names(self) -> tuple[str, ...]:
        """The branches that are there, in the order of ``BRANCHES``."""
        return tuple(name for name in BRANCHES if name in self)

    def branch(self, name: str) -> FCHead | ConvHead:
        """The branch of that name."""
        module = self[name]
        assert isinstance(module, FCHead | ConvHead)
        return module

    def forward(self, roi_features: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits (N, K + 1) and deltas (N, 4 (K + 1)) by branch, from its RoI features (N, C, S, S)."""
        return {name: self[name](roi_features[name]) for name in self.names}

    def pool(
        self, enlargement: Mapping[str, float], pool: Callable[[float], Tensor]
    ) -> dict[str, Tensor]:
        """RoI features (N, C, S, S) by branch, pooled once for each factor by which RoIs are enlarged."""
        factors = {name: enlargement.get(name, 1.0) for name in self.names}
        pooled = {factor: pool(factor) for factor in dict.fromkeys(factors.values())}
        return {name: pooled[factor] for name, factor in factors.items()}

    def predict(
        self,
        roi_features: Mapping[str, Tensor],
        head_names: Iterable[str],
        fusion: str,
        decode: Callable[[Tensor], Tensor],
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Scores (N, K) and boxes (N, K, 4) by head of ``HEAD_CONFIGURATIONS``, from RoI features by branch.

        Args:
            roi_features: (N, C, S, S) by branch.
            decode: from deltas (N, 4 (K + 1)) to boxes (N, K, 4).
        """
        outputs = self(roi_features)
        scores = {name: logits.float().softmax(-1)[:, 1:] for name, (logits, _) in outputs.items()}
        heads = {name: HEAD_CONFIGURATIONS[name] for name in head_names}
        regressors = {each.regressor for each in heads.values()}
        boxes = {name: decode(outputs[name][1].float()) for name in regressors}
        return {
            name: (each.scores(scores, fusion), boxes[each.regressor])
            for name, each in heads.items()
        }

    def output_maps(self, roi_features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Output maps (N, C, S, S) by branch, an fc-head's rebuilt from fc6 (paper Figure 4)."""
        return {name: self.branch(name).output_map(roi_features[name]) for name in self.names}

    def weight_maps(self) -> dict[str, Tensor]:
        """fc6's weights by RoI position, (width * C, S, S), by fc branch."""
        branches = {name: self.branch(name) for name in self.names}
        return {
            name: branch.weight_map().detach().flatten(0, 1)
            for name, branch in branches.items()
            if isinstance(branch, FCHead)
        }

    def losses(
        self,
        outputs: Mapping[str, tuple[Tensor, Tensor]],
        labels: Tensor,
        target_deltas: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted losses, named ``<branch>_classification`` (softmax cross-entropy) and ``<branch>_regression``.

        Args:
            outputs: of ``forward`` for the N sampled RoIs.
            labels: (N,), 0 for background.
            target_deltas: (N, 4).
        """
        losses: dict[str, Tensor] = {}
        for name, (logits, deltas) in outputs.items():
            cls_weight, reg_weight = self.weights[name]
            if cls_weight:
                loss = F.cross_entropy(logits.float(), labels)
                losses[f"{name}_classification"] = cls_weight * loss
            if reg_weight:
                loss = regression_loss(deltas.float(), labels, target_deltas, self.beta)
                losses[f"{name}_regression"] = reg_weight * loss
        return losses


def build_heads(model: ModelConfig, head: str, classes: int) -> BoxHeads:
    """Untrained branches of a head of ``STRUCTURES`` for K foreground classes, with their losses."""
    structure = STRUCTURES[head]
    branches: dict[str, FCHead | ConvHead] = {}
    for name in structure.branches:
        if kind_of(name) == "fc":
            branches[name] = FCHead(
                classes, model.fpn_channels, model.roi_resolution, model.fc_width
            )
        else:
            branches[name] = ConvHead(
                classes,
                model.fpn_channels,
                model.conv_width,
                model.conv_bottleneck,
                model.conv_blocks,
                model.non_local,
                model.non_local_groups,
            )
    weights = structure.weights(model.l_fc, model.l_conv, model.w_fc, model.w_conv)
    return BoxHeads(branches, weights, model.smooth_l1_beta)


def enlargements(model: ModelConfig) -> dict[str, float]:
    """By branch: the factor by which an RoI grows about its centre before pooling, where there is one."""
    return {"conv": model.conv_enlargement, "conv2": model.conv_enlargement}


def regression_loss(
    box_deltas: Tensor, labels: Tensor, target_deltas: Tensor, beta: float = 1.0
) -> Tensor:
    """Smooth L1 of the true class's deltas, summed over positives and divided by all sampled RoIs.

    Args:
        box_deltas: (N, 4 (K + 1)).
        labels: (N,), 0 for background.
        target_deltas: (N, 4), encoded with the detector's box coder.
        beta: where smooth L1 turns from quadratic to linear; 1 in the authors' code, 1/9 in torchvision.
    """
    positive = torch.where(labels > 0)[0]
    deltas = box_deltas.reshape(len(labels), -1, 4)[positive, labels[positive]]
    loss = F.smooth_l1_loss(deltas, target_deltas[positive], beta=beta, reduction="sum")
    return loss / labels.numel()
