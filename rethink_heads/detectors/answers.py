"""Asks a detector and checks what it answers: shapes, types, numbers, labels.

A user's own detector is tried on a synthetic image when it is opened (:func:`check_detector`). On real ones numbers
may overflow, its labels may start at 1, its code may fail. Nothing of that may be counted, so every answer is looked at
before it is used; and what is wrong names the detector and the image.
"""

from __future__ import annotations

import contextlib
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rethink_heads
from rethink_heads.detectors.base import (
    Detections,
    Detector,
    Features,
    HeadOutput,
    RoIFeatures,
    supports,
)
from rethink_heads.detectors.fingerprint import modules_in
from rethink_heads.errors import UserError

ROUNDING = 1e-3
"""How far sums and products in half precision may lead a probability out of 0 to 1."""

NOT_FINITE = (
    "that are not finite numbers: its weights are damaged, its training diverged, or it overflows on"
    " this image; use weights of before, or compute in float32"
)
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
_OURS = str(Path(rethink_heads.__file__).parent)
_LONGEST = 300
# An image that is neither square nor a multiple of a stride, so that mixed-up axes show.
IMAGE_SHAPE = (3, 203, 251)
BOXES = ((20.0, 30.0, 120.0, 110.0), (0.0, 0.0, 251.0, 203.0), (100.5, 50.25, 140.0, 190.0))
HEAD_NAME = re.compile(r"[^/\x00-\x1f\ud800-\udfff]{1,60}")
TOLERANCE = 1e-4
"""How much two answers may differ that should be the same: in scores, and in boxes relative to the image's sides."""
ROUGH_TOLERANCE = 1e-2
"""The same where numbers have few digits: in half precision, and on GPUs, which may convolve in TensorFloat-32."""
_EVAL = "a module may be in training mode (put it into evaluation mode with eval())"


