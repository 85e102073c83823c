"""conv-head: a widening block and bottlenecks, averaged over the RoI."""

from __future__ import annotations

from torch import Tensor, nn

from rethink_heads.heads.blocks import Bottleneck, NonLocal, WideningBlock
from rethink_heads.heads.predictor import BoxPredictor


class ConvHead(nn.Module):
    """Widening block, K bottlenecks (each optionally after a non-local block), average pool, predictor.

    The defaults are those of the authors' released model without its non-local blocks.

    Args:
        num_classes: foreground classes.
        channels: channels C of the RoI features.
        width: channels of every block's output.
        bottleneck: channels inside a bottleneck.
        blocks: number K of bottlenecks.
        non_local: put a non-local block before each bottleneck.
        non_local_groups: affinities of each non-local block.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        width: int = 1024,
        bottleneck: int = 256,
        blocks: int = 2,
        non_local: bool = False,
        non_local_groups: int = 4,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [WideningBlock(channels, width)]
        for _ in range(blocks):
            if non_local:
                layers.append(NonLocal(width, width // 2, non_local_groups))
            layers.append(Bottleneck(width, bottleneck))
        self.blocks = nn.Sequential(*layers)
        self.predictor = BoxPredictor(width, num_classes)

    def output_map(self, roi_features: Tensor) -> Tensor:
        """Maps (N, C, S, S) to conv-head's output before pooling, (N, width, S, S)."""
        return self.blocks(roi_features)

    def forward(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C, S, S) to logits (N, classes + 1) and box deltas (N, 4 (classes + 1))."""
        return self.predictor(self.output_map(roi_features).mean(dim=(2, 3)))
