"""Our detector, an FPN R-CNN with an fc-head, a conv-head or both on torchvision's parts; and its files."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import RegionProposalNetwork

from rethink_heads.config import Config
from rethink_heads.detectors.answers import check_finite, check_loaded
from rethink_heads.detectors.base import Detections, HeadOutput, RoIFeatures
from rethink_heads.detectors.coordinates import (
    ImageFeatures,
    clip_boxes,
    to_edges,
    to_pixels,
)
from rethink_heads.detectors.rcnn.backbone import build_backbone
from rethink_heads.detectors.rcnn.roi_heads import BoxRoIHeads
from rethink_heads.detectors.rcnn.rpn import build_rpn
from rethink_heads.detectors.rcnn.transform import ImageTransform
from rethink_heads.errors import UserError
from rethink_heads.fastpath.conv import FastConv, fold_norms
from rethink_heads.fastpath.fc import FastFC
from rethink_heads.fastpath.heads import BranchLayers, ClassPredictor, HeadsFastPath
from rethink_heads.files import cannot_read, sha256, write_torch
from rethink_heads.heads import FCHead, build_heads
from rethink_heads.structures import HEAD_CONFIGURATIONS, trained_heads
from rethink_heads.suppression import Suppression

logger = logging.getLogger(__name__)


class RCNN(nn.Module):
    """FPN R-CNN whose second stage is any of this package's heads.

    Attributes:
        class_names: the K foreground classes.
        heads: those that this detector's training makes meaningful.
        norm: the backbone's normalisation, ``frozen`` or ``batch``.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        heads: Sequence[str],
        transform: ImageTransform,
        backbone: nn.Module,
        rpn: RegionProposalNetwork,
        roi_heads: BoxRoIHeads,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.class_names, self.heads, self.norm = tuple(class_names), tuple(heads), norm
        self.transform, self.backbone = transform, backbone
        self.rpn, self.roi_heads = rpn, roi_heads

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that are there, fc-heads first."""
        return self.roi_heads.heads.names

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def box_ends(self) -> str:
        """What x2 and y2 of a box are in the framework that the weights come from."""
        return self.roi_heads.conventions.box_ends

    @property
    def suppression(self) -> Suppression:
        """How detections are made of scores and boxes."""
        return self.roi_heads.suppression

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Training losses of a batch.

        Args:
            images: RGB images (3, H_i, W_i), float in [0, 1], of any sizes.
            targets: per image ``boxes`` (N_i, 4), xyxy in its pixels, and ``labels`` (N_i,), 0..K-1.

        Returns:
            ``loss_objectness`` and ``loss_rpn_box_reg`` of the RPN and the weighted losses of each branch.
        """
        # Background is class 0 inside, as in torchvision; a copy, since the transform resizes boxes.
        by_pixels = self.box_ends == "pixel"
        boxes = [to_pixels(t["boxes"]) if by_pixels else t["boxes"] for t in targets]
        shifted = [
            {"boxes": b, "labels": t["labels"] + 1} for b, t in zip(boxes, targets, strict=True)
        ]
        batch, resized = self.transform(list(images), shifted)
        if by_pixels:
            resized = [{**t, "boxes": to_edges(t["boxes"])} for t in resized]
        pyramid = self.backbone(batch.tensors)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid")
            proposals, rpn_losses = self.rpn(batch, pyramid, resized)
        losses = self.roi_heads.training_losses(pyramid, proposals, resized)
        return {**rpn_losses, **losses}

    def _transformed(
        self, image: Tensor, backbone: nn.Module | None = None
    ) -> tuple[object, ImageFeatures]:
        """The batch of one uint8 RGB image (3, H, W), which the RPN asks for, and its features."""
        batch, _ = self.transform([image.to(self.device).float() / 255])
        height, width = image.shape[-2:]
        pyramid = (backbone or self.backbone)(batch.tensors)
        return batch, ImageFeatures(pyramid, batch.image_sizes[0], (height, width), self.box_ends)

    def extract(self, image: Tensor) -> ImageFeatures:
        """Backbone and FPN once: features of a uint8 RGB image (3, H, W) on any device."""
        return self._transformed(image)[1]

    def propose(self, image: Tensor) -> tuple[ImageFeatures, Tensor]:
        """Features of a uint8 RGB image (3, H, W) and the RPN's proposals (M, 4) in its pixels, best first."""
        batch, features = self._transformed(image)
        proposals = self.rpn(batch, features.pyramid)[0][0]
        return features, features.to_original(proposals)

    def pool(self, features: ImageFeatures, boxes: Tensor) -> RoIFeatures:
        """By branch: RoI features (N, C, S, S) of boxes (N, 4) in pixels of the original image."""
        resized = features.to_resized(boxes)
        return self.roi_heads.pool(features.pyramid, [resized])

    def predict(
        self, features: ImageFeatures, roi_features: RoIFeatures, boxes: Tensor
    ) -> dict[str, HeadOutput]:
        """By head: scores (N, K) and clipped boxes (N, K, 4), in pixels of the original image."""
        resized = features.to_resized(boxes)
        outputs = self.roi_heads.predict(roi_features, resized, self.heads, features.size)
        return {
            name: HeadOutput(out.scores, features.to_original(out.boxes))
            for name, out in outputs.items()
        }

    def fast_path(self, dtype: torch.dtype) -> HeadsFastPath:
        """The heads, computing in ``dtype`` with the weights as they are now; predictors and boxes stay in float32."""
        roi_heads = self.roi_heads
        pooler = roi_heads.box_roi_pool
        alike: dict[float, dict[str, BranchLayers]] = {}
        predictors: dict[str, ClassPredictor] = {}
        for name in self.branches:
            branch = roi_heads.heads.branch(name)
            layers: BranchLayers
            if isinstance(branch, FCHead):
                layers = FastFC([branch.fc6, branch.fc7], branch.channels, pooler.resolution, dtype)
            else:
                layers = FastConv(branch, pooler.resolution, dtype)
            alike.setdefault(roi_heads.enlargement.get(name, 1.0), {})[name] = layers
            last = branch.predictor
            predictors[name] = ClassPredictor(last.cls_score, last.bbox_pred)
        # Folded when a first image comes.
        backbone = functools.cache(lambda: fold_norms(self.backbone))

        def decode(features: ImageFeatures, deltas: Tensor, boxes: Tensor) -> Tensor:
            decoded = roi_heads.box_coder.decode(deltas, [boxes]).reshape(len(boxes), 4)
            return features.to_original(clip_boxes(decoded, features.size, self.box_ends))

        return HeadsFastPath(
            lambda image: self._transformed(image, backbone())[1],
            ImageFeatures.to_resized,
            [
                (functools.partial(pooler.place_on_pyramid, enlargement=factor), branches)
                for factor, branches in alike.items()
            ],
            predictors,
            decode,
            {name: HEAD_CONFIGURATIONS[name] for name in self.heads},
            roi_heads.fusion,
        )

    def output_maps(self, roi_features: RoIFeatures) -> dict[str, Tensor]:
        """By branch: output maps (N, C, S, S), fc-head's rebuilt from fc6 (paper Figure 4)."""
        return self.roi_heads.heads.output_maps(roi_features)

    def weight_maps(self) -> dict[str, Tensor]:
        """By fc branch: fc6's weights by RoI position, (width * C, S, S)."""
        return self.roi_heads.heads.weight_maps()

    @torch.inference_mode()
    def detect(self, image: Tensor) -> dict[str, Detections]:
        """By head: final detections in a uint8 RGB image (3, H, W); backbone, RPN and heads run once."""
        batch, features = self._transformed(image)
        check_finite("the detector's backbone gave features", *features.pyramid.values())
        proposals = self.rpn(batch, features.pyramid)[0][0]
        pooled = self.roi_heads.pool(features.pyramid, [proposals])
        outputs = self.roi_heads.predict(pooled, proposals, self.heads, features.size)
        for name, output in outputs.items():
            check_finite(f"head {name!r} gave scores or boxes", output.scores, output.boxes)
        found = {name: self.roi_heads.suppress(output) for name, output in outputs.items()}
        return {
            name: Detections(features.to_original(d.boxes), d.scores, d.labels)
            for name, d in found.items()
        }


