from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.ops import roi_align

from rethink_heads.config import Config, ModelConfig, load_preset
from rethink_heads.detectors.answers import check_detector
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.backbone import build_backbone
from rethink_heads.errors import UserError
from tests.detectors.small_rcnn import SMALL, small_detector

CLASSES = ("a", "b", "c", "d", "e")


def load_weights(ours: RCNN, state: dict[str, Tensor]) -> None:
    """Weights of torchvision's ``FasterRCNN`` into a detector with an fc-head."""
    names = {"box_head.": "heads.fc.", "box_predictor.": "heads.fc.predictor."}
    for theirs, mine in names.items():
        state = {name.replace(theirs, mine): value for name, value in state.items()}
    ours.load_state_dict(state)


@pytest.fixture(scope="module")
def image() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (3, 120, 170), generator=generator, dtype=torch.uint8)


@pytest.fixture
def boxes() -> Tensor:
    return torch.tensor(
        [[10.0, 20, 60, 90], [0, 0, 170, 120], [100.5, 30.25, 131, 55], [3, 100, 9, 119]]
    )


@pytest.fixture(scope="module")
def torchvision_pair() -> tuple[nn.Module, RCNN]:
    """torchvision's Faster R-CNN and ours, of the same weights and settings."""
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=len(CLASSES) + 1,
        min_size=160,
        max_size=240,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=200,
    )
    nn.init.normal_(theirs.roi_heads.box_predictor.cls_score.weight, std=0.1)
    model = ModelConfig(
        pretrained=False,
        norm="batch",
        trainable_layers=5,
        smooth_l1_beta=1 / 9,
        min_size=160,
        max_size=240,
        rpn_proposals_test=200,
    )
    ours = build_detector(Config(preset="test", head="fc", model=model), CLASSES)
    load_weights(ours, theirs.state_dict())
    return theirs, ours


def test_training_losses_equal_torchvisions(torchvision_pair: tuple[nn.Module, RCNN]) -> None:
    theirs, ours = torchvision_pair
    generator = torch.Generator().manual_seed(2)
    images = [torch.rand(3, 120, 160, generator=generator), torch.rand(3, 140, 100)]
    targets = [
        {
            "boxes": torch.tensor([[10.0, 10, 60, 70], [50, 40, 150, 110]]),
            "labels": torch.tensor([0, 3]),
        },
        {"boxes": torch.tensor([[5.0, 10, 60, 70]]), "labels": torch.tensor([4])},
    ]
    shifted = [{"boxes": t["boxes"].clone(), "labels": t["labels"] + 1} for t in targets]
    torch.manual_seed(1)
    expected = theirs.train()(images, shifted)
    torch.manual_seed(1)
    losses = ours.train()(images, targets)
    load_weights(ours, theirs.state_dict())
    names = {
        "loss_objectness": "loss_objectness",
        "loss_rpn_box_reg": "loss_rpn_box_reg",
        "loss_classifier": "fc_classification",
        "loss_box_reg": "fc_regression",
    }
    assert set(losses) == set(names.values())
    for theirs_name, ours_name in names.items():
        torch.testing.assert_close(losses[ours_name], expected[theirs_name], rtol=1e-6, atol=0)


def test_detections_equal_torchvisions(
    torchvision_pair: tuple[nn.Module, RCNN], image: Tensor
) -> None:
    theirs, ours = torchvision_pair
    load_weights(ours, theirs.state_dict())
    with torch.inference_mode():
        expected = theirs.eval()([image.float() / 255])[0]
    found = ours.eval().detect(image)["fc"]
    assert len(expected["boxes"]) == 100
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-4)
    assert torch.equal(found.labels, expected["labels"] - 1)


@pytest.mark.parametrize(
    ("head", "branches", "heads"),
    [
        ("fc", ("fc",), ("fc",)),
        ("conv", ("conv",), ("conv",)),
        ("double", ("fc", "conv"), ("double",)),
        ("double-ext", ("fc", "conv"), ("fc", "conv", "double", "double-ext")),
    ],
)
def test_outputs_of_every_head(
    head: str, branches: tuple[str, ...], heads: tuple[str, ...], image: Tensor, boxes: Tensor
) -> None:
    detector = small_detector(head)
    check_detector(detector)
    assert (detector.branches, detector.heads) == (branches, heads)
    with torch.inference_mode():
        pooled = detector.pool(detector.extract(image), boxes)
        maps = detector.output_maps(pooled)
    assert set(pooled) == set(maps) == set(branches)
    assert all(value.shape == (4, 8, 7, 7) for value in pooled.values())
    assert all(value.shape == (4, 16, 7, 7) for value in maps.values())
    weights = detector.weight_maps()
    assert set(weights) == {"fc"} & set(branches)
    assert all(value.shape == (16 * 8, 7, 7) for value in weights.values())


def photographed_boxes() -> Tensor:
    """Boxes (300, 4) as proposals are in a frame of 480 x 680 pixels: of all sizes and shapes, some at its border."""
    generator = torch.Generator().manual_seed(4)
    sides = 2 ** (3.5 + 5 * torch.rand(300, 1, generator=generator))
    shape = 2 ** (0.5 * torch.randn(300, 1, generator=generator))
    half = torch.cat([sides * shape, sides / shape], dim=1) / 2
    centre = torch.rand(300, 2, generator=generator) * torch.tensor([680.0, 480])
    limits = torch.tensor([680.0, 480, 680, 480])
    return torch.cat([centre - half, centre + half], dim=1).clamp(min=0).minimum(limits)


