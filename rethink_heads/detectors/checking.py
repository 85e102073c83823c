"""Checks a user's own detector against the Protocol, before long work relies on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rethink_heads.detectors.base import Detector, HeadOutput
from rethink_heads.errors import UserError

# An image that is neither square nor a multiple of a stride, so that mixed-up axes show.
IMAGE_SHAPE = (3, 203, 251)
BOXES = ((20.0, 30.0, 120.0, 110.0), (0.0, 0.0, 251.0, 203.0), (100.5, 50.25, 140.0, 190.0))


def check_detector(detector: Detector, name: str = "the detector") -> None:
    """Put one made-up image and three boxes through a detector and look at what comes back.

    Args:
        detector: a user's own.
        name: how messages call it.

    Raises:
        UserError: shapes, types, ranges or names are not those of :mod:`rethink_heads.detectors.base`; the message says
            which method gave what.
    """
    classes = _names(detector.class_names, "class_names", name)
    heads = _names(detector.heads, "heads", name)
    random = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, IMAGE_SHAPE, generator=random, dtype=torch.uint8)
    boxes = torch.tensor(BOXES).to(detector.device)
    with torch.inference_mode():
        features = detector.extract(image.to(detector.device))
        for chosen in (boxes, boxes[:1]):
            pooled = detector.pool(features, chosen)
            _check_pooled(pooled, len(chosen), name)
            outputs = detector.predict(features, pooled, chosen)
            if not isinstance(outputs, dict) or set(outputs) != set(heads):
                raise UserError(
                    f"`predict` of {name} gave {_said(outputs)}, where a dict with the heads"
                    f" {', '.join(heads)} is expected"
                )
            for head, output in outputs.items():
                _check_output(output, len(chosen), len(classes), f"`predict` of {name} ({head})")


def _names(found: Any, attribute: str, name: str) -> tuple[str, ...]:
    names = tuple(found) if isinstance(found, list | tuple) else ()
    if not names or not all(isinstance(each, str) for each in names):
        raise UserError(
            f"`{attribute}` of {name} is {_said(found)}, where a tuple of names is expected"
        )
    return names


def _check_pooled(pooled: Any, count: int, name: str) -> None:
    fine = isinstance(pooled, dict) and all(
        isinstance(each, Tensor) and each.dim() == 4 and len(each) == count
        for each in pooled.values()
    )
    if not fine:
        raise UserError(
            f"`pool` of {name} gave {_said(pooled)} for {count} boxes, where a dict of tensors"
            f" ({count}, C, S, S) is expected, or an empty one"
        )


def _check_output(output: Any, boxes: int, classes: int, name: str) -> None:
    if not isinstance(output, HeadOutput):
        raise UserError(f"{name} gave {_said(output)}, where a HeadOutput is expected")
    for attribute, expected in (("scores", (boxes, classes)), ("boxes", (boxes, classes, 4))):
        value = getattr(output, attribute)
        if not isinstance(value, Tensor) or tuple(value.shape) != expected:
            raise UserError(
                f"{name} gave {attribute} of {_said(value)}, where the shape {expected} is expected:"
                f" {boxes} boxes, {classes} classes without background"
            )
        if not torch.isfinite(value).all():
            raise UserError(f"{name} gave {attribute} that are not finite; are its weights loaded?")
    if bool(((output.scores < 0) | (output.scores > 1)).any()):
        raise UserError(
            f"{name} gave scores outside 0 to 1; probabilities are expected, not logits"
        )
    low, high = output.boxes[..., :2], output.boxes[..., 2:]
    limit = output.boxes.new_tensor([IMAGE_SHAPE[2], IMAGE_SHAPE[1]])
    # A pixel's tolerance: some frameworks clip in their resized image and scale back.
    if bool((low > high).any() or (low < -1).any() or (high > limit + 1).any()):
        raise UserError(
            f"{name} gave boxes outside the image or upside down; xyxy in pixels of the original image, clipped"
            " to it, are expected"
        )


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}"
    if isinstance(value, dict):
        shapes = (f"{name}: {_said(each)}" for name, each in value.items())
        return "{" + ", ".join(shapes) + "}"
    return repr(value)[:80]
