"""detectron2's ``DefaultTrainer`` with COCO's evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator

if TYPE_CHECKING:
    from detectron2.config import CfgNode


class Trainer(DefaultTrainer):
    """Trains what a configuration describes, and evaluates it on ``DATASETS.TEST``: COCO's AP."""

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> COCOEvaluator:
        """AP of a registered dataset; detections are left in ``OUTPUT_DIR``/inference."""
        folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
        return COCOEvaluator(dataset_name, output_dir=folder)
