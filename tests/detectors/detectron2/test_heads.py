"""Our heads inside detectron2 against this package's own detector; their settings; box heads by their layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from rethink_heads.bounds import HEADS
from rethink_heads.config import ConventionsConfig, ModelConfig, load_preset
from rethink_heads.detectors.box_heads import parts_of
from rethink_heads.detectors.checkpoints.detectron2_settings import SIZES
from rethink_heads.detectors.detectron2.config import (
    add_rethink_heads_config,
    config_file,
    config_names,
)
from rethink_heads.detectors.rcnn.roi_heads import BoxRoIHeads
from rethink_heads.errors import UserError
from rethink_heads.heads import build_heads
from rethink_heads.structures import STRUCTURES
from tests.detectors.detectron2.small_detectors import (
    CLASSES,
    SMALL,
    batch,
    sampled_in_training,
    settled,
    small_config,
    small_model,
)


def ours_of(model: nn.Module, head: str, level_from: str = "proposal") -> BoxRoIHeads:
    """The second stage of this package's own detector with the weights of detectron2's."""
    conventions = ConventionsConfig.model_validate(
        {"roi_align_aligned": True, "roi_level_from": level_from}
    )
    settings = ModelConfig(
        fpn_channels=SMALL["MODEL.FPN.OUT_CHANNELS"],
        fc_width=SMALL["MODEL.RETHINK_HEADS.FC_WIDTH"],
        conv_width=SMALL["MODEL.RETHINK_HEADS.CONV_WIDTH"],
        conv_bottleneck=SMALL["MODEL.RETHINK_HEADS.CONV_BOTTLENECK"],
        non_local=True,
        conventions=conventions,
    )
    ours = BoxRoIHeads(build_heads(settings, head, CLASSES), settings)
    state = {
        name.removeprefix("roi_heads."): value
        for name, value in model.state_dict().items()
        if name.startswith("roi_heads.")
    }
    ours.load_state_dict(state)
    return ours


def pyramid_of(features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {str(level): features[f"p{level + 2}"] for level in range(4)}


@pytest.mark.parametrize(
    ("head", "level_from"),
    [("fc", "proposal"), ("conv", "enlarged"), ("double", "proposal"), ("double-ext", "proposal")],
)
def test_losses_are_those_of_our_own_detector(head: str, level_from: str) -> None:
    model = small_model(head, MODEL__RETHINK_HEADS__ROI_LEVEL_FROM=level_from)
    ours = ours_of(model, head, level_from).train()
    features, _, sampled, losses = sampled_in_training(model)
    boxes = [each.proposal_boxes.tensor for each in sampled]
    labels = torch.cat([(each.gt_classes + 1) % (CLASSES + 1) for each in sampled])
    goals = [each.gt_boxes.tensor for each in sampled]
    deltas = torch.cat(BoxCoder((10.0, 10.0, 5.0, 5.0)).encode(goals, boxes))
    outputs = ours.heads(ours.pool(pyramid_of(features), boxes))
    expected = ours.heads.losses(outputs, labels, deltas)
    assert (labels > 0).sum() >= 4
    assert {f"loss_{name}" for name in expected} == set(losses)
    for name, value in expected.items():
        torch.testing.assert_close(losses[f"loss_{name}"], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_every_structure_trains_a_step(head: str) -> None:
    model = small_model(head).train()
    trained = [p for p in model.roi_heads.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    with EventStorage():
        losses = model(batch())
    names = {name.split("_")[1] for name in losses if "rpn" not in name}
    assert names == set(STRUCTURES[head].branches)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    torch.optim.SGD(trained, lr=0.01).step()
    # Biases before a normalisation, and a block that begins as the identity, have no gradient yet.
    moved = [bool((p != b).any()) for p, b in zip(trained, before, strict=True)]
    assert sum(moved) > len(moved) / 2
    frozen = [p for p in model.roi_heads.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)
    assert bool(frozen) == (head not in ("fc", "conv", "double-ext"))


@pytest.mark.parametrize("head", ["conv", "double-ext"])
def test_detections_are_those_of_our_own_second_stage(head: str) -> None:
    model = settled(small_model(head))
    ours = ours_of(model, head).eval()
    with torch.inference_mode():
        images = model.preprocess_image(batch())
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features)
        found, _ = model.roi_heads(images, features, proposals)
        for index, size in enumerate(images.image_sizes):
            level = {k: v[index : index + 1] for k, v in pyramid_of(features).items()}
            boxes = proposals[index].proposal_boxes.tensor
            output = ours.predict(ours.pool(level, [boxes]), boxes, (head,), size)[head]
            expected = ours.suppress(output)
            assert len(expected.boxes) > 5
            torch.testing.assert_close(found[index].scores, expected.scores, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(
                found[index].pred_boxes.tensor, expected.boxes, rtol=1e-4, atol=1e-3
            )
            assert torch.equal(found[index].pred_classes, expected.labels)


def test_each_heads_output_is_our_own_second_stages() -> None:
    model = settled(small_model("double-ext"))
    ours = ours_of(model, "double-ext").eval()
    boxes = torch.tensor([[10.0, 12, 70, 90], [0, 0, 160, 128], [100, 3, 131, 50]])
    with torch.inference_mode():
        features = model.backbone(model.preprocess_image(batch()[:1]).tensor)
        pooled = model.roi_heads.pool(features, [boxes])
        found = model.roi_heads.predict(pooled, boxes, (128, 160))
        expected = ours.predict(
            ours.pool(pyramid_of(features), [boxes]),
            boxes,
            model.roi_heads.head_names,
            (128, 160),
        )
        none = model.roi_heads.pool(features, [boxes[:0]])
        empty = model.roi_heads.predict(none, boxes[:0], (128, 160))
    assert tuple(found) == ("fc", "conv", "double", "double-ext")
    for name, output in found.items():
        torch.testing.assert_close(output.scores, expected[name].scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(output.boxes, expected[name].boxes, rtol=1e-4, atol=1e-3)
        assert empty[name].scores.shape == (0, CLASSES)
        assert empty[name].boxes.shape == (0, CLASSES, 4)


def test_an_image_without_objects_trains_the_classifiers_alone() -> None:
    model = small_model("double-ext").train()
    made = batch()
    nothing = Instances(made[1]["instances"].image_size)
    nothing.gt_boxes, nothing.gt_classes = Boxes(torch.empty(0, 4)), torch.empty(0).long()
    made[1]["instances"] = nothing
    with EventStorage():
        alone = model(made[1:])
        both = model(made)
    assert alone["loss_fc_regression"].item() == alone["loss_conv_regression"].item() == 0
    assert all(torch.isfinite(value) for value in (*alone.values(), *both.values()))
    assert both["loss_conv_regression"].item() > 0


def test_the_node_is_added_once_and_keeps_what_was_set() -> None:
    cfg = get_cfg()
    add_rethink_heads_config(cfg)
    cfg.MODEL.RETHINK_HEADS.HEAD = "conv"
    add_rethink_heads_config(cfg)
    assert cfg.MODEL.RETHINK_HEADS.HEAD == "conv"
    # What was trained before there was the key does not have it.
    assert cfg.MODEL.RETHINK_HEADS.ROI_LEVEL_FROM == "enlarged"


def test_the_packages_configurations_are_the_papers_preset_with_each_head() -> None:
    paper = load_preset("coco-r50")
    heads = []
    for name in config_names():
        cfg = get_cfg()
        add_rethink_heads_config(cfg)
        cfg.merge_from_file(str(config_file(name)))
        node, solver = cfg.MODEL.RETHINK_HEADS, cfg.SOLVER
        heads.append(node.HEAD)
        assert cfg.MODEL.ROI_HEADS.NAME == "RethinkROIHeads"
        theirs = {
            "training.max_iterations": solver.MAX_ITER,
            "training.milestones": list(solver.STEPS),
            "training.batch_size": solver.IMS_PER_BATCH,
            "training.learning_rate": solver.BASE_LR,
            "training.warmup_iterations": solver.WARMUP_ITERS,
            "training.weight_decay": solver.WEIGHT_DECAY_NORM,
            "training.bias_learning_rate_factor": solver.BIAS_LR_FACTOR,
            "training.bias_weight_decay": solver.WEIGHT_DECAY_BIAS,
            "model.rpn_cross_boundary_anchors": cfg.MODEL.RPN.BOUNDARY_THRESH != 0,
            "model.rois_per_image": cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
            "model.smooth_l1_beta": cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA,
            "model.sampling_ratio": cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO,
            **{f"model.{key}": node[key.upper()] for key in SIZES},
        }
        for key, value in theirs.items():
            section, field = key.split(".")
            assert (key, value) == (key, getattr(getattr(paper, section), field))
        assert node.ROI_LEVEL_FROM == paper.model.conventions.roi_level_from == "proposal"
        assert abs(solver.WARMUP_FACTOR - paper.training.warmup_factor) < 1e-4
    # The base has one of them too.
    assert set(heads) == set(HEADS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"MODEL__RETHINK_HEADS__HEAD": "triple"}, "double-ext"),
        ({"MODEL__RETHINK_HEADS__FC_WIDTH": 0}, "MODEL.RETHINK_HEADS.FC_WIDTH"),
        ({"MODEL__RETHINK_HEADS__L_FC": 1.5}, "MODEL.RETHINK_HEADS.L_FC"),
        ({"MODEL__RETHINK_HEADS__FUSION": "sum"}, "MODEL.RETHINK_HEADS.FUSION"),
        ({"MODEL__RETHINK_HEADS__ROI_LEVEL_FROM": "both"}, "MODEL.RETHINK_HEADS.ROI_LEVEL_FROM"),
        ({"MODEL__RETHINK_HEADS__NON_LOCAL_GROUPS": 3}, "not divisible"),
        ({"MODEL__RETHINK_HEADS__W_FC": 0.0}, "nothing trains"),
        ({"MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True}, "CLS_AGNOSTIC_BBOX_REG"),
        ({"MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_TYPE": "giou"}, "smooth L1"),
        ({"MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE": True}, "softmax"),
        ({"MODEL__ROI_BOX_HEAD__TRAIN_ON_PRED_BOXES": True}, "TRAIN_ON_PRED_BOXES"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_model(small_config("double", **settings))


@pytest.mark.parametrize(
    ("name", "kind", "forward"),
    [
        ("RethinkFCHead", "fc", lambda head, x: head.fc7(head.fc6(x.flatten(1)).relu()).relu()),
        ("RethinkConvHead", "conv", lambda head, x: head.blocks(x).mean((2, 3))),
    ],
)
def test_our_heads_give_their_features_and_are_trained(name: str, kind: str, forward: Any) -> None:
    names = {"MODEL__ROI_HEADS__NAME": "StandardROIHeads", "MODEL__ROI_BOX_HEAD__NAME": name}
    model = small_model("fc", **names, MODEL__RETHINK_HEADS__NON_LOCAL=True).train()
    head = model.roi_heads.box_head
    with EventStorage():
        losses = model(batch())
    assert set(losses) >= {"loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert parts_of(head.eval()).kind == kind
    x = torch.rand(2, 16, 7, 7, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(head(x), forward(head, x))


@pytest.mark.parametrize(
    ("conv_dims", "fc_dims", "kind"),
    [([], [6, 6], "fc"), ([5, 5], [], "conv"), ([5, 5], [6], "conv-fc")],
)
def test_detectron2_head_is_a_sequence(conv_dims: list[int], fc_dims: list[int], kind: str) -> None:
    torch.manual_seed(0)
    shape = ShapeSpec(channels=4, height=3, width=3)
    head = FastRCNNConvFCHead(shape, conv_dims=conv_dims, fc_dims=fc_dims).eval()
    parts = parts_of(head, (3, 3))
    assert parts.kind == kind
    features = torch.randn(2, 4, 3, 3)
    maps = parts.output_maps(features)
    after = features
    for layer in head.conv_norm_relus:
        after = layer(after)
    if conv_dims:
        torch.testing.assert_close(maps["conv"], after)
    if fc_dims:
        first = head.fcs[0]
        torch.testing.assert_close(
            maps["fc"].sum((2, 3)) + first.bias, first(after.flatten(1)), rtol=1e-4, atol=1e-6
        )
    assert set(maps) == set(kind.split("-"))
