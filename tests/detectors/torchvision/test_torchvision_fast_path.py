"""torchvision's fc-heads on many boxes at once, and its pooling by factors, against its own modules."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from rethink_heads.detectors.torchvision.adapter import TorchvisionDetector, pool
from rethink_heads.errors import UserError
from rethink_heads.measure.responses import Responder
from rethink_heads.proposals import grid
from tests.detectors.torchvision.small_models import (
    CELLS,
    CHANNELS,
    CLASSES,
    WIDTH,
    OwnPredictor,
    RowsHead,
    small_model,
)
from tests.fastpath.rois import always, boxes_of_all_levels, image


class ThreeLevels(nn.Module):
    """A backbone with levels of strides 4, 8 and 16."""

    out_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3, CHANNELS, 5, 4, 2),
                nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1),
                nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1),
            ]
        )

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        found = OrderedDict()
        for name, layer in zip("abc", self.layers, strict=True):
            x = layer(x)
            found[name] = 3 * x
        return found


class OtherPredictor(FastRCNNPredictor):
    """Changes nothing, but could."""


def model_of(levels: list[str], pooler: MultiScaleRoIAlign | None = None) -> FasterRCNN:
    torch.manual_seed(0)
    found = FasterRCNN(
        ThreeLevels(),
        min_size=240,
        max_size=340,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3),
        box_roi_pool=pooler or MultiScaleRoIAlign(levels, CELLS, 2, canonical_scale=112),
        box_head=TwoMLPHead(CHANNELS * CELLS**2, WIDTH),
        box_predictor=FastRCNNPredictor(WIDTH, len(CLASSES) + 1),
    )
    for layer in (
        found.roi_heads.box_predictor.cls_score,
        found.roi_heads.box_predictor.bbox_pred,
    ):
        nn.init.normal_(layer.weight, std=1.5)
    return found


@pytest.mark.parametrize("levels", [["a", "b", "c"], ["b"], ["b", "c"]], ids="".join)
@pytest.mark.parametrize("precision", [torch.float32, torch.float64], ids=str)
@torch.inference_mode()
def test_equals_pool_and_predict(levels: list[str], precision: torch.dtype) -> None:
    detector = TorchvisionDetector(model_of(levels).to(precision), CLASSES)
    respond, features = Responder(detector, 64), detector.extract(image())
    assert respond.fast_path is not None
    # Answered first, before the pooler has seen an image.
    found = [respond(features, boxes_of_all_levels(), label)["fc"] for label in range(len(CLASSES))]
    output = detector.predict(
        features, detector.pool(features, boxes_of_all_levels()), boxes_of_all_levels()
    )["fc"]
    for label, (scores, regressed) in enumerate(found):
        assert scores.dtype == regressed.dtype == torch.float32
        assert scores.std() > 0.01
        torch.testing.assert_close(scores, output.scores[:, label], rtol=0, atol=1e-5)
        torch.testing.assert_close(regressed, output.boxes[:, label], rtol=0, atol=1e-3)


@pytest.mark.parametrize("levels", [["a", "b", "c"], ["b"]], ids="".join)
@torch.inference_mode()
def test_pooling_by_factors_equals_torchvisions(levels: list[str]) -> None:
    detector = TorchvisionDetector(model_of(levels), CLASSES)
    features, pooler = detector.extract(image()), detector.model.roi_heads.box_roi_pool
    # The same boxes in the frame of the resized image.
    framed = features.to_resized(boxes_of_all_levels())
    with always(True):
        found = pool(pooler, features, framed)
    own = pooler(features.pyramid, [framed], [features.size])
    assert found.is_contiguous()
    assert not torch.equal(found, own)
    torch.testing.assert_close(found, own, rtol=0, atol=1e-5)
    assert pool(pooler, features, framed[:0]).shape == (0, CHANNELS, CELLS, CELLS)


def test_what_is_not_torchvisions_own_has_no_prober() -> None:
    def of(model: FasterRCNN) -> object:
        return TorchvisionDetector(model, CLASSES).fast_path(torch.float32)

    levels = ["a", "b"]
    assert of(model_of(levels)) is not None
    assert of(small_model(RowsHead(), OwnPredictor())) is None
    changed = model_of(levels)
    changed.roi_heads.box_predictor = OtherPredictor(WIDTH, len(CLASSES) + 1)
    assert of(changed) is None
    listened = model_of(levels)
    listened.roi_heads.box_head.register_forward_hook(lambda *_: None)
    assert of(listened) is None
    patched = model_of(levels)
    patched.roi_heads.box_head.forward = patched.roi_heads.box_head.forward
    assert of(patched) is None
    non_square = MultiScaleRoIAlign(levels, (5, 5), 2)
    assert of(model_of(levels, non_square)) is not None
    non_square.output_size = (1, 25)
    assert of(model_of(levels, non_square)) is None


@torch.inference_mode()
def test_numbers_that_are_not_finite_are_told() -> None:
    detector = TorchvisionDetector(model_of(["a", "b", "c"]), CLASSES)
    detector.model.roi_heads.box_head.fc6.bias.fill_(torch.nan)
    respond = Responder(detector, 64)
    assert respond.fast_path is not None
    with pytest.raises(UserError, match="head 'fc' gave scores or boxes that are not finite"):
        respond(detector.extract(image()), boxes_of_all_levels(), 0)


@torch.inference_mode()
def test_bfloat16_does_not_round_the_boxes_of_a_head_without_prober() -> None:
    detector = TorchvisionDetector(small_model(RowsHead(), OwnPredictor()), CLASSES)
    assert detector.fast_path(torch.bfloat16) is None
    large = image().repeat_interleave(8, 1).repeat_interleave(8, 2)
    features = detector.extract(large)
    proposals = grid(torch.tensor([700.0, 600, 830, 721]), large.shape[1:], 5).boxes
    scores, exact = Responder(detector, 64)(features, proposals, 1).popitem()[1]
    rounded, found = Responder(detector, 64, "bfloat16")(features, proposals, 1).popitem()[1]
    assert not torch.equal(rounded, scores)
    assert exact.min() > 100
    assert exact.max() > 900
    # Deltas of 8 bits move a box by a part of its side; coordinates of 8 bits would be off by 2 px at 512 and more.
    off = (found - exact).abs()
    assert off.mean() < 0.5
    assert off.max() < 0.02 * 250
