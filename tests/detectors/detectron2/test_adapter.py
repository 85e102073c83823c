"""detectron2's detectors behind our interface say what detectron2 says, on real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from torch import Tensor

from rethink_heads.detectors.base import HeadOutput, supports
from rethink_heads.detectors.detectron2.adapter import Detectron2Detector
from tests.detectors.detectron2.predictors import (
    FASTER,
    SMALL_IMAGES,
    SMALL_MODEL,
    as_opencv,
    detected,
    opened,
    predictor_of,
)

MIXED = SMALL_MODEL | {
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 2,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "INPUT.FORMAT": "RGB",
}
FPN = SMALL_IMAGES | {"MODEL.RPN.POST_NMS_TOPK_TEST": 150}
C4 = SMALL_IMAGES | {"MODEL.RPN.POST_NMS_TOPK_TEST": 20}
DOUBLE = SMALL_MODEL | {
    "MODEL.RETHINK_HEADS.HEAD": "double-ext",
    "MODEL.RETHINK_HEADS.FC_WIDTH": 32,
    "MODEL.RETHINK_HEADS.CONV_WIDTH": 32,
    "MODEL.RETHINK_HEADS.CONV_BOTTLENECK": 16,
    "MODEL.RETHINK_HEADS.CONV_BLOCKS": 1,
}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "faster-fpn": (FASTER, FPN, "fc"),
    "faster-c4": ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", C4, "conv"),
    "mask-fpn": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", FPN, "fc"),
    "mixed": (FASTER, MIXED, "conv-fc"),
    "double": ("double_head_R_50_FPN", DOUBLE, "double-ext"),
}


@dataclass(frozen=True)
class Case:
    """A detector, the head that detectron2's own forward pass reads, and detectron2's answers for an image.

    ``pooled`` and ``outputs`` are what our probe makes of detectron2's proposals.
    """

    detector: Detectron2Detector
    cfg: CfgNode
    head: str
    image: Tensor
    proposals: Tensor
    instances: Instances
    pooled: dict[str, Tensor]
    outputs: dict[str, HeadOutput]


def proposals_of(predictor: DefaultPredictor, image: Tensor) -> tuple[Tensor, Instances]:
    """detectron2's proposals in pixels of the image, taken on their way in its forward pass, and its detections."""
    found: list[Instances] = []
    generator = predictor.model.proposal_generator
    hook = generator.register_forward_hook(lambda _, __, output: found.extend(output[0]))
    instances = predictor(as_opencv(image))["instances"]
    hook.remove()
    height, width = found[0].image_size
    boxes = found[0].proposal_boxes.tensor.double()
    sizes = [width, height, width, height]
    own = [image.shape[2], image.shape[1]] * 2
    return (boxes * torch.tensor(own) / torch.tensor(sizes)).float(), instances


@pytest.fixture(scope="module", params=MODELS)
def case(request: Any, tmp_path_factory: Any, photograph: Tensor) -> Case:
    """Each model with a real image."""
    name, settings, head = MODELS[request.param]
    detector, cfg = opened(tmp_path_factory.mktemp(request.param), name, settings)
    with predictor_of(detector, cfg) as predictor:
        proposals, instances = proposals_of(predictor, photograph)
    with torch.inference_mode():
        features = detector.extract(photograph)
        pooled = detector.pool(features, proposals)
        outputs = detector.predict(features, pooled, proposals)
    return Case(detector, cfg, head, photograph, proposals, instances, pooled, outputs)