def build_detector(config: Config, class_names: Sequence[str], pretrained: bool = True) -> RCNN:
    """An untrained detector for the configuration and classes.

    Args:
        config: what to build; ``config.head`` says which branches there are.
        class_names: the K foreground classes.
        pretrained: False builds without ImageNet weights whatever the configuration says, for a detector whose
            own weights are loaded next.
    """
    model = config.model
    backbone, norm = build_backbone(model, pretrained)
    built = build_heads(model, config.head, len(class_names))
    roi_heads = BoxRoIHeads(built, model, backbone.strides)
    heads = trained_heads(config.head, roi_heads.heads.weights)
    transform = ImageTransform(model)
    # P6 is every second cell of the last level.
    rpn = build_rpn(model, (*backbone.strides, 2 * backbone.strides[-1]))
    return RCNN(class_names, heads, transform, backbone, rpn, roi_heads, norm)


def save_detector(detector: RCNN, config: Config, path: Path) -> None:
    """Writes weights, class names and configuration to one file, whole or not at all, and its SHA-256 beside it.

    The hash is in the form of ``sha256sum``, which can check it, too.
    """
    values = config.model_dump(mode="json")
    # The tiny network's is `batch` whatever the settings say.
    values["model"]["norm"] = detector.norm
    state = {name: value.detach().cpu() for name, value in detector.state_dict().items()}
    content = {"class_names": list(detector.class_names), "config": values}
    # Through JSON: a pickle says which equal strings are one object, which depends on where they were read.
    content = {"state": state, **json.loads(json.dumps(content))}
    write_torch(content, path, hash_path(path))