@contextlib.contextmanager
def on_image(detector_name: str, image_id: int) -> Iterator[None]:
    """Let what goes wrong with a detector on an image name both.
    Raises UserError where one was raised, or the user's own code raised anything but an interruption.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{detector_name} on image {image_id}: {error}") from error
    except BaseException as error:
        if not is_from_user_code(error):
            raise
        raise UserError(
            f"{detector_name} failed on image {image_id}: {describe_error(error)}"
        ) from error


def predict(
    detector: Detector,
    features: Features,
    roi_features: RoIFeatures,
    boxes: Tensor,
    name: str = "`predict`",
) -> dict[str, HeadOutput]:
    """What each head says of boxes (N, 4), without gradients. ``name`` is how messages call what gave it.
    Raises UserError where it is not what :class:`~rethink_heads.detectors.base.HeadOutput` asks for: finite scores (N,
    K) from 0 to 1 and boxes (N, K, 4) of each head.
    """
    outputs: Any = detector.predict(features, roi_features, boxes)
    heads, rows, classes = detector.heads, len(boxes), len(detector.class_names)
    if not isinstance(outputs, dict) or set(outputs) != set(heads):
        raise UserError(
            f"{name} gave {_brief(outputs)}, where a dict with the heads {', '.join(heads)} is expected"
        )
    for head, output in outputs.items():
        said = f"{name} ({head})"
        if not isinstance(output, HeadOutput):
            raise UserError(f"{said} gave {_brief(output)}, where a HeadOutput is expected")
        for attribute, expected in (("scores", (rows, classes)), ("boxes", (rows, classes, 4))):
            value = getattr(output, attribute)
            fits = _are_numbers(value) and value.is_floating_point()
            if not fits or tuple(value.shape) != expected:
                raise UserError(
                    f"{said} gave {attribute} of {_brief(value)}, where floating-point numbers of the shape {expected}"
                    f" are expected: {rows} boxes, {classes} classes without background"
                )
            check_finite(f"{said} gave {attribute}", value)
        _check_range(output.scores, said)
    return {
        head: HeadOutput(output.scores.detach().clamp(0, 1), output.boxes.detach())
        for head, output in outputs.items()
    }


def propose(detector: Any, image: Tensor, name: str = "`propose`") -> tuple[Features, Tensor]:
    """Features of a uint8 RGB image (3, H, W) and the detector's own proposals (M, 4), without gradients.
    Raises UserError where ``name``, which the message begins with, gives something else.
    """
    answer = detector.propose(image)
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    if not is_pair or not _are_boxes(answer[1]):
        raise UserError(
            f"{name} gave {_brief(answer)}, where the image's features and boxes (M, 4) are expected"
        )
    features, boxes = answer
    _check_corners(boxes, name)
    return features, boxes.detach() if boxes.is_floating_point() else boxes.float()


def detect(detector: Any, image: Tensor, name: str = "`detect`") -> dict[str, Detections]:
    """By head, of one or more: final detections in a uint8 RGB image (3, H, W), without gradients.
    Raises UserError where ``name``, which the message begins with, gives something else than
    :class:`~rethink_heads.detectors.base.Detections`, whose labels are 0..K-1.
    """
    answer = detector.detect(image)
    heads, classes = detector.heads, len(detector.class_names)
    is_by_head = isinstance(answer, dict) and set(answer) <= set(heads)
    if not is_by_head or not all(isinstance(each, Detections) for each in answer.values()):
        raise UserError(
            f"{name} gave {_brief(answer)}, where a dict of Detections by the heads {', '.join(heads)} is expected"
        )
    for head, each in answer.items():
        _check_detections(each, classes, f"{name} ({head})")
    return {
        head: Detections(each.boxes.detach(), each.scores.detach().clamp(0, 1), each.labels)
        for head, each in answer.items()
    }


def check_finite(what: str, *values: Tensor) -> None:
    """Raise UserError where what a detector works with is not finite, before thresholds and suppression drop it.

    ``what``, as in "the detector's backbone gave features", begins the message.
    """
    if not all(map(_is_finite, values)):
        raise UserError(f"{what} {NOT_FINITE}")


def _is_finite(values: Tensor) -> bool:
    """Whether no number is nan or infinite: its extremes tell, a hundred times quicker than ``isfinite`` of all."""
    return not values.numel() or all(bool(torch.isfinite(end)) for end in torch.aminmax(values))


def check_loaded(weights: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Raise UserError where weights by name are not finite, as those of a training that diverged.

    ``where`` is the file that they come from, or what made them.
    """
    wrong = [
        name
        for name, value in weights
        if value.is_floating_point() and not (nn.parameter.is_lazy(value) or value.is_meta)
        if not _is_finite(value.detach().float())
    ]
    if wrong:
        raise UserError(
            f"{where} has weights that are not finite numbers ({first_names(wrong)}): its training diverged, or it is"
            " damaged; give the weights of an earlier step"
        )


def _check_detections(found: Detections, classes: int, name: str) -> None:
    boxes, scores, labels = found.boxes, found.scores, found.labels
    fine = _are_boxes(boxes) and all(
        _are_numbers(each) and tuple(each.shape) == (len(boxes),) for each in (scores, labels)
    )
    if not fine:
        shapes = f"boxes of {_brief(boxes)}, scores of {_brief(scores)}, labels of {_brief(labels)}"
        raise UserError(f"{name} gave {shapes}, where the shapes (M, 4), (M,), (M,) are expected")
    _check_corners(boxes, name)
    check_finite(f"{name} gave scores", scores)
    if labels.is_floating_point():
        raise UserError(f"{name} gave labels of type {labels.dtype}, where integers are expected")
    if wrong := labels[(labels < 0) | (labels >= classes)].tolist():
        raise UserError(
            f"{name} gave the label {wrong[0]}, where 0 to {classes - 1} are expected: {classes} classes without"
            " background"
        )
    _check_range(scores, name)


def _check_corners(boxes: Tensor, name: str) -> None:
    check_finite(f"{name} gave boxes", boxes)
    if bool((boxes[:, 2:] < boxes[:, :2]).any()):
        raise UserError(
            f"{name} gave boxes that end before they begin; x1, y1, x2, y2 are expected, not a width and a height"
        )


