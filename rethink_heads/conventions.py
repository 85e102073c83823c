"""What detection frameworks do differently with the same weights, as settings of a detector.

A weight file means something only together with the arithmetic around it: which pixel a coordinate names, how an
image is resized, where a bottleneck strides. The defaults are torchvision's, which detectors trained by this package
follow but for ``roi_level_from``: new runs have ``proposal`` there (:func:`rethink_heads.config.load_preset`), and the
default is what older runs, whose files do not say it, were trained with. ``rethink-heads import`` sets them to those of
the framework that a file comes from.

Two conventions are not here because the import undoes them in the weights: background comes first, and every class,
background too, has its own four rows of box deltas.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from rethink_heads import bounds

Framework = Literal["torchvision", "maskrcnn-benchmark", "mmdetection", "detectron2"]
# Newer than files that have the others; left out where it is as it always was, so that these stay as they are.
NEWER = ("proposal_order",)


class ConventionsConfig(BaseModel):
    """Arithmetic around a detector's weights; sizes in pixels.

    Attributes:
        box_ends: what a box's x2 and y2 are: the ``edge`` behind its last pixel, or the index of the last ``pixel``
            (maskrcnn-benchmark), so that a width is x2 - x1 + 1. Inside a detector boxes are edges in either case: a
            pixel's index is its edge less 1. The convention decides how boxes are scaled with an image (their
            indices are), clipped (to indices 0..W-1), pooled (RoIAlign is given indices) and what anchors are.
        channel_order: order of the colours that the network is fed.
        pixel_range: the value of white there, before ``model.image_mean`` is taken off and ``model.image_std`` divides.
        size_rule: how the size of the resized image is rounded.
        interpolation: ``float`` resizes the normalised image (torchvision); the others resize 8-bit pixels and
            round, ``pillow`` with Pillow itself (it smooths where it shrinks), ``opencv`` with OpenCV's arithmetic.
        pad_multiple: sides of a batch are padded with zeros to a multiple of this.
        stride_in_1x1: a bottleneck of the backbone strides in its first 1x1 convolution, not in its 3x3.
        frozen_norm_epsilon: added to the variance by frozen batch normalisation.
        anchors: torchvision rounds corners about a cell's corner and infers strides from the padded image;
            maskrcnn-benchmark rounds sides of a cell-sized anchor, scales it, about the cell's middle;
            mmdetection and detectron2 round nothing, about the cell's corner. All but torchvision have strides 4 to 64.
        proposal_order: what suppression ranks the RPN's proposals by. It is the same order, but for far-off logits
            whose probabilities round to the same number.
        delta_limits: size deltas are limited to ``growth`` by 1000 / 16, or in ``both`` directions.
        roi_align_aligned: RoIAlign shifts by half a cell (``aligned=True``).
        roi_level_rule: where in log2 of an RoI's size the small constant is added that decides ties of levels.
        roi_level_from: an RoI's level follows its size before (``proposal``) or after (``enlarged``) the conv-head's
            enlargement. The authors' code and mmdetection take the former.
        least_proposal_side: a narrower or lower proposal of the RPN is dropped; 0 keeps all.
        least_detection_side: the same for detections.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    box_ends: Literal["edge", "pixel"] = "edge"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    pixel_range: Annotated[float, AfterValidator(bounds.PIXEL_RANGE)] = 1.0
    size_rule: Framework = "torchvision"
    interpolation: Literal["float", "pillow", "opencv"] = "float"
    pad_multiple: Annotated[int, Field(multiple_of=32), AfterValidator(bounds.PADDING)] = 32
    stride_in_1x1: bool = False
    frozen_norm_epsilon: Annotated[float, AfterValidator(bounds.EPSILON)] = 1e-5
    anchors: Framework = "torchvision"
    delta_limits: Literal["growth", "both"] = "growth"
    roi_align_aligned: bool = False
    roi_level_rule: Framework = "torchvision"
    roi_level_from: Literal["enlarged", "proposal"] = "enlarged"
    least_proposal_side: Annotated[float, AfterValidator(bounds.LEAST_SIDE)] = 1e-3
    least_detection_side: Annotated[float, AfterValidator(bounds.LEAST_SIDE)] = 0.01
    proposal_order: Literal["probability", "logit"] = "probability"

    @model_serializer(mode="wrap")
    def _leave_out_usual(self, to_mapping: SerializerFunctionWrapHandler) -> Any:
        values = to_mapping(self)
        for name in NEWER:
            if getattr(self, name) == type(self).model_fields[name].default:
                values.pop(name, None)
        return values


MASKRCNN_BENCHMARK = ConventionsConfig(
    box_ends="pixel",
    channel_order="bgr",
    pixel_range=255.0,
    size_rule="maskrcnn-benchmark",
    interpolation="pillow",
    stride_in_1x1=True,
    frozen_norm_epsilon=0.0,
    anchors="maskrcnn-benchmark",
    roi_level_rule="maskrcnn-benchmark",
    roi_level_from="proposal",
    least_proposal_side=0.0,
    least_detection_side=0.0,
)
"""maskrcnn-benchmark's, as the authors of Double-Head set it up (their code and configuration files)."""

MMDETECTION = ConventionsConfig(
    pixel_range=255.0,
    size_rule="mmdetection",
    interpolation="opencv",
    anchors="mmdetection",
    delta_limits="both",
    roi_align_aligned=True,
    roi_level_rule="mmdetection",
    roi_level_from="proposal",
    # It asks for sides above zero, not for at least zero.
    least_proposal_side=1e-30,
    least_detection_side=0.0,
)
"""mmdetection's in ``dh-faster-rcnn_r50_fpn_1x_coco`` (mmdetection 3.3)."""

DETECTRON2 = ConventionsConfig(
    channel_order="bgr",
    pixel_range=255.0,
    size_rule="detectron2",
    interpolation="pillow",
    stride_in_1x1=True,
    anchors="detectron2",
    proposal_order="logit",
    roi_align_aligned=True,
    roi_level_rule="detectron2",
    # It asks for sides above zero, not for at least zero.
    least_proposal_side=1e-30,
    least_detection_side=1e-30,
)
"""detectron2's with its default settings; a model's own may set colours, strides and RoIAlign otherwise.

Detections without width or height are dropped before NMS here and last of all in detectron2, where they can take places
of the best 100.
"""
