"""detectron2's own answers, to hold ours against: its ``DefaultPredictor``, and its rules from scores to detections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from torch import Tensor, nn

from rethink_heads.detectors.base import HeadOutput
from rethink_heads.detectors.detectron2.adapter import Detectron2Detector
from rethink_heads.detectors.detectron2.opening import open_detectron2, read_config
from tests.heads.reference import kept_detections

SMALL_IMAGES = {"INPUT.MIN_SIZE_TEST": 192, "INPUT.MAX_SIZE_TEST": 256}
SMALL_MODEL = SMALL_IMAGES | {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 24,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 60,
}
NAMES = tuple("abc")
THREE_CLASSES = SMALL_MODEL | {"MODEL.ROI_HEADS.NUM_CLASSES": len(NAMES)}
FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"


def write_config(folder: Path, name: str, settings: dict[str, Any]) -> Path:
    """A configuration with other settings, whole in one file, as detectron2's training leaves it behind."""
    cfg = read_config(name)
    cfg.merge_from_list([item for pair in settings.items() for item in pair])
    path = folder / "config.yaml"
    path.write_text(cfg.dump())
    return path


def built(**settings: Any) -> nn.Module:
    """A small model of three classes; settings with ``__`` for a point."""
    cfg = read_config(FASTER)
    own = {key.replace("__", "."): value for key, value in settings.items()}
    values = THREE_CLASSES | {"MODEL.DEVICE": "cpu"} | own
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return build_model(cfg)


def noise(height: int = 60, width: int = 80) -> Tensor:
    """A uint8 RGB image (3, H, W), the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def opened(folder: Path, name: str, settings: dict[str, Any]) -> tuple[Detectron2Detector, CfgNode]:
    """A detector of random weights, and its configuration."""
    path = write_config(folder, name, settings)
    return open_detectron2(str(path), "random"), read_config(str(path))


@contextmanager
def predictor_of(detector: Detectron2Detector, cfg: CfgNode) -> Iterator[DefaultPredictor]:
    """detectron2's predictor of a configuration, with the detector's model in place of one that it would load."""
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    with mock.patch("detectron2.engine.defaults.build_model", return_value=detector.model):
        yield DefaultPredictor(cfg)


def as_opencv(image: Tensor) -> np.ndarray:
    """The image as ``cv2.imread`` gives it to the predictor: BGR, (H, W, 3)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy()[:, :, ::-1])


def detected(output: HeadOutput, cfg: CfgNode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and classes that detectron2's rules keep: those without an area go after the cut."""
    boxes, scores, labels = kept_detections(
        output.scores,
        output.boxes,
        (0, 0),
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
        cfg.TEST.DETECTIONS_PER_IMAGE,
    )
    whole = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[whole], scores[whole], labels[whole]
