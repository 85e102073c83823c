"""Checks a user's own detector against the Protocol, before long work relies on it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rethink_heads.detectors.answers import brief, detect, first_line, predict, propose, user_code
from rethink_heads.detectors.base import Detector, HeadOutput, RoIFeatures, supports
from rethink_heads.detectors.fingerprint import modules_in
from rethink_heads.errors import UserError

# An image that is neither square nor a multiple of a stride, so that mixed-up axes show.
IMAGE_SHAPE = (3, 203, 251)
BOXES = ((20.0, 30.0, 120.0, 110.0), (0.0, 0.0, 251.0, 203.0), (100.5, 50.25, 140.0, 190.0))

HEAD_NAME = re.compile(r"[^/\x00-\x1f\ud800-\udfff]{1,60}")
TOLERANCE = 1e-4
"""How much two answers may differ that should be the same: in scores, and in boxes relative to the image's sides."""

ROUGH_TOLERANCE = 1e-2
"""The same where numbers have few digits: in half precision, and on GPUs, which may convolve in TensorFloat-32."""

_EVAL = "a module may be in training mode (put it into evaluation mode with eval())"


def check_detector(detector: Detector, name: str = "the detector") -> None:
    """Put one synthetic image and three boxes through a detector and look at what comes back.

    It is asked twice, and of one box alone, and must answer alike. Each optional method that it has is called once.
    Buffers of its modules and the random state are afterwards as they were.

    Args:
        detector: a user's own.
        name: how messages call it.

    Raises:
        UserError: shapes, types, ranges or names are not those of :mod:`rethink_heads.detectors.base`, or a method
            raises something; the message says which method gave what.
    """
    with user_code(f"`class_names`, `heads` or `device` of {name}"):
        _names(detector.class_names, "class_names", name)
        heads = _names(detector.heads, "heads", name)
        if len(set(heads)) < len(heads) or not all(HEAD_NAME.fullmatch(head) for head in heads):
            raise UserError(
                f"`heads` of {name} is {brief(heads)}: each needs a name of its own, of at most 60 characters and"
                " without '/', since files are called after it"
            )
        try:
            device = torch.device(detector.device)
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"`device` of {name} is {brief(detector.device)}, where a torch.device is expected"
            ) from error
    random = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, IMAGE_SHAPE, generator=random, dtype=torch.uint8)
    try:
        image, boxes = image.to(device), torch.tensor(BOXES).to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"`device` of {name} is {device}, which cannot be used here ({first_line(error)[:200]})"
        ) from error
    with _unchanged(detector, device, name), torch.inference_mode():
        first, pooled = _outputs_of(detector, image, boxes, name)
        again, _ = _outputs_of(detector, image, boxes, name)
        _check_same(
            first, again, f"`predict` of {name} gave other {{}} for the same image and boxes again"
        )
        alone, _ = _outputs_of(detector, image, boxes[:1], name)
        _check_same(
            {head: HeadOutput(each.scores[:1], each.boxes[:1]) for head, each in first.items()},
            alone,
            f"`predict` of {name} gave other {{}} for a box alone than for the same box among three",
        )
        _check_optional(detector, image, pooled, name)


def _outputs_of(
    detector: Detector, image: Tensor, boxes: Tensor, name: str
) -> tuple[dict[str, HeadOutput], RoIFeatures]:
    """By head the outputs for boxes of an image, and their RoI features, all of the right shapes."""
    with user_code(f"`extract` of {name}"):
        features = detector.extract(image)
    with user_code(f"`pool` of {name}"):
        pooled = detector.pool(features, boxes)
    _check_maps(pooled, 4, len(boxes), f"`pool` of {name}", f" for {len(boxes)} boxes")
    said = f"`predict` of {name}"
    with user_code(said):
        outputs = predict(detector, features, pooled, boxes, said)
    for head, output in outputs.items():
        _check_place(output, f"{said} ({head})")
    return outputs, pooled


