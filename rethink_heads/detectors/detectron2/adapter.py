"""A detectron2 ``GeneralizedRCNN`` as the analyses see a detector."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rethink_heads.detectors.answers import check_finite
from rethink_heads.detectors.base import Detections, HeadOutput, RoIFeatures
from rethink_heads.detectors.coordinates import ImageFeatures, clip_boxes
from rethink_heads.detectors.detectron2.config import require_detectron2
from rethink_heads.detectors.fingerprint import configuration_of, replaced_methods
from rethink_heads.errors import UserError
from rethink_heads.fastpath.heads import HeadsFastPath
from rethink_heads.suppression import Suppression

if TYPE_CHECKING:
    from detectron2.modeling import GeneralizedRCNN

CHANNEL_ORDERS = ("BGR", "RGB")
STEPS = ("forward", "inference", "preprocess_image", "_postprocess")
"""Methods of detectron2's ``GeneralizedRCNN`` that the adapter follows or takes the place of."""


def classes_of(model: Any) -> int:
    """K of a ``GeneralizedRCNN``.
    Raises UserError where it is something else, or goes from images to detections by steps of its own.
    """
    from detectron2.modeling import GeneralizedRCNN

    if not isinstance(model, GeneralizedRCNN):
        raise UserError(
            f"a {type(model).__name__} is no two-stage detector of detectron2: give a GeneralizedRCNN"
        )
    if own := replaced_methods(model, STEPS, "detectron2"):
        raise UserError(
            f"what this {type(model).__name__} makes of an image is not known, since it has a {own[0]} of its own: put"
            " it behind rethink_heads.Detector yourself (notebooks/your_own_detector shows how)"
        )
    return int(model.roi_heads.num_classes)


