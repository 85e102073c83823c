"""Weights under which a detector's scores and boxes differ among an object's proposals, as trained ones' do.

They are random, and a head can be fitted to the subjects for some steps. Time does not depend on it, but what rounding
does: what a random head makes of an object's proposals differs by a few hundredths, which its last layers are scaled up
from, and with it the errors of what came before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.subjects import Subject, sampled
from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.heads import ConvHead, FCHead, NonLocal

HEADS = ("fc", "conv", "conv-nonlocal")
"""The heads that are timed: ``conv`` is the paper's K = 2 without non-local blocks, the third has them."""

SCORE_SPREAD, DELTA_SPREAD = 1.0, 0.5
CALIBRATING_SUBJECTS, CALIBRATING_PROPOSALS = 3, 192
FITTING_RATE, FITTING_PROPOSALS, POSITIVE = 1e-4, 64, 0.5


def settings(preset: str, head: str) -> Config:
    """The settings of a preset with a head of ``HEADS``."""
    # Frozen statistics of weights that are random would let activations grow from block to block.
    overrides = ["model.norm=batch", f"model.non_local={str(head == 'conv-nonlocal').lower()}"]
    # torchvision's pooler, which the baseline has, knows no other box than the one that it pools.
    overrides.append("model.conventions.roi_level_from=enlarged")
    return load_preset(preset, "fc" if head == "fc" else "conv", overrides)


def random_detector(
    config: Config, class_names: Sequence[str], found: Sequence[Subject], seed: int
) -> RCNN:
    """A detector with one branch and random weights, in evaluation mode.

    Batch normalisation has its statistics from a few of the subjects; the last layers are scaled and shifted so that,
    over one object's proposals, each class's logit has mean 0 and standard deviation ``SCORE_SPREAD``, and each delta
    ``DELTA_SPREAD``.
    """
    torch.manual_seed(seed)
    detector = build_detector(config, class_names, pretrained=False).eval()
    for module in detector.modules():
        if isinstance(module, NonLocal) and isinstance(module.out[0], nn.Conv2d):
            # It begins at zero, which would hide a block that is wrong or left out.
            nn.init.kaiming_normal_(module.out[0].weight)
    chosen = list(found[:CALIBRATING_SUBJECTS])
    with torch.inference_mode():
        _normalise(detector, chosen)
        _spread(branch_of(detector), [_hidden(detector, each) for each in chosen])
    return detector


def fit(detector: RCNN, found: Sequence[Subject], steps: int, seed: int) -> None:
    """Train a detector's head alone on the subjects' proposals: their class from an IoU of 0.5, background below.

    Each step takes proposals of one subject, as many of each IoU bin; normalisation keeps its statistics.
    """
    branch = branch_of(detector)
    optimizer = torch.optim.Adam(branch.parameters(), FITTING_RATE)
    with torch.no_grad():
        image_features = [detector.extract(each.image.to(detector.device)) for each in found]
    for step in range(steps):
        place = step % len(found)
        subject = found[place]
        chosen = sampled(subject, FITTING_PROPOSALS, seed + step)
        boxes = subject.proposals[chosen].to(detector.device)
        with torch.no_grad():
            (pooled,) = detector.pool(image_features[place], boxes).values()
        logits, deltas = branch(pooled.clone())
        loss = _loss(detector, logits, deltas, boxes, subject, subject.ious[chosen] >= POSITIVE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _loss(
    detector: RCNN, logits: Tensor, deltas: Tensor, boxes: Tensor, subject: Subject, near: Tensor
) -> Tensor:
    """Cross-entropy, and smooth L1 of the near boxes' deltas. Deltas do not depend on the scale of the image."""
    near = near.to(logits.device)
    loss = F.cross_entropy(logits, near.long() * (subject.label + 1))
    target = subject.box.to(boxes)[None].expand(int(near.sum()), -1)
    (wanted,) = detector.roi_heads.box_coder.encode([target], [boxes[near]])
    first = 4 * (subject.label + 1)
    return loss + F.smooth_l1_loss(deltas[near, first : first + 4], wanted)


def branch_of(detector: RCNN) -> FCHead | ConvHead:
    """The one branch of a detector."""
    (name,) = detector.branches
    return detector.roi_heads.heads.branch(name)


def _normalise(detector: RCNN, found: Sequence[Subject]) -> None:
    """Give batch normalisation the statistics of the subjects' images and proposals, layer after layer."""
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the subjects
        norm.train()
    for subject in found:
        _hidden(detector, subject)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()


def _hidden(detector: RCNN, subject: Subject) -> Tensor:
    """(n, width): what the predictor gets of some of an object's proposals."""
    found: list[Tensor] = []
    hook = branch_of(detector).predictor.register_forward_pre_hook(
        lambda _, inputs: found.append(inputs[0])
    )
    try:
        features = detector.extract(subject.image.to(detector.device))
        step = max(1, len(subject.proposals) // CALIBRATING_PROPOSALS)
        boxes = subject.proposals[::step].to(detector.device)
        detector.predict(features, detector.pool(features, boxes), boxes)
    finally:
        hook.remove()
    return torch.cat(found)


def _spread(branch: FCHead | ConvHead, hidden: Sequence[Tensor]) -> None:
    predictor = branch.predictor
    for layer, spread in ((predictor.cls_score, SCORE_SPREAD), (predictor.bbox_pred, DELTA_SPREAD)):
        outputs = [layer(each) for each in hidden]
        within = torch.stack([each.std(dim=0) for each in outputs]).mean(dim=0)
        factor = spread / within.clamp(min=1e-6)
        layer.weight.mul_(factor[:, None])
        layer.bias.sub_(torch.cat(outputs).mean(dim=0)).mul_(factor)
