"""Train detectors that differ only in their head, and see what each head does to a proposal.

The package follows Wu et al., "Rethinking Classification and Localization for Object Detection"
(CVPR 2020, arXiv 1904.06493). Public names are imported on first use, so that
``import rethink_heads`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

from rethink_heads.machine import set_thread_waiting

set_thread_waiting()

__version__ = "0.1.0"

# The module of each name, with the name there after a colon where it is another.
_PUBLIC_NAMES = {
    "UserError": "rethink_heads.errors",
    "Config": "rethink_heads.config",
    "MeasuringConfig": "rethink_heads.config",
    "load_preset": "rethink_heads.config",
    "Run": "rethink_heads.runs",
    "CocoDataset": "rethink_heads.data.coco",
    "shapes_root": "rethink_heads.data.shapes",
    "resolve_split": "rethink_heads.data.sources",
    "Detector": "rethink_heads.detectors.base",
    "as_detector": "rethink_heads.detectors.external",
    "open_model": "rethink_heads.detectors.external",
    "check_detector": "rethink_heads.detectors.checking",
    "HeadOutput": "rethink_heads.detectors.base",
    "Detections": "rethink_heads.detectors.base",
    "share_classes": "rethink_heads.detectors.classes",
    "match_classes": "rethink_heads.detectors.classes",
    "read_class_map": "rethink_heads.detectors.classes",
    "RCNN": "rethink_heads.detectors.rcnn",
    "build_detector": "rethink_heads.detectors.rcnn",
    "load_detector": "rethink_heads.detectors.rcnn.checkpoints",
    "import_detector": "rethink_heads.detectors.checkpoints.importing",
    "to_detectron2": "rethink_heads.detectors.checkpoints.exporting",
    "describe": "rethink_heads.describing",
    "train": "rethink_heads.training.train",
    "evaluate": "rethink_heads.training.evaluation",
    "grid": "rethink_heads.proposals",
    # Under a name of its own: ``rethink_heads.measure`` is the subpackage.
    "measure_detector": "rethink_heads.measure.runner:measure",
    "Measurements": "rethink_heads.measure.measurements",
    "measure_stages": "rethink_heads.measure.stages",
    "load_stages": "rethink_heads.measure.stage_frame",
    "open_stages": "rethink_heads.measure.stage_boxes",
    "pearson": "rethink_heads.statistics.correlation",
    "spearman": "rethink_heads.statistics.correlation",
    "score_by_iou": "rethink_heads.statistics.correlation",
    "stage_correlation": "rethink_heads.statistics.stages",
    "compare_stages": "rethink_heads.statistics.stages",
    "level_correlation": "rethink_heads.statistics.rank_levels",
    "compare_levels": "rethink_heads.statistics.rank_levels",
    "regressed_iou_by_iou": "rethink_heads.statistics.regression",
    "error_components": "rethink_heads.statistics.regression",
    "correlation_map": "rethink_heads.statistics.spatial",
    "distinct_pairs": "rethink_heads.statistics.spatial",
    "decay": "rethink_heads.statistics.spatial",
    "response": "rethink_heads.statistics.response",
    "response_summary": "rethink_heads.statistics.response",
    "compare": "rethink_heads.statistics.comparison",
    "compare_decay": "rethink_heads.statistics.comparison",
    "compare_responses": "rethink_heads.statistics.comparison",
    "load_sweep": "rethink_heads.sweeps.description",
    "make_plan": "rethink_heads.sweeps.plan",
    "run_sweep": "rethink_heads.sweeps.runner",
    "to_markdown": "rethink_heads.report.cells",
    "to_latex": "rethink_heads.report.cells",
    "detect_dataset": "rethink_heads.measure.detections",
    "load_detections": "rethink_heads.measure.detections",
    "open_detections": "rethink_heads.measure.kept_detections",
    "precision_table": "rethink_heads.statistics.average_precision",
    "compare_precision": "rethink_heads.statistics.average_precision",
    "detection_errors": "rethink_heads.statistics.detection_errors",
    "compare_errors": "rethink_heads.statistics.detection_errors",
    "calibration_errors": "rethink_heads.statistics.calibration",
    "compare_calibration": "rethink_heads.statistics.calibration",
    "reliability": "rethink_heads.statistics.calibration",
    "write_tables": "rethink_heads.results",
    "write_figures": "rethink_heads.results",
}

__all__ = ["__version__", *sorted(_PUBLIC_NAMES)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, its_name = _PUBLIC_NAMES[name].partition(":")
    return getattr(importlib.import_module(module), its_name or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC_NAMES])