def hash_path(path: Path) -> Path:
    """Where the SHA-256 of one of our detector files is kept."""
    return path.with_suffix(".sha256")


def saved_config(path: Path) -> Config:
    """The settings in a file of :func:`save_detector`, whose errors are those of :func:`load_detector`."""
    with _reading(Path(path)):
        return Config.model_validate(_without_weights(path)["config"])


def saved_class_names(path: Path) -> tuple[str, ...]:
    """The class names in a file of :func:`save_detector`, whose errors are those of :func:`load_detector`."""
    with _reading(Path(path)):
        return tuple(map(str, _without_weights(path)["class_names"]))


def _without_weights(path: Path) -> Any:
    # Mapped, the weights stay on the disk.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def load_detector(path: Path, device: torch.device | str = "cpu") -> RCNN:
    """The detector of a file of :func:`save_detector`, in evaluation mode.

    Raises:
        UserError: if the file is missing, not one of ours, or not the one that was written, as a bit that has flipped
            makes it.
    """
    path = Path(path)
    with _reading(path):
        kept = hash_path(path)
        if not kept.is_file():
            logger.warning("there is no %s: damage to %s would go unnoticed", kept, path.name)
        elif kept.read_text(encoding="utf-8").split()[:1] != [sha256(path)]:
            raise UserError(
                f"{path} is damaged: its SHA-256 is not the one in {kept}; copy both again from where they come from,"
                " or delete the detector and train again"
            )
        content = torch.load(path, map_location="cpu", weights_only=True)
        config = Config.model_validate(content["config"])
        detector = build_detector(config, content["class_names"], pretrained=False)
        detector.load_state_dict(content["state"])
        check_loaded(detector.state_dict().items(), str(path))
    return detector.to(device).eval()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with one of our files into a sentence."""
    try:
        if not path.is_file():
            raise UserError(f"no detector at {path}: train it with `rethink-heads train` first")
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise cannot_read(Path(error.filename or path), "file", error) from error
    except Exception as error:  # Bytes that are no checkpoint can make the reader raise anything.
        raise UserError(
            f"{path} is damaged or no detector of this package: "
            "delete it and train again, or give another --run"
        ) from error


def same_weights(path: Path, detector: RCNN) -> bool:
    """Whether a file of :func:`save_detector` holds the weights of a detector, which is on the CPU."""
    kept, ours = load_detector(path).state_dict(), detector.state_dict()
    return kept.keys() == ours.keys() and all(torch.equal(kept[n], ours[n]) for n in ours)