def assert_same_detections(case: Case, boxes: Any, scores: Any, labels: Any) -> None:
    """Every detection is one of detectron2's, and the other way round, to 1e-4 of its values."""
    theirs = case.instances
    assert len(theirs) == len(scores)
    assert len(theirs) > 10
    # Equal outputs show something only where they differ from box to box, and from class to class.
    assert theirs.scores.max() - theirs.scores.min() > 0.05
    assert len(theirs.pred_classes.unique()) > 2
    # Two of nearly one score may come in either order.
    same_class = theirs.pred_classes.numpy()[:, None] == np.asarray(labels)[None]
    distance = np.abs(theirs.pred_boxes.tensor.numpy()[:, None] - np.asarray(boxes)[None]).max(-1)
    ours = np.where(same_class, distance, np.inf).argmin(axis=1)
    assert sorted(ours) == list(range(len(theirs)))
    np.testing.assert_array_equal(np.asarray(labels)[ours], theirs.pred_classes)
    np.testing.assert_allclose(np.asarray(scores)[ours], theirs.scores, rtol=1e-4, atol=0)
    np.testing.assert_allclose(
        np.asarray(boxes)[ours], theirs.pred_boxes.tensor, rtol=1e-4, atol=1e-3
    )


def test_their_proposals_through_our_probe_give_their_detections(case: Case) -> None:
    output = case.outputs[case.head]
    assert output.boxes.shape == (*output.scores.shape, 4) == (len(case.proposals), 80, 4)
    assert_same_detections(case, *detected(output, case.cfg))
    agnostic = case.cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    assert bool((output.boxes == output.boxes[:, :1]).all()) == agnostic


def test_detections_are_those_of_their_predictor(case: Case) -> None:
    found = case.detector.detect(case.image)
    assert set(found) == set(case.detector.heads)
    ours = found[case.head]
    assert (ours.scores.diff() <= 0).all()
    assert_same_detections(case, ours.boxes, ours.scores, ours.labels)


def test_proposals_are_theirs_best_first(case: Case) -> None:
    with torch.inference_mode():
        features, proposals = case.detector.propose(case.image)
    torch.testing.assert_close(proposals, case.proposals, rtol=1e-4, atol=1e-3)
    assert features.original_size == case.image.shape[1:]


def test_no_boxes_have_empty_outputs(case: Case) -> None:
    none = torch.zeros(0, 4)
    with torch.inference_mode():
        features = case.detector.extract(case.image)
        pooled = case.detector.pool(features, none)
        outputs = case.detector.predict(features, pooled, none)
        maps = case.detector.output_maps(pooled)
    assert set(outputs) == set(case.detector.heads)
    for output in outputs.values():
        assert output.scores.shape == (0, 80)
        assert output.boxes.shape == (0, 80, 4)
    assert all(len(each) == 0 for each in maps.values())


def test_maps_are_what_their_layers_give(case: Case) -> None:
    """Maps against the layers' own outputs in detectron2's forward pass of the head."""
    roi_heads = case.detector.model.roi_heads
    for method in ("propose", "detect", "output_maps", "weight_maps"):
        assert supports(case.detector, method)
    with torch.inference_mode():
        pooled = {name: values[:5] for name, values in case.pooled.items()}
        maps, weights = case.detector.output_maps(pooled), case.detector.weight_maps()
        given = next(iter(pooled.values()))
        if case.head == "conv":
            torch.testing.assert_close(maps["conv"], roi_heads.res5(given))
            assert (set(maps), weights) == ({"conv"}, {})
        elif case.head == "double-ext":
            assert set(maps) == {"fc", "conv"}
            first = roi_heads.heads["fc"].fc6
        else:
            first = roi_heads.box_head.fc1
            if case.head == "conv-fc":
                given = roi_heads.box_head.conv2(roi_heads.box_head.conv1(given))
                torch.testing.assert_close(maps["conv"], given)
            assert set(maps) == set(case.head.split("-"))
        if "fc" in maps:
            summed = maps["fc"].sum(dim=(2, 3)) + first.bias
            expected = first(given.flatten(1))
            torch.testing.assert_close(
                summed, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
            )
            cell = first.weight.reshape(-1, *given.shape[-2:])[:, 2, 3]
            torch.testing.assert_close(weights["fc"][:, 2, 3], cell)
