"""Our fc-head's and conv-head's layers as detectron2 box heads, for its own ``StandardROIHeads`` and predictor.

Imported when our node is added to a configuration, which registers them. They are features only: detectron2's
``FastRCNNOutputLayers`` classifies and regresses on them, and RoIs are not enlarged. The heads as the paper trains
them are those of ``RethinkROIHeads``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY
from torch import nn

from rethink_heads.detectors.detectron2.settings import model_settings
from rethink_heads.heads import ConvHead, FCHead

if TYPE_CHECKING:
    from detectron2.config import CfgNode


class _VectorHead(nn.Sequential):
    """Layers from RoI features (N, C, S, S) to one vector (N, width) per RoI."""

    def __init__(self, layers: OrderedDict[str, nn.Module], width: int) -> None:
        super().__init__(layers)
        self.width = width

    @property
    def output_shape(self) -> ShapeSpec:
        """What detectron2's predictor asks for."""
        return ShapeSpec(channels=self.width)


@ROI_BOX_HEAD_REGISTRY.register()
class RethinkFCHead(_VectorHead):
    """fc-head's two hidden layers, ``FC_WIDTH`` wide: RoI features (N, C, S, S) to (N, width)."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        model = model_settings(cfg, input_shape.channels, input_shape.height)
        head = FCHead(1, model.fpn_channels, model.roi_resolution, model.fc_width)
        layers: dict[str, nn.Module] = {
            "flatten": nn.Flatten(),
            "fc6": head.fc6,
            "fc6_relu": nn.ReLU(),
            "fc7": head.fc7,
            "fc7_relu": nn.ReLU(),
        }
        super().__init__(OrderedDict(layers), model.fc_width)


@ROI_BOX_HEAD_REGISTRY.register()
class RethinkConvHead(_VectorHead):
    """conv-head's blocks and their mean over the cells: RoI features (N, C, S, S) to (N, ``CONV_WIDTH``)."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        model = model_settings(cfg, input_shape.channels, input_shape.height)
        head = ConvHead(
            1,
            model.fpn_channels,
            model.conv_width,
            model.conv_bottleneck,
            model.conv_blocks,
            model.non_local,
            model.non_local_groups,
        )
        layers: dict[str, nn.Module] = {
            "blocks": head.blocks,
            "pool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
        }
        super().__init__(OrderedDict(layers), model.conv_width)
