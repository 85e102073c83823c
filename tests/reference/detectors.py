"""Two tiny detectors with fixed weights, and the images that they are measured on."""

from __future__ import annotations

from pathlib import Path

import torch

import rethink_heads as rh

HERE = Path(__file__).parent
# A double head in all its configurations, and a conv-head alone.
HEADS = {"both": "double-ext", "conv": "conv"}
SETTINGS = [
    "model.fpn_channels=16",
    "model.fc_width=32",
    "model.conv_width=32",
    "model.conv_bottleneck=16",
    "model.min_size=128",
    "model.max_size=128",
    "model.rpn_proposals_train=100",
    "model.rpn_proposals_test=40",
    "training.max_iterations=600",
    "training.milestones=[450,560]",
    "training.validate_every=600",
    "training.validate_images=4",
    "measuring.proposals_per_object=200",
]
IMAGES = 10


def settings(name: str) -> rh.Config:
    """The settings of one of the two."""
    return rh.load_preset("shapes-tiny", HEADS[name], SETTINGS)


def images(cache: Path) -> rh.CocoDataset:
    """The generated images that are measured."""
    root = rh.shapes_root(cache=cache, train_images=1, val_images=IMAGES)
    return rh.CocoDataset(root / "annotations" / "instances_val.json", root / "val")


def load(name: str, class_names: tuple[str, ...]) -> rh.RCNN:
    """The detector with its fixed weights, which are kept in half precision."""
    detector = rh.build_detector(settings(name), class_names, pretrained=False)
    weights = torch.load(HERE / f"{name}.pt", weights_only=True)
    detector.load_state_dict(
        {
            key: value.float() if value.is_floating_point() else value
            for key, value in weights.items()
        }
    )
    return detector.eval()
