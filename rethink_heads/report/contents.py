"""What a report's page holds: every table, all objects and detections, and pictures of the objects worth a look."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from rethink_heads import __version__
from rethink_heads.machine import at_once
from rethink_heads.measure.store import Key, Measurements
from rethink_heads.plots.style import heads_of
from rethink_heads.report.heads import Heads, verdict, warnings
from rethink_heads.report.page_file import write_page
from rethink_heads.report.page_tables import (
    MOST_CROPS,
    box_table,
    choose_objects,
    density_table,
    detection_tables,
    object_heads_table,
    object_table,
    proposal_table,
    with_crops,
)

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.measure.candidates import Candidates

CROPS_MB = 12.0
UNIT = (0.0, 1.0)
# What screens show to three digits at most is stored in 16 bits.
QUANTISED = {
    "object_heads": {
        name: UNIT
        for name in (
            "score",
            "regressed_iou",
            "best_iou",
            "top_iou",
            "fate_score",
            "iou_proposals",
            "iou_regressed",
            "iou_classified",
            "iou_after_nms",
            "iou_detections",
            "precision",
            "suppressor_score",
            "suppressor_iou",
            "other_score",
            "seen_score",
        )
    }
    | {"pcc": (-1.0, 1.0)},
    "detections": {"score": UNIT, "iou": UNIT},
    "boxes": {"score": UNIT, "iou": UNIT},
    "proposals": {"score": UNIT, "iou": UNIT},
}
DEFINITIONS = {
    "AP": "COCO's average precision: mean over IoU thresholds 0.50 to 0.95 and classes.",
    "PCC": "Pearson's correlation of a head's score with the IoU of what it scores: a predefined proposal, one of the"
    " detector's own, or a final detection, as is said beside it; by class, of true positives at IoU 0.5.",
    "Score of an object": "Mean score of its class over its predefined proposals of IoU 0.7 and more; in a report"
    " without predefined proposals the score of its detection, or of the best box that fits it.",
    "IoU of an object": "Mean IoU of the regressed box over the same proposals; in a report without them the best IoU"
    " of a detection of its class, from 0.5 on.",
    "Recall, mean": "Of a class, over IoU 0.50 to 0.95; that of the stages is at one IoU.",
    "Behind": "How far the IoU of the detection with the highest score is behind that of the best.",
    "Share of the loss": "What fixing one cause gains in AP, averaged over the orders of fixing all causes, the"
    " ranking after each other one in three of four (weighted Shapley values): shares and AP add up to 1.",
    "Oracle": "AP with one cause fixed and nothing else.",
    "Fate": "What became of an object: whether a detection stands for it at IoU 0.5 or, if not, the first stage at"
    " which its last fitting box was lost. A detection stands for an object if it is its true positive; the object is"
    " outranked if at that rank in its class, and at every later one, false positives outnumber true ones.",
    "oLRP": "Optimal localization recall precision: the error of localization, false positives and misses together,"
    " at the score threshold at which it is least.",
    "D-ECE and LaECE": "Calibration errors: how far scores are from precision, and from precision times IoU.",
    "TIDE's errors": "What AP at IoU 0.5 gains without errors of classification, localization, both, duplicates,"
    " background, misses, without all false positives, and without all false negatives.",
    "Interval": "95%, from a bootstrap over images; differences are paired on the same images. [-]: too few images,"
    " or no variation, for an interval. In by_class.csv that of AP is from derivatives; of a size with one class only"
    " the screens show that of the size's AP, in ap.csv.",
    "Sizes": "small: area below 32 x 32 px; medium: below 96 x 96 px; large: above.",
}
ABSENT = {
    "lost": "Final detections were not taken apart: rethink-heads diagnose does it.",
    "score": "Predefined proposals were not measured: rethink-heads correlate measures them, with a detector.",
    "boxes": "Predefined proposals were not measured: rethink-heads regress measures them, with a detector.",
    "space": "Spatial sensitivity was not measured: rethink-heads sensitivity measures it, with a detector.",
    "stages": "Stages were not measured: rethink-heads diagnose measures them, and correlate --stage all, with a"
    " detector.",
    "compare": "There is one head only: name several heads or detectors, and they are compared.",
    "classes": "Final detections were not evaluated by class: rethink-heads diagnose does it.",
    "thresholds": "Final detections were not evaluated: rethink-heads diagnose does it.",
}
"""By screen: what is said where nothing was measured for it."""


@dataclass(frozen=True)
class Findings:
    """All that was found of some heads on one data set; what was not measured is None or has no table.

    Attributes:
        keys: (detector, head) of the heads, in the order in which they are shown.
        dataset: the objects; with images where crops are wanted.
        tables: result frames by the names of their CSV files.
        measurements: of predefined proposals.
        detections: final detections, in ``DETECTION_COLUMNS``.
        stages: boxes of RPN's proposals and final detections matched to objects, in ``STAGE_COLUMNS``.
        fates: a row an object and head, what ``object_fates`` returns.
        candidates: boxes before NMS, from which those of each stage are shown.
        provenance: names and texts: versions, hashes, the command.
    """

    keys: Sequence[Key]
    dataset: CocoDataset
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    measurements: Measurements | None = None
    detections: pd.DataFrame | None = None
    stages: pd.DataFrame | None = None
    fates: pd.DataFrame | None = None
    candidates: Candidates | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)


def write_report(
    path: Path,
    found: Findings,
    *,
    title: str = "",
    crops_mb: float = CROPS_MB,
    link_images: bool = False,
) -> Path:
    """Write what was found as one HTML file that opens offline; return its path.

    Args:
        found: of one or more heads.
        title: of the report; names the detectors and the data by default.
        crops_mb: how much crops of objects may take, in MB; 0 for none.
        link_images: whether objects without a crop are shown from the images where they lie, which must stay there.

    Raises:
        UserError: the file cannot be written.
    """
    dataset, keys = found.dataset, list(found.keys)
    objects = object_table(dataset)
    object_heads = object_heads_table(
        objects, keys, dataset, found.measurements, found.detections, found.fates
    )
    chosen = choose_objects(objects, object_heads, MOST_CROPS)
    (crops, with_places), page_tables = at_once(
        partial(with_crops, dataset, objects, chosen if crops_mb > 0 else [], crops_mb),
        partial(_page_tables, found, object_heads, chosen),
    )
    tables = {**found.tables, "objects": with_places, **page_tables}
    link = link_images and dataset.images_path is not None
    if link:
        tables["images"] = _image_table(dataset)
    tables = {name: frame for name, frame in tables.items() if len(frame)}
    names = ", ".join(dict.fromkeys(detector for detector, _ in keys))
    series = _series(keys)
    heads = Heads(keys)
    # One name for all that the page says of a head.
    heads.names = {key: one["label"] for key, one in zip(keys, series, strict=True)}
    header = {
        "title": title or f"{names} on {Path(dataset.where).name}",
        "subtitle": f"{len(dataset):,} images, {len(objects):,} objects of {len(dataset.class_names)} classes",
        "series": series,
        "sentences": [vars(sentence) for sentence in verdict(tables, heads, percent=True)],
        "warnings": warnings(
            len(dataset), objects["size"].tolist(), objects["class_name"].tolist()
        ),
        "definitions": [list(pair) for pair in DEFINITIONS.items()],
        "provenance": [["rethink-heads", __version__], *map(list, found.provenance.items())],
        "classes": list(dataset.class_names),
        "absent": ABSENT,
        "images": _address(dataset, Path(path)) if link else None,
    }
    write_page(Path(path), header, tables, QUANTISED, crops)
    return Path(path)


def _page_tables(
    found: Findings, object_heads: pd.DataFrame, chosen: Sequence[int]
) -> dict[str, pd.DataFrame]:
    """The tables that only the page has: what each head makes of the objects, and boxes of the chosen ones."""
    keys, dataset, tables = list(found.keys), found.dataset, {"object_heads": object_heads}
    if found.detections is not None:
        tables["detections"], causes = detection_tables(found.detections, dataset, keys)
        joined = object_heads.merge(causes, "left", on=["detector", "head", "object_id"])
        of_causes = list(causes.columns[3:])
        joined[of_causes] = joined[of_causes].fillna(0).astype(np.uint8)
        tables["object_heads"] = joined
    if found.detections is not None or found.candidates is not None:
        tables["boxes"] = box_table(dataset, keys, chosen, found.detections, found.candidates)
    sampled = found.measurements
    if sampled is not None and sampled.has_rows:
        tables["proposals"] = proposal_table(sampled, keys, chosen)
    else:
        sampled = None
    tables["score_density"] = density_table(keys, sampled, found.stages)
    return tables


def absent_screens(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """By screen that has nothing to show: which command measures it."""
    needs = {
        "lost": ["lost_precision"],
        "score": ["pcc"],
        "space": ["correlation_maps", "spatial_correlation"],
        "stages": ["recall_ladder", "stages"],
    }
    return {
        screen: ABSENT[screen]
        for screen, names in needs.items()
        if not any(len(tables.get(name, ())) for name in names)
    }


def _image_table(dataset: CocoDataset) -> pd.DataFrame:
    """Each image's file in its folder, as a part of an address, and its size in px."""
    sizes = np.array(dataset.sizes, np.int64).reshape(-1, 2)
    return pd.DataFrame(
        {
            "image_id": np.array(dataset.image_ids, np.int64),
            "address": [quote(Path(name).as_posix()) for name in dataset.file_names],
            "width": sizes[:, 0],
            "height": sizes[:, 1],
        }
    )


