"""Reads what a report's page holds, as its scripts do, and makes findings for one."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.by_class import confusion_matrix
from rethink_heads.evaluation.fates import detection_fates, fate_counts
from rethink_heads.evaluation.measures import diagnosis_tables
from rethink_heads.measure.store import Measurements
from rethink_heads.report.contents import Findings
from rethink_heads.report.page_tables import object_table
from rethink_heads.report.results import compute_tables
from tests.made_detections import SIDE, make_dataset, make_detections
from tests.synthetic_measurements import synthetic_measurements

KEYS = (("near", "fc"), ("far", "conv"))


def element(path: Path, name: str) -> bytes:
    """What a script element of the page holds in base64."""
    found = re.search(f'<script[^>]*id="{name}">([^<]*)</script>', path.read_text(encoding="utf-8"))
    assert found is not None
    return base64.b64decode(found[1])


def read_page(path: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """The header and the tables of a page."""
    return unpack(element(path, "data"))


def unpack(packed: bytes) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """The header and the tables of compressed data."""
    data = gzip.decompress(packed)
    (length,) = struct.unpack("<I", data[:4])
    header = json.loads(data[4 : 4 + length])
    base = -(-(4 + length) // 8) * 8
    tables = {}
    for name, spec in header["tables"].items():
        columns = {}
        for column in spec["columns"]:
            assert (base + column["offset"]) % 8 == 0
            values: Any = np.frombuffer(
                data, f"<{column['type']}", spec["rows"], base + column["offset"]
            )
            if "strings" in column:
                values = np.array(column["strings"], object)[values] if len(values) else []
            elif "scale" in column:
                numbers = column["low"] + column["scale"] * values
                values = np.where(values == column["absent"], np.nan, numbers)
            elif column.get("truth"):
                values = values == 1
            columns[column["name"]] = values
        tables[name] = pd.DataFrame(columns)
    return header, tables


def equal(found: pd.Series, expected: pd.Series) -> bool:
    """Whether two columns are the same to the last digit, what is undefined included."""
    pairs = zip(found.tolist(), expected.tolist(), strict=True)
    return all(a == b or (a != a and b != b) for a, b in pairs)


def measured(found: Findings) -> Findings:
    """The findings with made-up measurements of predefined proposals of the same objects."""
    objects = object_table(found.dataset).sort_values(["image_id", "object_id"])
    images = -(-len(objects) // 6)
    made = synthetic_measurements({key[0]: [key[1]] for key in found.keys}, images=images)
    first = made.objects.head(len(objects))[["image_id", "object_id"]]
    some = made.restrict(set(first.itertuples(index=False, name=None)))
    arrays = {name: array for name in some.names if (array := some.array(name)) is not None}
    measurements = Measurements(objects, arrays)
    tables = {**found.tables, **compute_tables(measurements, replicates=50)}
    return dataclasses.replace(found, measurements=measurements, tables=tables)


def make_findings(
    folder: Path, images: int = 20, class_name: str = "", pictures: bool = True
) -> Findings:
    """Two detectors' final detections of made-up images, with fates and tables; one class may have another name."""
    dataset = make_dataset(folder, images)
    if class_name:
        path = dataset.annotations_path
        content = json.loads(path.read_text())
        content["categories"][0]["name"] = class_name
        path.write_text(json.dumps(content))
        dataset = CocoDataset(path, dataset.images_path)
    random = np.random.default_rng(0)
    for name in dataset.file_names if pictures else ():
        pixels = random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    detections = pd.concat(
        [
            make_detections(dataset, seed, *key, shake)
            for seed, (key, shake) in enumerate(zip(KEYS, (0.05, 0.15), strict=True))
        ],
        ignore_index=True,
    )
    tables = diagnosis_tables(detections, dataset, KEYS, [KEYS], replicates=100)
    fates = detection_fates(detections, dataset)
    tables["fates"] = fate_counts(fates, dataset, replicates=100)
    tables["confusion"] = confusion_matrix(detections, dataset)
    return Findings(KEYS, dataset, tables, detections=detections, fates=fates)
