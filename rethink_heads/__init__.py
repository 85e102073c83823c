"""Train detectors that differ only in their head, and see what each head does to a proposal.

The package follows Wu et al., "Rethinking Classification and Localization for Object Detection"
(CVPR 2020, arXiv 1904.06493). Public names are imported on first use, so that
``import rethink_heads`` costs nothing: ``import rethink_heads as rh``, then ``help(rh.pearson)``.
"""

from __future__ import annotations

import importlib
from typing import Any

from rethink_heads.machine import set_thread_waiting

set_thread_waiting()

__version__ = "0.2.0"

# By group: each name, the module that it is in (with its name there after a colon where it is another), what it is.
_PUBLIC = {
    "Settings and runs": (
        "load_preset: config: settings of a preset with a head, overrides and a seed",
        "Config: config: everything that makes a run",
        "MeasuringConfig: config: which objects and proposals are measured",
        "Run: runs: a run folder and its settings",
        "UserError: errors: a mistake that the user can fix",
    ),
    "Data": (
        "CocoDataset: data.coco: images and boxes of a split in COCO format",
        "resolve_split: data.sources: annotation file and image folder of a split",
        "split_paths: data.sources: the same by the data settings of a run",
        "shapes_root: data.shapes: folder of the generated set, made on first use",
        "read_detections: detection_files: final detections of a file, looked at by a doctor",
    ),
    "Detectors": (
        "open_model: detectors.external: the detector that a text names, as --model does",
        "as_detector: detectors.external: a model in memory as a detector",
        "check_detector: detectors.answers: try a detector of one's own on a synthetic image",
        "share_classes: detectors.classes: restrict data to the classes that a detector has",
        "match_classes: detectors.classes: which class of the data is which of the detector's",
        "read_class_map: detectors.classes: a class map from its file",
        "load_detector: detectors.rcnn.detector: a detector trained here",
        "build_detector: detectors.rcnn: an untrained detector for a configuration",
        "RCNN: detectors.rcnn: the detectors trained here",
        "import_detector: detectors.checkpoints.conversion: a detector from another framework's checkpoint",
        "to_detectron2: detectors.checkpoints.conversion: a detector as detectron2 has it",
        "Detector: detectors.base: what a detector must be able to do",
        "HeadOutput: detectors.base: scores and boxes of a head",
        "Detections: detectors.base: final detections of an image",
    ),
    "Training": (
        "train: training.train: train the detector of a run",
        "evaluate: evaluation.measures: average precisions of every head of a detector",
        "describe: describing: parameters, multiply-adds and training memory of a preset",
    ),
    "Measuring": (
        "grid: proposals: the predefined proposals of an object",
        # Under a name of its own: ``rethink_heads.measure`` is the subpackage.
        "measure_detector: measure.runner:measure: measure a detector's heads on a dataset's objects",
        "Measurements: measure.store: what was measured; Measurements.load(folder)",
        "measure_stages: measure.detections: RPN's proposals and final detections, matched to objects",
        "load_stages: measure.stage_boxes: read these again",
        "detect_dataset: measure.detections: final detections on a dataset",
        "load_detections: measure.detections: read these again",
        "open_detections: measure.detections: the detections of several detectors",
    ),
    "Correlation of score and IoU": (
        "pearson: statistics.correlation: Pearson's correlation, pooled and of each object, by size",
        "spearman: statistics.correlation: Spearman's correlation, by size",
        "object_correlations: statistics.correlation: a row an object and head: which objects are hardest",
        "score_by_iou: statistics.correlation: score in each bin of IoU",
        "stage_correlation: statistics.stages: the correlations at each stage",
        "level_correlation: statistics.ranks: rank correlation within images and classes",
    ),
    "Boxes and spatial sensitivity": (
        "regressed_iou_by_iou: statistics.regression: IoU of the regressed box in each bin of IoU",
        "error_components: statistics.regression: error in centre and scale",
        "correlation_map: statistics.spatial: correlations of all pairs of RoI positions",
        "distinct_pairs: statistics.spatial: their mean over different positions",
        "decay: statistics.spatial: the same by distance",
        "response: statistics.response: response to displaced boxes and zeroed positions",
        "response_summary: statistics.response: what these come down to",
    ),
    "Final detections": (
        "precision_table: evaluation.average_precision: average precisions with intervals",
        "detection_errors: evaluation.errors: TIDE's errors and what AP would gain without them",
        "lost_precision: evaluation.lost_precision: what each of six causes costs, in shares that add up to 1 - AP",
        "lost_by_threshold: evaluation.lost_precision: the same at each IoU threshold",
        "lost_by_class: evaluation.lost_precision: the same of each class",
        "exchange_rate: evaluation.lost_precision: AP while the ranking moves to that of the IoU",
        "class_table: evaluation.by_class: AP, recall, LRP and PCC by class and size",
        "precision_recall: evaluation.by_class: precision-recall curves by class",
        "confusion_matrix: evaluation.by_class: which class is taken for which",
        "object_confusions: evaluation.by_class: what each object is taken for",
        "localization_recall_precision: evaluation.lrp: oLRP and its parts",
        "calibration_errors: evaluation.calibration: D-ECE, LaECE and overconfidence",
        "reliability: evaluation.calibration: precision and IoU by score",
    ),
    "Two heads on the same images": (
        "compare: statistics.comparison: a statistic of measurements",
        "compare_decay: statistics.comparison: correlation by distance",
        "compare_responses: statistics.comparison: responses",
        "compare_stages: statistics.stages: correlations at each stage",
        "compare_levels: statistics.ranks: rank correlations within images and classes",
        "compare_precision: evaluation.average_precision: average precisions",
        "compare_errors: evaluation.errors: TIDE's errors",
        "compare_lost_precision: evaluation.lost_precision: what each cause costs",
        "compare_lost_by_threshold: evaluation.lost_precision: the same at each IoU threshold",
        "compare_oracles: evaluation.lost_precision: AP with a cause fixed",
        "compare_exchange_rate: evaluation.lost_precision: AP by step of the ranking",
        "compare_classes: evaluation.by_class: AP by class and size",
        "compare_lrp: evaluation.lrp: oLRP and its parts",
        "compare_calibration: evaluation.calibration: calibration errors",
    ),
    "From proposals to detections": (
        "measure_candidates: measure.candidate_runner: all heads' scores and boxes before NMS on all proposals",
        "load_candidates: measure.candidates: read these again",
        "fate_tables: evaluation.fates: what became of every object, and the recall ladder",
        "object_fates: evaluation.fates: a row an object and head: found, or where it was lost",
        "detection_fates: evaluation.fates: the same, as far as final detections tell",
        "fate_counts: evaluation.fates: how many objects were lost where, by size and class",
        "write_object_fates: evaluation.fates: the objects' fates as CSV and Parquet",
        "recall_ladder: evaluation.ladder: recall of proposals, regressed boxes, NMS, detections",
        "compare_fates: evaluation.fates: shares of two heads' objects by fate",
        "compare_ladders: evaluation.ladder: recalls of two heads at each stage",
        "swap_tables: evaluation.swaps: AP of one head's scores with another head's boxes",
        "swap_matrix: evaluation.swaps: the same without comparisons",
    ),
    "Sweeps": (
        "load_sweep: sweeps.description: a sweep's description",
        "make_plan: sweeps.plan: its points and trainings",
        "run_sweep: sweeps.runner: train what is missing, write table and figure",
    ),
    "Tables and figures": (
        "write_tables: report.results: every table of measurements as CSV",
        "write_figures: report.results: every figure as PNG and PDF",
        "write_report: report.contents: one HTML file of all that was found, which opens offline",
        "Findings: report.contents: what a report is made of",
        "to_markdown: report.cells: a frame as a Markdown table",
        "to_latex: report.cells: a frame as a LaTeX table",
    ),
}
_ENTRIES = {title: [entry.split(": ", 2) for entry in group] for title, group in _PUBLIC.items()}
_MODULES = {name: module for group in _ENTRIES.values() for name, module, _ in group}

__doc__ += "".join(
    f"\n{title}:\n" + "".join(f"    {name:<21} {about}\n" for name, _, about in group)
    for title, group in _ENTRIES.items()
)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, its_name = _MODULES[name].partition(":")
    return getattr(importlib.import_module(f"rethink_heads.{module}"), its_name or name)


def __dir__() -> list[str]:
    return sorted(["__doc__", "__version__", *_MODULES])
