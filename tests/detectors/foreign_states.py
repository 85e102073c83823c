"""Checkpoints of random weights under the names that maskrcnn-benchmark, mmdetection and detectron2 give them."""

from __future__ import annotations

import functools
import re

import torch
from torch import Tensor

State = dict[str, Tensor]

CHANNELS, WIDTH, BOTTLENECK, FC_WIDTH, CLASSES = 8, 16, 4, 24, 3
STAGES = {1: (3, 64), 2: (4, 128), 3: (6, 256), 4: (3, 512)}  # blocks and inner channels, R-50


class Writer:
    """Adds random weights to a state dict, of sizes that keep a network's values near 1."""

    def __init__(self, seed: int, counters: bool) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.counters = counters

    def normal(self, name: str, *shape: int, std: float) -> None:
        self.state[name] = torch.randn(shape, generator=self.generator) * std

    def conv(self, name: str, out: int, inner: int, kernel: int, bias: bool = False) -> None:
        std = (2 / (inner * kernel**2)) ** 0.5
        self.normal(f"{name}.weight", out, inner, kernel, kernel, std=std)
        if bias:
            self.normal(f"{name}.bias", out, std=0.1)

    def linear(self, name: str, out: int, inner: int, gain: float = 2.0) -> None:
        self.normal(f"{name}.weight", out, inner, std=(gain / inner) ** 0.5)
        self.normal(f"{name}.bias", out, std=0.1)

    def norm(self, name: str, channels: int, gain: float = 1.0) -> None:
        scale = torch.rand(channels, generator=self.generator) * 0.5 + 0.5
        self.state[f"{name}.weight"] = scale * gain
        self.normal(f"{name}.bias", channels, std=0.1)
        self.normal(f"{name}.running_mean", channels, std=0.1)
        variance = torch.rand(channels, generator=self.generator) + 0.5
        self.state[f"{name}.running_var"] = variance
        if self.counters:
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def resnet50(self, body: str, stem: str, frozen: bool) -> None:
        counters, self.counters = self.counters, self.counters and not frozen
        self.conv(f"{stem}.conv1", 64, 3, 7)
        # Pixels come in the hundreds where their range is 255.
        self.state[f"{stem}.conv1.weight"] *= 0.02
        self.norm(f"{stem}.bn1", 64)
        before = 64
        for layer, (blocks, inner) in STAGES.items():
            for block in range(blocks):
                name = f"{body}.layer{layer}.{block}"
                self.conv(f"{name}.conv1", inner, before, 1)
                self.norm(f"{name}.bn1", inner)
                self.conv(f"{name}.conv2", inner, inner, 3)
                self.norm(f"{name}.bn2", inner)
                self.conv(f"{name}.conv3", 4 * inner, inner, 1)
                self.norm(f"{name}.bn3", 4 * inner, 0.3)
                if block == 0:
                    self.conv(f"{name}.downsample.0", 4 * inner, before, 1)
                    self.norm(f"{name}.downsample.1", 4 * inner, 0.7)
                before = 4 * inner
        self.counters = counters