@contextlib.contextmanager
def _unchanged(detector: Detector, device: torch.device, name: str) -> Iterator[None]:
    """Put buffers and the random state back, and report buffers that a module in training mode changed."""
    modules = [each for found in modules_in(detector) for each in found.modules()]
    with torch.inference_mode():
        before = [
            (module, key, buffer, buffer.clone())
            for module in modules
            for key, buffer in module._buffers.items()
            if buffer is not None
        ]
    gpus = [device.index or 0] if device.type == "cuda" else []
    changed: nn.Module | None = None
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            for module, key, buffer, values in before:
                same = module._buffers.get(key) is buffer
                # nan is the same as nan.
                same = same and bool(((buffer == values) | (buffer.isnan() & values.isnan())).all())
                if not same:
                    changed = changed or (module if module.training else None)
                    with torch.inference_mode():
                        module._buffers[key] = buffer.copy_(values)
    if changed is not None:
        raise UserError(
            f"a {type(changed).__name__} of {name} is in training mode and changes with the images that it is shown;"
            " put it into evaluation mode with eval()"
        )


def _check_same(first: dict[str, HeadOutput], other: dict[str, HeadOutput], what: str) -> None:
    for head, output in first.items():
        for attribute, scale in (("scores", 1.0), ("boxes", float(max(IMAGE_SHAPE)))):
            one, two = getattr(output, attribute), getattr(other[head], attribute)
            is_rough = one.device.type != "cpu" or one.dtype.itemsize < torch.float32.itemsize
            difference = (one.double() - two.double()).abs().max().item()
            if difference > (ROUGH_TOLERANCE if is_rough else TOLERANCE) * scale:
                raise UserError(
                    f"{what.format(attribute)} ({head}: they differ by {difference:.2g}); {_EVAL},"
                    " or the detector draws random numbers or keeps what it was shown before"
                )


def _names(found: Any, attribute: str, name: str) -> tuple[str, ...]:
    names = tuple(found) if isinstance(found, list | tuple) else ()
    if not names or not all(isinstance(each, str) for each in names):
        raise UserError(
            f"`{attribute}` of {name} is {brief(found)}, where a tuple of names is expected"
        )
    if any("\ud800" <= letter <= "\udfff" for each in names for letter in each):
        raise UserError(f"`{attribute}` of {name} has a name that is no text that can be written")
    return names


def _check_place(output: HeadOutput, name: str) -> None:
    low, high = output.boxes[..., :2], output.boxes[..., 2:]
    limit = output.boxes.new_tensor([IMAGE_SHAPE[2], IMAGE_SHAPE[1]])
    # A pixel's tolerance: some frameworks clip in their resized image and scale back.
    if bool((low > high).any() or (low < -1).any() or (high > limit + 1).any()):
        raise UserError(
            f"{name} gave boxes outside the image or upside down; xyxy in pixels of the original image, clipped"
            " to it, are expected"
        )
    if bool((output.boxes <= 1).all()):
        raise UserError(
            f"{name} gave boxes that all lie within 0 to 1; pixels of the original image are expected"
        )


def _check_optional(detector: Detector, image: Tensor, pooled: RoIFeatures, name: str) -> None:
    """Call each optional method that a detector has, and look at what it gives."""
    if supports(detector, "propose"):
        with user_code(said := f"`propose` of {name}"):
            propose(detector, image, said)
    if supports(detector, "detect"):
        with user_code(said := f"`detect` of {name}"):
            by_head = detect(detector, image, said)
        for head, found in by_head.items():
            if bool((found.scores[1:] > found.scores[:-1]).any()):
                raise UserError(
                    f"{said} ({head}) gave detections out of order; the best first, by falling score, are expected"
                )
    count = len(next(iter(pooled.values()))) if pooled else None
    for method, given, dimensions in (("output_maps", (pooled,), 4), ("weight_maps", (), 3)):
        if supports(detector, method):
            with user_code(said := f"`{method}` of {name}"):
                maps = getattr(detector, method)(*given)
            _check_maps(maps, dimensions, count if dimensions == 4 else None, said)


def _check_maps(maps: Any, dimensions: int, count: int | None, name: str, about: str = "") -> None:
    """Raise UserError unless there are square maps by branch: of boxes (N, C, S, S), of weights (W, S, S)."""
    fine = isinstance(maps, dict) and all(
        isinstance(each, Tensor)
        and each.dim() == dimensions
        and each.shape[-2] == each.shape[-1]
        and (count is None or len(each) == count)
        for each in maps.values()
    )
    if not fine:
        boxes = "N" if count is None else str(count)
        expected = f"({boxes}, C, S, S)" if dimensions == 4 else "(W, S, S)"
        raise UserError(
            f"{name} gave {brief(maps)}{about}, where a dict of tensors {expected} is expected, or an empty one"
        )