@pytest.mark.parametrize("head", ["double-ext", "double-conv"])
def test_enlarged_rois_are_pooled_from_the_papers_level_of_their_proposals(
    head: str, image: Tensor
) -> None:
    """Level floor(4 + log2(sqrt(area) / 224)) of the RoI before it is enlarged, as in the authors' code."""
    small = [f"model.{name}={value}" for name, value in SMALL.items()]
    sizes = ["model.min_size=480", "model.max_size=680"]
    detector = build_detector(load_preset("shapes-tiny", head, [*small, *sizes]), CLASSES).eval()
    boxes = photographed_boxes()
    with torch.inference_mode():
        features = detector.extract(image)
        assert features.size == (480, 680)
        pooled = detector.pool(features, boxes / 4)
    changed = 0
    for index, (x1, y1, x2, y2) in enumerate(boxes.double().tolist()):
        width, height = x2 - x1, y2 - y1
        levels = [
            min(max(math.floor(4 + math.log2(math.sqrt(width * height) * factor / 224)), 2), 5)
            for factor in (1.0, 1.3)
        ]
        changed += levels[0] != levels[1]
        for branch, factor in (("fc", 1.0), ("conv", 1.3), ("conv2", 1.3)):
            if branch not in pooled:
                continue
            level = levels[0]
            x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, width * factor / 2, height * factor / 2
            expected = roi_align(
                features.pyramid[str(level - 2)].double(),
                torch.tensor([[0, x - w, y - h, x + w, y + h]], dtype=torch.float64),
                7,
                1 / 2**level,
                2,
            )
            torch.testing.assert_close(
                pooled[branch][index, None].double(), expected, rtol=1e-4, atol=1e-4
            )
    # About one in five is of another level enlarged.
    assert 0.15 < changed / len(boxes) < 0.3


@pytest.mark.parametrize("name", ["tiny", "resnet18", "resnet101"])
def test_backbones_give_five_levels(name: str) -> None:
    backbone, norm = build_backbone(ModelConfig(backbone=name, fpn_channels=16), pretrained=False)
    assert norm == ("batch" if name == "tiny" else "frozen")
    with torch.inference_mode():
        levels = backbone.eval()(torch.zeros(1, 3, 64, 128))
    assert [tuple(v.shape) for v in levels.values()] == [
        (1, 16, 64 // stride, 128 // stride) for stride in (4, 8, 16, 32, 64)
    ]


@pytest.mark.parametrize(("norm", "kind"), [("group", nn.GroupNorm), ("batch", nn.BatchNorm2d)])
def test_normalisation_after_each_convolution_of_the_fpn(norm: str, kind: type) -> None:
    model = ModelConfig(backbone="tiny", fpn_channels=48, fpn_norm=norm)
    backbone, _ = build_backbone(model, pretrained=False)
    for blocks in (backbone.fpn.inner_blocks, backbone.fpn.layer_blocks):
        assert [[type(layer) for layer in block] for block in blocks] == [[nn.Conv2d, kind]] * 4
        assert all(block[0].bias is None for block in blocks)
    if norm == "group":
        assert backbone.fpn.inner_blocks[0][1].num_groups == 16


def test_an_image_without_proposals_has_no_detections(
    image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = small_detector("double-ext")
    features = detector.extract(image)
    none = torch.zeros(0, 4)
    outputs = detector.predict(features, detector.pool(features, none), none)
    classes = len(detector.class_names)
    for output in outputs.values():
        assert output.scores.shape == (0, classes)
        assert output.boxes.shape == (0, classes, 4)
    monkeypatch.setattr(detector.rpn, "forward", lambda *_: ([none], {}))
    found = detector.detect(image)
    assert set(found) == set(detector.heads)
    assert all(len(d.boxes) == len(d.scores) == len(d.labels) == 0 for d in found.values())


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("backbone", "the detector's backbone gave features that are not finite"),
        ("roi_heads.heads.conv.predictor.bbox_pred", "head 'double' gave scores or boxes that are"),
    ],
)
def test_numbers_that_are_not_finite_are_no_empty_answer(
    layer: str, says: str, image: Tensor
) -> None:
    detector = small_detector("double")
    for parameter in detector.get_submodule(layer).parameters():
        nn.init.constant_(parameter, torch.nan)
    with pytest.raises(UserError, match=says):
        detector.detect(image)


@pytest.mark.parametrize(
    ("layers", "trained"),
    [(0, set()), (3, {"layer4", "layer3", "layer2"})],
)
def test_trainable_layers(layers: int, trained: set[str]) -> None:
    backbone, _ = build_backbone(
        ModelConfig(backbone="resnet18", trainable_layers=layers), pretrained=False
    )
    names = {n.split(".")[0] for n, p in backbone.body.named_parameters() if p.requires_grad}
    assert names == trained


@pytest.mark.parametrize(
    ("weights", "heads"),
    [
        ({}, ("fc", "conv", "double", "double-ext")),
        ({"l_fc": 1.0}, ("conv", "double", "double-ext")),
        ({"l_conv": 1.0}, ("fc", "double")),
        ({"w_fc": 0.0}, ("conv",)),
    ],
)
def test_only_trained_layers_are_read(weights: dict[str, float], heads: tuple[str, ...]) -> None:
    """A reading through a layer that no loss trains would show its random start."""
    assert small_detector("double-ext", **weights).heads == heads


def test_a_double_head_that_trains_neither_of_its_tasks_is_refused() -> None:
    with pytest.raises(UserError, match="nothing trains what head 'double' is read from"):
        small_detector("double", l_fc=0.0, l_conv=0.0)
