"""Detectors from torchvision's model builders and weights, or from a live module."""

from __future__ import annotations

import argparse
import difflib
import logging
import re
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum
from torchvision.models import detection as torchvision_detection

from rethink_heads.detectors.answers import first_line
from rethink_heads.detectors.checkpoints.layouts import known_class_names, names_for
from rethink_heads.detectors.checkpoints.reading import (
    load_weights,
    read_checkpoint,
    without_prefix,
)
from rethink_heads.detectors.random_weights import IMAGE_SIZE, spread_outputs
from rethink_heads.detectors.torchvision.adapter import (
    TorchvisionDetector,
    check_two_stages,
    class_count,
)
from rethink_heads.errors import UserError
from rethink_heads.files import sha256

logger = logging.getLogger(__name__)

RANDOM = "random"
REMEDY = (
    "give the builder that it was trained with, or open a model of your own in Python and give it as"
    " --model python:MODULE:FUNCTION"
)
TWO_STAGES = ("faster_rcnn", "mask_rcnn", "keypoint_rcnn")
"""torchvision's modules of two-stage detectors."""

CLASS_WEIGHT = "roi_heads.box_predictor.cls_score.weight"
KEYPOINT_WEIGHT = "roi_heads.keypoint_predictor.kps_score_lowres.weight"
SPREADS = {
    "rpn.head.cls_logits": 2.0,
    "rpn.head.bbox_pred": 0.3,
    "roi_heads.box_predictor.cls_score": 1.2,
    "roi_heads.box_predictor.bbox_pred": 0.5,
}
"""By last layer: standard deviation over boxes that random weights give its outputs."""

ZERO_EPS = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")
"""Builders that set the eps of batch normalisation to 0 under their weights COCO_V1, which were trained so."""


