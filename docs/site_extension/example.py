"""A folder of made-up results files, in which the site's commands and cells run.

``instances.json`` is ground truth in COCO's format, 360 objects of five classes in 60 images; the others are results of
one detector into which faults were planted by :mod:`benchmarks.planted`. So the pages show what is known to be wrong.

``python -m site_extension.example FOLDER`` writes them into a folder.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import planted
from rethink_heads.files import write_text

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("person", "bicycle", "car", "dog", "chair")
LINKS = {"figures": "figures", "coverage": "benchmarks/results/coverage"}
FAULTS: dict[str, dict[str, float]] = {
    "sound.json": {},
    "loose.json": {"localization": 0.5},
    "tighter.json": {"localization": 0.4},
    "noisy.json": {"background": 0.3, "duplicates": 0.3},
    "shy.json": {"misses": 0.3},
    "unsorted.json": {"ranking": 0.5},
}
STARTUP = """\
import os
import pandas as pd
os.chdir({folder!r})
pd.set_option("display.precision", 3)
pd.set_option("display.max_columns", 20)
get_ipython().run_line_magic("matplotlib", "inline")
get_ipython().run_line_magic("config", "InlineBackend.figure_formats = ['svg']")
"""


@cache
def folder() -> Path:
    """The folder, written once a process; ``LINKS`` in it lead to tables of the repository."""
    made = Path(tempfile.mkdtemp(prefix="rethink-heads-docs-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    write(made)
    for name, path in LINKS.items():
        (made / name).symlink_to(ROOT / path)
    return made


def write(target: Path) -> None:
    """Write ground truth and results files into a folder."""
    objects = planted.make_objects(np.random.default_rng(0))
    found = planted.detect(np.random.default_rng(1), objects)
    images = [
        {"id": number, "file_name": f"{number:012d}.jpg", "width": 640, "height": 640}
        for number in range(1, planted.IMAGES + 1)
    ]
    annotations = [
        {"id": number, **entry, "area": round(entry["bbox"][2] * entry["bbox"][3], 2), "iscrowd": 0}
        for number, entry in enumerate(_entries(objects), 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    _dump(truth, target / "instances.json")
    for name, faults in FAULTS.items():
        results = found
        for number, (fault, strength) in enumerate(faults.items()):
            # The same numbers for each detector: what differs between them is the strength.
            results = planted.PLANT[fault](np.random.default_rng([2, number]), results, strength)
        _dump(_results(results), target / name)
    corners = [
        entry | {"bbox": box.round(2).tolist()}
        for entry, box in zip(_results(found), found.boxes, strict=True)
    ]
    _dump(corners, target / "corners.json")
    counted = replace(found, labels=found.labels - 1)
    _dump(_results(counted), target / "from_zero.json")


def environment() -> dict[str, str]:
    """Variables for the kernel that runs cells and for commands: where they run, and how wide they print."""
    profile = folder() / ".ipython"
    startup = profile / "profile_default" / "startup" / "00-example.py"
    write_text(startup, STARTUP.format(folder=str(folder())))
    packages = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"IPYTHONDIR": str(profile), "PYTHONPATH": packages, "COLUMNS": "110", "NO_COLOR": "1"}


def _entries(found: planted.Results) -> list[dict[str, Any]]:
    boxes = np.hstack([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]]).round(2)
    columns = (found.images + 1, found.labels + 1, boxes)
    names = ("image_id", "category_id", "bbox")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _results(found: planted.Results) -> list[dict[str, Any]]:
    scores = found.scores.round(4).tolist()
    return [entry | {"score": score} for entry, score in zip(_entries(found), scores, strict=True)]


def _dump(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    write(Path(sys.argv[1]))
