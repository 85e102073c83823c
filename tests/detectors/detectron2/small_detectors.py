"""A detectron2 detector with our heads, small enough to be trained in a test, and images that it is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from rethink_heads.detectors.detectron2.config import add_rethink_heads_config, config_file

SMALL: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.FPN.OUT_CHANNELS": 16,
    # From scratch neither our heads nor detectron2's own train without.
    "MODEL.FPN.NORM": "BN",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.RETHINK_HEADS.FC_WIDTH": 32,
    "MODEL.RETHINK_HEADS.CONV_WIDTH": 32,
    "MODEL.RETHINK_HEADS.CONV_BOTTLENECK": 16,
    "INPUT.MIN_SIZE_TRAIN": (160,),
    "INPUT.MAX_SIZE_TRAIN": 224,
    "INPUT.MIN_SIZE_TEST": 160,
    "INPUT.MAX_SIZE_TEST": 224,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 5,
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 1,
}
CLASSES = 5


def pairs(settings: dict[str, Any]) -> list[str]:
    """Settings as the ``KEY VALUE`` pairs of a command line."""
    return [text for key, value in settings.items() for text in (key, str(value))]


def small_config(head: str, **settings: Any) -> CfgNode:
    """A frozen configuration; ``settings`` are keys with ``__`` for a point."""
    cfg = get_cfg()
    add_rethink_heads_config(cfg)
    cfg.merge_from_file(str(config_file("base_R_50_FPN")))
    own = {key.replace("__", "."): value for key, value in settings.items()}
    values = SMALL | {"MODEL.RETHINK_HEADS.HEAD": head, "MODEL.ROI_HEADS.NUM_CLASSES": CLASSES}
    cfg.merge_from_list([item for pair in (values | own).items() for item in pair])
    cfg.freeze()
    return cfg


def small_model(head: str, **settings: Any) -> nn.Module:
    """An untrained detector of :func:`small_config`, whose heads say something of each RoI and class."""
    torch.manual_seed(0)
    model = build_model(small_config(head, **settings))
    for name, parameter in model.roi_heads.named_parameters():
        if "predictor" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def settled(model: nn.Module) -> nn.Module:
    """The same in evaluation, its normalisations with the statistics of two passes over the images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model.train()
    with torch.no_grad(), EventStorage():
        for _ in range(2):
            model(batch())
    return model.eval()


def batch() -> list[dict[str, Any]]:
    """Two made images with objects, the second's fewer, as detectron2's loaders give them."""
    generator = torch.Generator().manual_seed(3)
    objects = (
        ([[10.0, 12, 70, 90], [60, 20, 150, 120], [5, 100, 40, 125]], [0, 4, 2]),
        ([[30.0, 10, 90, 60]], [1]),
    )
    made = []
    for (boxes, labels), (height, width) in zip(objects, ((128, 160), (96, 128)), strict=True):
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor(boxes))
        instances.gt_classes = torch.tensor(labels)
        made.append({"image": image, "instances": instances, "height": height, "width": width})
    return made


def sample_of_coco(shared_data: Path, folder: Path, images: int, split: str = "val") -> list[str]:
    """The first images with objects of the real sample, as two arguments: annotations and their images' folder."""
    sample = shared_data / "coco-sample"
    content = json.loads((sample / "annotations" / f"instances_{split}2017.json").read_text())
    annotated = {each["image_id"] for each in content["annotations"]}
    content["images"] = [each for each in content["images"] if each["id"] in annotated][:images]
    kept = {each["id"] for each in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    path = folder / f"{split}.json"
    path.write_text(json.dumps(content))
    return [str(path), str(sample / f"{split}2017")]


def sampled_in_training(model: nn.Module) -> tuple[dict[str, Tensor], Any, Any, dict[str, Tensor]]:
    """One forward pass in training: features by level, image sizes, sampled proposals and our losses."""
    model.train()
    made = batch()
    with EventStorage():
        images = model.preprocess_image(made)
        features = model.backbone(images.tensor)
        targets = [each["instances"] for each in made]
        proposals, _ = model.proposal_generator(images, features, targets)
        sampled, losses = model.roi_heads(images, features, proposals, targets)
    return features, images.image_sizes, sampled, losses
