"""A detector's parts and blocks, their parameters and their multiply-adds per RoI."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rethink_heads.detectors.rcnn import RCNN
from rethink_heads.heads import (
    Bottleneck,
    BoxPredictor,
    ConvHead,
    FCHead,
    NonLocal,
    ResidualBlock,
)

SHARED_PARTS = ("backbone", "FPN", "RPN")
"""What detectors of one preset have in common; the other parts are the head's branches."""

_BLOCK_NAMES = {
    ResidualBlock: "widening block",
    NonLocal: "non-local block",
    Bottleneck: "bottleneck block",
}


def shared_parts(detector: RCNN) -> dict[str, nn.Module]:
    """The modules of ``SHARED_PARTS``."""
    body, fpn = detector.backbone.body, detector.backbone.fpn
    head = detector.rpn.head
    assert isinstance(body, nn.Module)
    assert isinstance(fpn, nn.Module)
    return {"backbone": body, "FPN": fpn, "RPN": head}


def blocks(branch: FCHead | ConvHead) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of a branch's blocks, in the order of the forward pass; blocks of a kind are numbered."""
    if isinstance(branch, FCHead):
        yield "fc6", branch.fc6
        yield "fc7", branch.fc7
    else:
        seen: dict[str, int] = {}
        for block in branch.blocks:
            kind = _BLOCK_NAMES[type(block)]
            seen[kind] = seen.get(kind, 0) + 1
            yield (kind if kind == "widening block" else f"{kind} {seen[kind]}"), block
    predictor = branch.predictor
    assert isinstance(predictor, BoxPredictor)
    yield "classifier", predictor.cls_score
    yield "regressor", predictor.bbox_pred


def parameter_counts(module: nn.Module) -> dict[str, int]:
    """Numbers of a module's parameters.

    Returns:
        ``parameters``: all, with the scales and offsets of normalisation, frozen or not, but not its statistics;
        ``weights``: those of matrices and kernels alone, biases and normalisation aside;
        ``trained``: those that get gradients.
    """
    parameters = list(module.parameters())
    # Frozen normalisation keeps its scale and offset as buffers beside its statistics.
    frozen = [
        value
        for name, value in module.named_buffers()
        if name.rpartition(".")[2] in ("weight", "bias")
    ]
    return {
        "parameters": sum(p.numel() for p in [*parameters, *frozen]),
        "weights": sum(p.numel() for p in parameters if p.dim() > 1),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }


def multiply_adds(
    branch: FCHead | ConvHead, channels: int, resolution: int, device: str = "cpu"
) -> dict[str, int]:
    """Multiply-adds of one RoI by block: those of convolutions, linear layers and affinities.

    Normalisation, activations, pooling and RoIAlign, some thousandths of it, are left out, as is usual. Two
    floating-point operations make a multiply-add.

    Args:
        branch: its modules' shapes are read during a forward pass, on fake or meta tensors just as well.
        channels: C of the RoI features.
        resolution: S of the RoI features.
        device: of the branch.
    """
    found = {name: 0 for name, _ in blocks(branch)}

    def count(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[name] += _operations(module, inputs[0], output)

    hooks: list[Any] = []
    for name, block in blocks(branch):
        hooks += [m.register_forward_hook(partial(count, name)) for m in block.modules()]
    training = branch.training
    try:
        with torch.no_grad():
            branch.eval()(torch.zeros(1, channels, resolution, resolution, device=device))
    finally:
        branch.train(training)
        for hook in hooks:
            hook.remove()
    return found


def _operations(module: nn.Module, x: Tensor, output: Tensor) -> int:
    """Multiply-adds of the module itself, its children's left out."""
    if isinstance(module, nn.Conv2d):
        kernel = module.kernel_size[0] * module.kernel_size[1]
        return output.numel() * module.in_channels // module.groups * kernel
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, NonLocal):
        # Each pair of cells: a dot product of theta and phi, then g's share; the groups split the channels.
        cells = x.shape[-1] * x.shape[-2]
        return 2 * module.theta.out_channels * cells**2
    return 0
