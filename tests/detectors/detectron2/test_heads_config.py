"""Our node of detectron2's configurations, and the configurations that come with the package."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg
from detectron2.modeling import build_model

from rethink_heads.bounds import HEADS
from rethink_heads.config import load_preset
from rethink_heads.detectors.checkpoints.detectron2_settings import SIZES
from rethink_heads.detectors.detectron2.config import (
    add_rethink_heads_config,
    config_file,
    config_names,
)
from rethink_heads.errors import UserError
from tests.detectors.detectron2.small_detectors import small_config


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


def test_an_unknown_configuration_brings_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"double_head_R_50_FPN\.yaml"):
        config_file("double_heads_R_50_FPN")
