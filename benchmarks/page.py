"""The report's page of many objects: its size, how long it takes to write, to open, and to answer in a browser.

    python -m benchmarks.page --objects 36000

Detections, measurements and pictures are made up, and the times are medians. It needs playwright and a chromium.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.synthetic import DETECTOR, HEADS, Amount, write_measurements
from benchmarks.synthetic_detections import SIDE, open_dataset, write_detections
from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation import detections as evaluation
from rethink_heads.evaluation.average_precision import average_precisions
from rethink_heads.evaluation.by_class import class_values, confusion_matrix
from rethink_heads.evaluation.calibration import calibration_of
from rethink_heads.evaluation.fate_counts import fate_counts
from rethink_heads.evaluation.fates import detection_fates
from rethink_heads.evaluation.lost_precision import exchange_rate_of, lost_precision_of
from rethink_heads.measure.detections import detections_of
from rethink_heads.measure.store import Measurements
from rethink_heads.report.contents import CROPS_MB, Findings, write_report
from rethink_heads.report.results import compute_tables

KEYS = [(DETECTOR, head) for head in HEADS]
# What is asked of the page: every screen, then filters, orders and questions of the explorer.
SCREENS = (
    *("verdict", "lost", "score", "boxes", "space", "stages", "compare", "classes", "thresholds"),
    *("objects", "methods"),
)
QUESTIONS = (
    "objects?class=class%203",
    "objects?size=small&by=score&down=1",
    "objects?fate=outranked&by=iou",
    "objects?score=0.2,0.6&iou=0.7,0.9",
    "objects?gap=0.2&by=gap&down=1",
    "objects?by=pcc",
    "objects?by=name",
    "objects?by=fate&head=1",
    "objects?preset=misranked",
    "objects?preset=disagree",
    "objects?preset=misordered",
    "objects?preset=lost",
)
# From the change of the address, or the key, until the next picture is on the screen.
ANSWER = """([hash, key]) => new Promise((done) => {
  const begun = performance.now();
  if (hash) location.hash = hash;
  else document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const drawn = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
  if (hash) addEventListener("hashchange", drawn, { once: true });
  else drawn();
})"""


class MadeUpPictures(CocoDataset):
    """A data set whose images are noise, coarse enough to be a JPEG like a photograph's."""

    def read_pixels(self, index: int) -> np.ndarray:
        """An image (H, W, 3)."""
        coarse = np.random.default_rng(index).integers(0, 255, (SIDE // 8, SIDE // 8, 3), np.uint8)
        return coarse.repeat(8, axis=0).repeat(8, axis=1)


def find(folder: Path, amount: Amount, draws: int) -> Findings:
    """Everything that is found of made-up detections and measurements."""
    begun = time.perf_counter()
    dataset = open_dataset(folder / "data")
    dataset = MadeUpPictures(dataset.annotations_path, dataset.images_path)
    detections = detections_of(dataset, folder / "data")
    measurements = Measurements.load(folder / "measurements")
    # The annotation file counts from one.
    objects = measurements.objects.assign(object_id=measurements.objects["object_id"] + 1)
    arrays = {
        n: values for n in measurements.names if (values := measurements.array(n)) is not None
    }
    measurements = Measurements(objects, arrays)
    tables = compute_tables(measurements, replicates=draws)
    typer.echo(f"tables of measurements: {time.perf_counter() - begun:.1f} s")
    begun = time.perf_counter()
    measures: dict[str, evaluation.Measure] = {
        "ap": average_precisions,
        "lost_precision": lost_precision_of,
        "exchange_rate": exchange_rate_of,
        "by_class": class_values,
        "calibration": calibration_of,
    }
    pair = (KEYS[0], KEYS[1])
    tables |= evaluation.detection_tables(detections, dataset, KEYS, measures, [pair], draws, 0)
    tables["confusion"] = confusion_matrix(detections, dataset)
    fates = detection_fates(detections, dataset)
    tables["fates"] = fate_counts(fates, dataset, replicates=draws)
    typer.echo(f"tables of detections: {time.perf_counter() - begun:.1f} s")
    return Findings(KEYS, dataset, tables, measurements, detections, fates=fates)


def answers(path: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of opening the page, and of each answer, some times each."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        for _ in range(repeats):
            page.goto("about:blank")
            begun = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_function("window.rethinkHeads?.ready")
            found.setdefault("opened", []).append(time.perf_counter() - begun)
        for _ in range(repeats):
            for hash_ in (*SCREENS[1:], SCREENS[0], *QUESTIONS):
                found.setdefault(hash_, []).append(page.evaluate(ANSWER, [hash_, ""]) / 1000)
        for _ in range(4 * repeats):
            for key in "jjk":
                found.setdefault(f"key {key}", []).append(page.evaluate(ANSWER, ["", key]) / 1000)
        browser.close()
    return found


def command(
    images: int = 5000,
    objects: int = 36_000,
    detections: Annotated[int, typer.Option(help="Of an image and head.")] = 50,
    draws: Annotated[int, typer.Option(help="Of the bootstrap.")] = 1000,
    repeats: Annotated[int, typer.Option(help="Of each answer.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Folder that keeps the pages.")] = None,
) -> None:
    """Write the page without and with pictures, open it, ask it."""
    amount = Amount(images, objects, proposals=2 * detections)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_detections(folder / "data", amount)
        write_measurements(folder / "measurements", amount)
        found = find(folder, amount, draws)
        for crops_mb in (0.0, CROPS_MB):
            begun = time.perf_counter()
            path = write_report(
                (output or folder) / f"report-{crops_mb:g}.html", found, crops_mb=crops_mb
            )
            typer.echo(
                f"pictures up to {crops_mb:g} MB: {path.stat().st_size / 1e6:.1f} MB, written in"
                f" {time.perf_counter() - begun:.1f} s"
            )
        times = answers(path, repeats)
    for what, seconds in times.items():
        typer.echo(f"{what:<45} {1000 * statistics.median(seconds):7.0f} ms")


if __name__ == "__main__":
    typer.run(command)