def _check_range(scores: Tensor, name: str) -> None:
    if bool(((scores < -ROUNDING) | (scores > 1 + ROUNDING)).any()):
        raise UserError(
            f"{name} gave scores outside 0 to 1; probabilities are expected, not logits"
        )


def _are_boxes(boxes: Any) -> bool:
    return _are_numbers(boxes) and boxes.dim() == 2 and boxes.shape[1] == 4


def _are_numbers(value: Any) -> bool:
    """Whether this is a tensor of real numbers, each with its place in memory."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
        return False
    return not (value.is_meta or value.is_quantized or value.is_complex()) and (
        value.dtype != torch.bool
    )


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Let what a user's code raises be a UserError: ``what`` failed, why, and where.
    Raises UserError where anything was raised, ``SystemExit`` too; a UserError and Ctrl-C pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # The user's own code can raise anything.
        if not isinstance(error, Exception) and not is_from_user_code(error):
            raise
        raise UserError(f"{what} failed: {describe_error(error)}") from error


def is_from_user_code(error: BaseException) -> bool:
    """Whether an exception came out of the user's own code, and is no interruption.

    An exit or the like is the user's only where nothing of ours raised it, as what handles signals does.
    """
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, Exception):
        return not frames[-1].filename.startswith(_OURS)
    return any(not each.filename.startswith((_OURS, "<frozen", *_INSTALLED)) for each in frames)


def describe_error(error: BaseException) -> str:
    """An exception of the user's code in a line: what it says, and the last line of the user's that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    beyond_ours = [each for each in frames if not each.filename.startswith((_OURS, "<frozen"))]
    theirs = [each for each in beyond_ours if not each.filename.startswith(_INSTALLED)]
    last = (theirs or beyond_ours)[-1:]
    place = f" ({last[0].filename}, line {last[0].lineno})" if last else ""
    try:
        said = " ".join(str(error).split())
    except Exception:  # A user's own class of errors may fail in this, too.
        said = "it cannot say why"
    more = "..." if len(said) > _LONGEST else ""
    return f"{type(error).__name__}: {said[:_LONGEST]}{more}{place}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip("'\" \n").splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__


def _brief(value: Any) -> str:
    """What was given instead of what is expected: a tensor by its shape, and its type where that is unusual."""
    if isinstance(value, Tensor):
        usual = value.is_floating_point() and value.layout is torch.strided
        kinds = "" if usual else f" of {value.dtype}, {value.layout}".replace("torch.", "")
        return f"shape {tuple(value.shape)}{kinds}" + (" on meta" if value.is_meta else "")
    if isinstance(value, dict):
        shapes = (f"{name}: {_brief(each)}" for name, each in value.items())
        return "{" + ", ".join(shapes) + "}"
    if isinstance(value, tuple) and any(isinstance(each, Tensor) for each in value):
        return f"({', '.join(map(_brief, value))})"
    if isinstance(value, np.ndarray):
        return f"a NumPy array of shape {value.shape}"
    try:
        return " ".join(repr(value).split())[:80]
    except Exception:
        return f"a {type(value).__name__}"


def first_names(names: Sequence[str], longest: int = 60, shown: int = 5) -> str:
    """The first names of a list, each cut to ``longest`` characters, and how many more there are."""
    more = len(names) - shown
    listed = ", ".join(name[:longest] for name in names[:shown])
    return f"{listed} and {more} more" if more > 0 else listed


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
                f"`heads` of {name} is {_brief(heads)}: each needs a name of its own, of at most 60 characters and"
                " without '/', since files are called after it"
            )
        try:
            device = torch.device(detector.device)
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"`device` of {name} is {_brief(detector.device)}, where a torch.device is expected"
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
            f"`{attribute}` of {name} is {_brief(found)}, where a tuple of names is expected"
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
            f"{name} gave {_brief(maps)}{about}, where a dict of tensors {expected} is expected, or an empty one"
        )
