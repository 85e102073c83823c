"""The report's page of many objects: its size, how long it takes to write, to open, and to answer in a browser.

    python -m benchmarks.page --objects 36000

Detections, measurements and pictures are made up, and the times are medians. It needs playwright and a chromium.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from benchmarks.synthetic import DETECTOR, HEADS, Amount, write_measurements
from benchmarks.synthetic_detections import SIDE, open_dataset, write_detections
from rethink_heads.data.coco import CocoDataset
from rethink_heads.evaluation.by_class import confusion_matrix
from rethink_heads.evaluation.fates import detection_fates, fate_counts
from rethink_heads.evaluation.measures import measured_tables
from rethink_heads.machine import at_once
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


def took(begun: tuple[float, float]) -> str:
    """How long it is since then, by the clock and of processors."""
    return f"{time.perf_counter() - begun[0]:.1f} s ({time.process_time() - begun[1]:.1f} s of CPU)"


def now() -> tuple[float, float]:
    """The clock, and what this process has computed."""
    return time.perf_counter(), time.process_time()


def find(folder: Path, draws: int) -> Findings:
    """Everything that is found of made-up detections and measurements."""
    begun = now()
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
    names = (
        "ap",
        "lost_precision",
        "lost_by_threshold",
        "exchange_rate",
        "by_class",
        "calibration",
    )
    pairs = [(KEYS[0], KEYS[1])]
    fates: list[pd.DataFrame] = []

    def detection_tables() -> dict[str, pd.DataFrame]:
        tables = measured_tables(names, detections, dataset, KEYS, pairs=pairs, replicates=draws)
        tables["confusion"] = confusion_matrix(detections, dataset)
        fates.append(detection_fates(detections, dataset))
        tables["fates"] = fate_counts(fates[0], dataset, replicates=draws)
        return tables

    # As the command does.
    parts = at_once(partial(compute_tables, measurements, replicates=draws), detection_tables)
    tables = {name: table for part in parts for name, table in part.items()}
    typer.echo(f"tables: {took(begun)}")
    return Findings(KEYS, dataset, tables, measurements, detections, fates=fates[0])


def processor_seconds() -> float:
    """Seconds that the browser's processes have computed: beside other work they say more than the clock."""
    ticks, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            _, _, rest = stat.read_text().rpartition(")")
            columns = rest.split()
            parents[int(stat.parent.name)] = int(columns[1])
            ticks[int(stat.parent.name)] = int(columns[11]) + int(columns[12])

    def is_ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and is_ours(parents[process]))

    ours = sum(count for process, count in ticks.items() if is_ours(process))
    return (ours - ticks[os.getpid()]) / os.sysconf("SC_CLK_TCK")


def answers(path: Path, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds of opening the page and of each answer: the median by the clock, the mean that the browser computed."""
    from playwright.sync_api import sync_playwright

    found: dict[str, tuple[float, float]] = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})

        def timed(what: str, ask: Callable[[], float], before: Callable[[], object]) -> None:
            seconds, computed = [], 0.0
            for _ in range(repeats):
                before()
                page.wait_for_timeout(50)
                begun = processor_seconds()
                seconds.append(ask())
                computed += processor_seconds() - begun
            found[what] = statistics.median(seconds), computed / repeats

        def opened() -> float:
            begun = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]")
            return time.perf_counter() - begun

        def answered(hash_: str, key: str = "") -> float:
            return float(page.evaluate(ANSWER, [hash_, key])) / 1000

        timed("opened", opened, lambda: page.goto("about:blank"))
        for hash_ in SCREENS:
            timed(hash_, partial(answered, hash_), partial(answered, "methods?at=0"))
        for hash_ in QUESTIONS:
            timed(hash_, partial(answered, hash_), partial(answered, "objects"))
        for key in "jjkj":
            timed(f"key {key}", partial(answered, "", key), lambda: None)
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
    """Write the page without and with pictures, open it, ask it: less than 2 s to open, 0.1 s an answer."""
    amount = Amount(images, objects, proposals=2 * detections)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_detections(folder / "data", amount)
        write_measurements(folder / "measurements", amount)
        found = find(folder, draws)
        for crops_mb in (0.0, CROPS_MB):
            begun = now()
            path = write_report(
                (output or folder) / f"report-{crops_mb:g}.html", found, crops_mb=crops_mb
            )
            typer.echo(
                f"pictures up to {crops_mb:g} MB: {path.stat().st_size / 1e6:.1f} MB, written in"
                f" {took(begun)}"
            )
        times = answers(path, repeats)
    typer.echo(f"{'median, and what the browser computed':<45}")
    for what, (seconds, computed) in times.items():
        typer.echo(f"{what:<45} {1000 * seconds:7.0f} ms {1000 * computed:7.0f} ms")


if __name__ == "__main__":
    typer.run(command)