class Detectron2Detector:
    """A two-stage detector of detectron2: ``StandardROIHeads``, ``Res5ROIHeads`` or our heads in detectron2.
    Raises UserError where detectron2 is missing, the model is no ``GeneralizedRCNN``, has other RoI heads or steps of
    its own, or the class names do not fit its classes in number.

    Attributes:
        class_names: the K foreground classes.
        model: the module itself.
        stage: its second stage.
        propose: features of a uint8 RGB image (3, H, W) and the RPN's proposals (M, 4) in its pixels, best first.
        detect: by head, final detections in a uint8 RGB image (3, H, W), those of detectron2's ``DefaultPredictor``.
            A model that is given proposals with its images (detectron2's Fast R-CNN) has neither of these two.

    Args:
        model: on its device; it is put into evaluation mode, its weights stay as they are.
        class_names: the K foreground classes, in the order of its scores.
        min_size: pixels of a resized image's shorter side (``INPUT.MIN_SIZE_TEST``); 0 leaves images as they are.
        max_size: most pixels of its longer side (``INPUT.MAX_SIZE_TEST``).
        channel_order: ``BGR`` or ``RGB`` (``INPUT.FORMAT``); None takes the model's own ``input_format``, BGR where
            that is not said.
    """

    # Set on instances that have an RPN, so that `base.supports` answers for the model.
    propose: Callable[[Tensor], tuple[ImageFeatures, Tensor]]
    detect: Callable[[Tensor], dict[str, Detections]]

    def __init__(
        self,
        model: GeneralizedRCNN,
        class_names: Sequence[str],
        min_size: int = 800,
        max_size: int = 1333,
        channel_order: str | None = None,
    ) -> None:
        require_detectron2()
        from rethink_heads.detectors.detectron2.stages import stage_of

        count = classes_of(model)
        self.stage = stage_of(model.roi_heads)
        self.class_names = tuple(class_names)
        if len(self.class_names) != count:
            raise UserError(
                f"{len(self.class_names)} class names for a detector of {count} classes: give one name for each, in"
                " the order of its scores"
            )
        self.channel_order = channel_order or model.input_format or "BGR"
        if self.channel_order not in CHANNEL_ORDERS:
            raise UserError(
                f"channel order {self.channel_order!r}: images can be given to the detector as BGR or RGB only"
            )
        self.min_size, self.max_size = min_size, max_size
        self.model = model.eval()
        if model.proposal_generator is not None:
            self.propose, self.detect = self._propose, self._detect

    @property
    def heads(self) -> tuple[str, ...]:
        """``fc``, ``conv``, ``conv-fc`` or ``box`` by the box head's layers, or the names of our heads."""
        return self.stage.heads

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @property
    def suppression(self) -> Suppression:
        """How detections are made of scores and boxes."""
        return self.stage.suppression

    @property
    def configuration(self) -> str:
        """What decides scores, boxes, proposals and detections beside the weights, as a text of many lines."""
        import detectron2

        own = ("class_names", "min_size", "max_size", "channel_order")
        lines = [f"{name} = {getattr(self, name)!r}" for name in own]
        lines.insert(0, f"detectron2 {detectron2.__version__}")
        return "\n".join([*lines, configuration_of(self.model)])

    def _resized(self, image: Tensor) -> Tensor:
        """A uint8 RGB image (3, H, W) as detectron2's predictor feeds it: float (3, h, w), in the channel order."""
        from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform

        pixels = image.permute(1, 2, 0).cpu().numpy()
        if self.channel_order == "BGR":
            pixels = pixels[:, :, ::-1]
        if self.min_size:
            height, width = pixels.shape[:2]
            size = ResizeShortestEdge.get_output_shape(height, width, self.min_size, self.max_size)
            pixels = ResizeTransform(height, width, *size).apply_image(pixels)
        return torch.as_tensor(pixels.astype("float32").transpose(2, 0, 1))

    def _transformed(self, image: Tensor) -> tuple[Any, ImageFeatures]:
        batch = self.model.preprocess_image([{"image": self._resized(image)}])
        levels = self.model.backbone(batch.tensor)
        height, width = batch.image_sizes[0]
        own_height, own_width = image.shape[-2:]
        return batch, ImageFeatures(levels, (int(height), int(width)), (own_height, own_width))

    def _proposed(self, batch: Any, features: ImageFeatures) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid")
            proposals, _ = self.model.proposal_generator(batch, features.pyramid, None)
        boxes: Tensor = proposals[0].proposal_boxes.tensor
        return boxes

    def extract(self, image: Tensor) -> ImageFeatures:
        """The backbone once: features of a uint8 RGB image (3, H, W)."""
        return self._transformed(image)[1]

    def _propose(self, image: Tensor) -> tuple[ImageFeatures, Tensor]:
        batch, features = self._transformed(image)
        return features, features.to_original(self._proposed(batch, features))

    def pool(self, features: ImageFeatures, boxes: Tensor) -> RoIFeatures:
        """RoI features (N, C, S, S) of boxes (N, 4) in pixels of the original image, under ``box`` or by branch."""
        return self.stage.pool(features.pyramid, features.to_resized(boxes))

    def predict(
        self, features: ImageFeatures, roi_features: RoIFeatures, boxes: Tensor
    ) -> dict[str, HeadOutput]:
        """By head: scores (N, K) and clipped boxes (N, K, 4), in pixels of the original image."""
        outputs = self.stage.predict(roi_features, features.to_resized(boxes), features.size)
        size = features.original_size
        return {
            # As detectron2 does: clipped to the resized image, scaled, and clipped again to the original.
            name: HeadOutput(out.scores, clip_boxes(features.to_original(out.boxes), size, "edge"))
            for name, out in outputs.items()
        }

    def fast_path(self, dtype: torch.dtype) -> HeadsFastPath | None:
        """What asks detectron2's own fc-head about one class of many boxes at once; None for any other head."""
        return self.stage.fast_path(dtype, self.extract)

    def output_maps(self, roi_features: RoIFeatures) -> dict[str, Tensor]:
        """By branch: output maps (N, C, S, S), those of fully connected layers rebuilt from the first of them."""
        return self.stage.output_maps(roi_features)

    def weight_maps(self) -> dict[str, Tensor]:
        """By fc branch: the first layer's weights by RoI position, (weights, S, S)."""
        return self.stage.weight_maps()

    @torch.inference_mode()
    def _detect(self, image: Tensor) -> dict[str, Detections]:
        from detectron2.modeling.postprocessing import detector_postprocess

        batch, features = self._transformed(image)
        check_finite("the detector's backbone gave features", *features.pyramid.values())
        proposals = self._proposed(batch, features)
        pooled = self.stage.pool(features.pyramid, proposals)
        found = self.stage.detections(pooled, proposals, features.size)
        kept = {
            name: detector_postprocess(instances, *features.original_size)
            for name, instances in found.items()
        }
        return {
            name: Detections(found.pred_boxes.tensor, found.scores, found.pred_classes)
            for name, found in kept.items()
        }