def open_torchvision(
    name: str,
    weights: str | None = None,
    class_names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> TorchvisionDetector:
    """The detector of one of torchvision's model builders, with published weights, a file's, or random ones.
    Raises UserError for no such builder or weights, no two-stage detector, weights that do not fit or cannot be
    downloaded, or nothing says the class names.

    Args:
        name: the builder's, as ``fasterrcnn_resnet50_fpn``.
        weights: torchvision's name of published weights (``DEFAULT``, ``COCO_V1``); or the path of a state dict, plain
            or under a key such as ``model`` or ``model_state_dict``, in a file of ``torch.save`` or safetensors, which
            must come from this builder with its defaults but for the number of classes (a state dict holds neither
            sizes of images and anchors nor thresholds, nor eps of batch normalisation, which is 1e-5 but for
            torchvision's own files, known by their content; open anything else in Python); or ``random``: seeded random
            weights whose outputs differ from box to box, for trying things.
        class_names: the K foreground classes, the labels from 1 on; None takes those of the published weights, those
            that the file names, or, by their number, COCO's (90, as the ids, or 80) or VOC's.
    """
    builder = _builder(name)
    published = models.get_model_weights(builder)
    if weights is None:
        raise UserError(
            f"torchvision:{name} needs weights: give --weights {_choices(published)}, or random to try things"
        )
    if weights == RANDOM:
        return _random(builder, published, class_names, device)
    member = _member(published, weights)
    if member is not None:
        model = _downloaded(builder, member)
        return TorchvisionDetector(model.to(device), class_names or _categories(member))
    model, names = _from_file(builder, published, name.lower(), Path(weights))
    return TorchvisionDetector(model.to(device), class_names or names or _named(model, published))


def from_module(model: nn.Module, class_names: Sequence[str] | None = None) -> TorchvisionDetector:
    """A live module, in place on its device, as a detector.
    Raises UserError where it is no two-stage detector, or nothing says the class names, or they do not fit in number.

    Args:
        model: a ``FasterRCNN``, ``MaskRCNN`` or ``KeypointRCNN``.
        class_names: the K foreground classes, the labels from 1 on; None takes COCO's or VOC's by their number.
    """
    check_two_stages(model)
    return TorchvisionDetector(model, class_names or _named(model))


def _builder(name: str) -> Callable[..., nn.Module]:
    known = models.list_models(module=torchvision_detection)
    by_name = {each: models.get_model_builder(each) for each in known}
    two_stages = [
        each for each, it in by_name.items() if it.__module__.rpartition(".")[2] in TWO_STAGES
    ]
    if name.lower() in two_stages:
        return by_name[name.lower()]
    if name.lower() in by_name:
        problem = f"torchvision's {name} has no second stage, which is what the analyses look at"
    else:
        problem = f"torchvision has no detector {name!r}"
    nearest = difflib.get_close_matches(name.lower(), two_stages, n=3, cutoff=0) or two_stages
    raise UserError(f"{problem}; the nearest that will do: {', '.join(nearest)}")


def _member(published: type[WeightsEnum], weights: str) -> WeightsEnum | None:
    """The published weights of that name, with or without the enum's own before it."""
    enum, _, short = weights.rpartition(".")
    if enum and enum != published.__name__:
        return None
    return published.__members__.get(short.upper())


def _choices(published: type[WeightsEnum]) -> str:
    return ", ".join(["DEFAULT", *(member.name for member in published), "a file of weights"])


def _categories(member: WeightsEnum) -> tuple[str, ...]:
    return tuple(member.meta["categories"][1:])


def _downloaded(builder: Callable[..., nn.Module], member: WeightsEnum) -> nn.Module:
    try:
        return builder(weights=member)
    except (OSError, HTTPException, RuntimeError) as error:
        raise UserError(
            f"the weights {member} cannot be had from {member.url} ({first_line(error)}): check the network, or"
            " download the file elsewhere and give its path as --weights"
        ) from error


def _built(builder: Callable[..., nn.Module], **sizes: int) -> nn.Module:
    """An untrained model; the same each time, and no random state is moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return builder(weights=None, weights_backbone=None, **sizes)


def _random(
    builder: Callable[..., nn.Module],
    published: type[WeightsEnum],
    class_names: Sequence[str] | None,
    device: torch.device | str,
) -> TorchvisionDetector:
    names = tuple(class_names or _categories(published["DEFAULT"]))
    detector = TorchvisionDetector(_built(builder, num_classes=len(names) + 1), names)
    # On the CPU, so that the weights are the same on every device; and not enlarged, which would take a while.
    transform = detector.model.transform
    size, transform.min_size = transform.min_size, (IMAGE_SIZE[0],)
    spread_outputs(detector, detector.model, SPREADS)
    transform.min_size = size
    detector.model.to(device)
    return detector


def _from_file(
    builder: Callable[..., nn.Module], published: type[WeightsEnum], name: str, path: Path
) -> tuple[nn.Module, tuple[str, ...] | None]:
    """The model with a file's weights, and the class names where the file says them."""
    if not path.is_file():
        raise UserError(
            f"{path} is neither a file nor the name of weights that torchvision publishes for {name}: give"
            f" {_choices(published)}, or random to try things"
        )
    state, names = _read_weights(path)
    sizes = {"num_classes": _side(state, CLASS_WEIGHT, 0, path)}
    if KEYPOINT_WEIGHT in state:
        sizes["num_keypoints"] = _side(state, KEYPOINT_WEIGHT, 1, path)
    model = _built(builder, **sizes)
    load_weights(model, state, path, name, REMEDY)
    member = _published(published, path)
    if name in ZERO_EPS:
        _set_eps(model, member, name, path)
    return model, _categories(member) if member else names


def _side(state: dict[str, Tensor], name: str, axis: int, path: Path) -> int:
    """A side of a layer's weight, which says how many outputs the model is built with."""
    shape = state[name].shape
    # Sides of what has no numbers may be of any size.
    if len(shape) <= axis or not state[name].numel():
        raise UserError(
            f"{path}: {name} has the shape {tuple(shape)}, which is no layer's: give a state dict of the whole model"
        )
    return shape[axis]


def _set_eps(model: nn.Module, member: WeightsEnum | None, name: str, path: Path) -> None:
    """The eps that weights were trained with, of one of the builders of which there are both."""
    if member is None:
        logger.warning(
            "%s does not say the eps of batch normalisation that it was trained with, and 1e-5 is assumed, as in a"
            " training from nothing; where it continues torchvision's own COCO_V1 of %s, whose eps is 0, open the"
            " model in Python and give it as --model python:MODULE:FUNCTION",
            path,
            name,
        )
    elif member.name == "COCO_V1":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0


def _published(published: type[WeightsEnum], path: Path) -> WeightsEnum | None:
    """The published weights that a file is, whatever it is called: their names end in its hash."""
    digest = sha256(path)
    for member in published:
        said = re.search(r"-([0-9a-f]{8,})$", Path(member.url).stem)
        if said and digest.startswith(said[1]):
            return member
    return None


def _read_weights(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """A file's weights by the builder's names, without whatever wraps them, and class names that it says."""
    # What torchvision's own training script puts beside the weights; it holds plain values.
    # Leaving takes away what was added, which whoever imports this may have added before.
    known = torch.serialization.get_safe_globals()
    added: list[Any] = [] if argparse.Namespace in known else [argparse.Namespace]
    with torch.serialization.safe_globals(added):
        checkpoint = read_checkpoint(path)
    weights, names = without_prefix(checkpoint.state, CLASS_WEIGHT), checkpoint.class_names
    if CLASS_WEIGHT not in weights:
        raise UserError(
            f"{path} has no {CLASS_WEIGHT}, so its weights are not those of a two-stage detector of torchvision: give"
            " a state dict of the whole model"
        )
    return weights, names


def _named(model: Any, published: type[WeightsEnum] | None = None) -> tuple[str, ...]:
    """Class names by their number: of the published weights, of COCO by id or in its 80, of VOC."""
    count = class_count(model)
    listed = [_categories(member) for member in published or ()]
    listed.append(
        tuple(torchvision_detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"][1:])
    )
    listed.append(tuple(known_class_names(count or 0) or ()))
    return names_for(count, listed, "the labels from 1 on")