@functools.cache
def maskrcnn_benchmark_state(non_local: bool = True, blocks: int = 2, seed: int = 0) -> State:
    """The authors' Double-Head on ResNet-50, narrow from the FPN on. Made once: not to be changed."""
    write = Writer(seed, counters=True)
    write.resnet50("backbone.body", "backbone.body.stem", frozen=True)
    for level, (_, inner) in STAGES.items():
        write.conv(f"backbone.fpn.fpn_inner{level}", CHANNELS, 4 * inner, 1, bias=True)
        write.conv(f"backbone.fpn.fpn_layer{level}", CHANNELS, CHANNELS, 3, bias=True)
    write.conv("rpn.head.conv", CHANNELS, CHANNELS, 3, bias=True)
    write.conv("rpn.head.cls_logits", 3, CHANNELS, 1, bias=True)
    write.conv("rpn.head.bbox_pred", 12, CHANNELS, 1, bias=True)
    write.state["rpn.head.bbox_pred.weight"] *= 0.2
    extractor = "roi_heads.box.feature_extractor"
    write.linear(f"{extractor}.fc6", FC_WIDTH, CHANNELS * 49)
    write.linear(f"{extractor}.fc7", FC_WIDTH, FC_WIDTH)
    widening = f"{extractor}.nonlocal_conv"
    write.conv(f"{widening}.top.0", WIDTH, CHANNELS, 1)
    write.norm(f"{widening}.top.1", WIDTH)
    write.conv(f"{widening}.bottom.0", CHANNELS, CHANNELS, 3)
    write.norm(f"{widening}.bottom.1", CHANNELS)
    write.conv(f"{widening}.bottom.3", WIDTH, CHANNELS, 1)
    write.norm(f"{widening}.bottom.4", WIDTH)
    for block in range(blocks):
        name = f"{extractor}.shared_nonlocal.{block}"
        if non_local:
            for part in ("g", "theta", "phi"):
                write.conv(f"{name}.{part}", WIDTH // 2, WIDTH, 1, bias=True)
            write.conv(f"{name}.W.0", WIDTH, WIDTH // 2, 1, bias=True)
            write.norm(f"{name}.W.bn", WIDTH, 0.1)
        sizes = [(BOTTLENECK, WIDTH, 1), (BOTTLENECK, BOTTLENECK, 3), (WIDTH, BOTTLENECK, 1)]
        for place, (out, inner, kernel) in zip((0, 3, 6), sizes, strict=True):
            write.conv(f"{name}.ffconv.bottleneck.{place}", out, inner, kernel)
            write.norm(f"{name}.ffconv.bottleneck.{place + 1}", out)
    for suffix, inner in (("", WIDTH), ("_fc", FC_WIDTH)):
        write.linear(f"roi_heads.box.predictor.cls_score{suffix}", CLASSES + 1, inner, 1.0)
        write.linear(f"roi_heads.box.predictor.bbox_pred{suffix}", 4 * (CLASSES + 1), inner, 1.0)
    return write.state


@functools.cache
def mmdetection_state(blocks: int = 4, seed: int = 1) -> State:
    """``dh-faster-rcnn_r50_fpn_1x_coco``, narrow from the FPN on. Made once: not to be changed."""
    write = Writer(seed, counters=True)
    write.resnet50("backbone", "backbone", frozen=False)
    # The network is fed pixels divided by their deviation.
    write.state["backbone.conv1.weight"] *= 50
    for level, (_, inner) in enumerate(STAGES.values()):
        write.conv(f"neck.lateral_convs.{level}.conv", CHANNELS, 4 * inner, 1, bias=True)
        write.conv(f"neck.fpn_convs.{level}.conv", CHANNELS, CHANNELS, 3, bias=True)
    write.conv("rpn_head.rpn_conv", CHANNELS, CHANNELS, 3, bias=True)
    write.conv("rpn_head.rpn_cls", 3, CHANNELS, 1, bias=True)
    write.conv("rpn_head.rpn_reg", 12, CHANNELS, 1, bias=True)
    write.state["rpn_head.rpn_reg.weight"] *= 0.2
    head = "roi_head.bbox_head"
    write.linear(f"{head}.fc_cls", CLASSES + 1, FC_WIDTH, 1.0)
    write.linear(f"{head}.fc_reg", 4 * CLASSES, WIDTH, 1.0)
    widening = (("conv1", CHANNELS, 3), ("conv2", WIDTH, 1), ("conv_identity", WIDTH, 1))
    for part, out, kernel in widening:
        write.conv(f"{head}.res_block.{part}.conv", out, CHANNELS, kernel)
        write.norm(f"{head}.res_block.{part}.bn", out)
    for block in range(blocks):
        sizes = [(BOTTLENECK, WIDTH, 1), (BOTTLENECK, BOTTLENECK, 3), (WIDTH, BOTTLENECK, 1)]
        for number, (out, inner, kernel) in enumerate(sizes, start=1):
            write.conv(f"{head}.conv_branch.{block}.conv{number}", out, inner, kernel)
            write.norm(f"{head}.conv_branch.{block}.bn{number}", out)
    write.linear(f"{head}.fc_branch.0", FC_WIDTH, CHANNELS * 49)
    write.linear(f"{head}.fc_branch.1", FC_WIDTH, FC_WIDTH)
    return write.state


@functools.cache
def detectron2_state(own_heads: bool = False, seed: int = 2) -> State:
    """A ResNet-50 with FPN, narrow from there on, with its fc box head or our double head. Not to be changed."""
    write = Writer(seed, counters=False)
    write.resnet50("backbone.bottom_up", "backbone.bottom_up.stem", frozen=True)
    write.state = {_detectron2_name(name): value for name, value in write.state.items()}
    for level, (_, inner) in STAGES.items():
        write.conv(f"backbone.fpn_lateral{level + 1}", CHANNELS, 4 * inner, 1, bias=True)
        write.conv(f"backbone.fpn_output{level + 1}", CHANNELS, CHANNELS, 3, bias=True)
    rpn = "proposal_generator.rpn_head"
    write.conv(f"{rpn}.conv", CHANNELS, CHANNELS, 3, bias=True)
    write.conv(f"{rpn}.objectness_logits", 3, CHANNELS, 1, bias=True)
    write.conv(f"{rpn}.anchor_deltas", 12, CHANNELS, 1, bias=True)
    write.state[f"{rpn}.anchor_deltas.weight"] *= 0.2
    if own_heads:
        _double_head(write)
        return write.state
    write.linear("roi_heads.box_head.fc1", FC_WIDTH, CHANNELS * 49)
    write.linear("roi_heads.box_head.fc2", FC_WIDTH, FC_WIDTH)
    write.linear("roi_heads.box_predictor.cls_score", CLASSES + 1, FC_WIDTH, 1.0)
    write.linear("roi_heads.box_predictor.bbox_pred", 4 * CLASSES, FC_WIDTH, 1.0)
    return write.state


def _detectron2_name(name: str) -> str:
    """A stage is counted from the stem, and a normalisation belongs to its convolution."""
    name = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    for layer in ("1", "2", "3"):
        name = name.replace(f".bn{layer}.", f".conv{layer}.norm.")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def _double_head(write: Writer) -> None:
    fc, conv = "roi_heads.heads.fc", "roi_heads.heads.conv"
    write.linear(f"{fc}.fc6", FC_WIDTH, CHANNELS * 49)
    write.linear(f"{fc}.fc7", FC_WIDTH, FC_WIDTH)
    write.counters = True
    sizes = {
        "0.expand": (CHANNELS, CHANNELS, 3),
        "0.project": (WIDTH, CHANNELS, 1),
        "0.shortcut": (WIDTH, CHANNELS, 1),
        "1.reduce": (BOTTLENECK, WIDTH, 1),
        "1.spatial": (BOTTLENECK, BOTTLENECK, 3),
        "1.restore": (WIDTH, BOTTLENECK, 1),
    }
    for part, (out, inner, kernel) in sizes.items():
        write.conv(f"{conv}.blocks.{part}.0", out, inner, kernel)
        write.norm(f"{conv}.blocks.{part}.1", out)
    for branch, inner in ((fc, FC_WIDTH), (conv, WIDTH)):
        write.linear(f"{branch}.predictor.cls_score", CLASSES + 1, inner, 1.0)
        write.linear(f"{branch}.predictor.bbox_pred", 4 * (CLASSES + 1), inner, 1.0)
