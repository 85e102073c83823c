"""Every table of two tiny detectors: what ``python -m tests.reference.tables`` freezes and the test compares.

Run it only when numbers are meant to move, and say in the changelog which and why.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pandas as pd
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
TABLES = HERE / "tables"
FC, CONV, BOTH, APART = ("both", "fc"), ("both", "conv"), ("both", "double-ext"), ("conv", "conv")
PAIRS = ((FC, CONV), (FC, APART))
STATISTICS = (
    "pcc",
    "object_pcc",
    "spearman",
    "score",
    "regressed_iou",
    "score_std",
    "gain",
    "rms_dx",
    "rms_dh",
)
BY_BIN = ("score", "regressed_iou")
RESPONSES = ("displacement_score", "cell_score", "cell_iou")


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


@patch("rethink_heads.statistics.bootstrap.FEWEST_IMAGES", 3)
def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Measure both detectors in a folder and compute every table, by name.

    The images are fewer than the package gives intervals of, which are to be compared nevertheless.
    """
    dataset = images(folder)
    measured, stages, detections = [], [], []
    for name in HEADS:
        detector = load(name, dataset.class_names)
        measuring = settings(name).measuring
        measured.append(rh.measure_detector(detector, dataset, name, measuring, progress=False))
        kept = folder / name
        provenance = {"weights": name}
        stages.append(rh.measure_stages(detector, dataset, name, kept, provenance, progress=False))
        detections.append(
            rh.detect_dataset(detector, dataset, name, kept, provenance, progress=False)
        )
    whole_grid = settings("both").measuring.model_copy(
        update={"grid_steps": 5, "proposals_per_object": None, "images": 2}
    )
    grid_measurements = rh.measure_detector(
        load("both", dataset.class_names), dataset, "both", whole_grid, progress=False
    )
    return {
        **dict(_measurement_tables(rh.Measurements.merge(measured))),
        "grid_pearson": rh.pearson(grid_measurements),
        "grid_regressed_iou": rh.regressed_iou_by_iou(grid_measurements),
        **dict(_stage_tables(pd.concat(stages, ignore_index=True))),
        **dict(_detection_tables(pd.concat(detections, ignore_index=True), dataset)),
    }


def _measurement_tables(measured: rh.Measurements) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "pearson", rh.pearson(measured)
    yield "pearson_upper", rh.pearson(measured, (0.5, 1.0))
    yield "spearman", rh.spearman(measured)
    yield "score_by_iou", rh.score_by_iou(measured)
    yield "regressed_iou", rh.regressed_iou_by_iou(measured)
    yield "error_components", rh.error_components(measured)
    yield "error_components_by_iou", rh.error_components(measured, by_bin=True)
    yield "decay", rh.decay(measured)
    yield "spatial_correlation", rh.distinct_pairs(measured)
    for kind in RESPONSES:
        response = rh.response(measured, kind)
        # Of every position: those of all sizes suffice.
        yield kind, response[response["size"] == "all"]
        yield f"{kind}_summary", rh.response_summary(measured, kind)
    yield (
        "comparisons",
        pd.concat([rh.compare(measured, s, a, b) for a, b in PAIRS for s in STATISTICS]),
    )
    yield (
        "comparisons_upper",
        pd.concat(
            [
                rh.compare(measured, s, FC, CONV, iou_range=(0.5, 1.0))
                for s in ("pcc", "regressed_iou")
            ]
        ),
    )
    yield (
        "comparisons_by_iou",
        pd.concat([rh.compare(measured, s, FC, APART, by_bin=True) for s in BY_BIN]),
    )
    yield "comparisons_of_decay", rh.compare_decay(measured, FC, CONV)
    yield (
        "comparisons_of_responses",
        pd.concat([rh.compare_responses(measured, kind, FC, CONV) for kind in RESPONSES]),
    )


def _stage_tables(stages: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "stage_correlation", rh.stage_correlation(stages)
    yield "stage_comparisons", pd.concat([rh.compare_stages(stages, None, a, b) for a, b in PAIRS])
    yield "rank_levels", rh.level_correlation(stages)
    yield "rank_level_comparisons", rh.compare_levels(stages, BOTH, APART)


def _detection_tables(
    found: pd.DataFrame, dataset: rh.CocoDataset
) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "precision", rh.precision_table(found, dataset)
    yield "precision_comparisons", rh.compare_precision(found, dataset, BOTH, APART)
    yield "detection_errors", rh.detection_errors(found, dataset)
    yield "detection_error_comparisons", rh.compare_errors(found, dataset, BOTH, APART)
    yield "calibration", rh.calibration_errors(found, dataset)
    yield "calibration_comparisons", rh.compare_calibration(found, dataset, BOTH, APART)
    yield "reliability", rh.reliability(found, dataset)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, table in tables(Path(folder)).items():
            TABLES.mkdir(exist_ok=True)
            table.to_csv(TABLES / f"{name}.csv", index=False)
            print(name, len(table))