def _address(dataset: CocoDataset, path: Path) -> str:
    """The folder of images as seen from the report."""
    folder = os.path.relpath(os.path.abspath(str(dataset.images_path)), path.absolute().parent)
    return quote(Path(folder).as_posix()) + "/"


def _series(keys: Sequence[Key]) -> list[dict[str, Any]]:
    """Each head's label and look, the figures' own, with a lighter colour for dark pages.

    Of several detectors the label is the detector's name, with the head's where it has several.
    """
    detectors = Counter(detector for detector, _ in keys)
    frame = pd.DataFrame(keys, columns=["detector", "head"])
    by_key = {(one.detector, one.head): one for one in heads_of(frame)}
    found = []
    for key in keys:
        label, look = by_key[key].label.replace(r"\$", "$"), by_key[key].look
        if len(detectors) > 1:
            label = key[0] if detectors[key[0]] == 1 else "/".join(key)
        found.append(
            {
                "detector": key[0],
                "head": key[1],
                "label": label,
                "colour": look.colour,
                "dark": _lighter(look.colour),
                "dash": _dash(look.line_style),
                "marker": look.marker,
                "hollow": look.hollow,
            }
        )
    return found


def _dash(style: Any) -> str | None:
    return None if style == "-" else " ".join(f"{2 * length:g}" for length in style[1])


def _lighter(colour: str) -> str:
    """The colour for a dark page: mixed with white, the more the darker it is."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = to_rgb(colour)
    dark = 1 - (0.2126 * red + 0.7152 * green + 0.0722 * blue)
    share = 0.25 + 0.6 * max(0.0, dark - 0.6) / 0.4
    mixed = [part + (1 - part) * share for part in (red, green, blue)]
    return str(to_hex((mixed[0], mixed[1], mixed[2])))
