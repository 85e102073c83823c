"""``rethink-heads demo``: everything once, on the generated set."""

from __future__ import annotations

import time

from rethink_heads.commands import correlate
from rethink_heads.commands.figures import draw_run, is_drawn
from rethink_heads.commands.report import findings, report_path
from rethink_heads.console import duration, log
from rethink_heads.distributed import rank_zero_only
from rethink_heads.locking import hold
from rethink_heads.options import (
    DetectionOptions,
    DetectorOptions,
    DeviceOption,
    RunOption,
    ScreenOptions,
    SeedOption,
    StudyOptions,
)
from rethink_heads.report.output import print_lines
from rethink_heads.run_options import demo_run
from rethink_heads.study import Study, resolve

EXAMPLE = "Example: rethink-heads demo"

HEADS = ["fc", "conv"]


def command(
    screen: ScreenOptions,
    run: RunOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = None,
) -> None:
    """Train a small detector with both heads, measure both, draw figures and a report (some minutes).

    The run is runs/demo. What is there already is used again.
    """
    from rethink_heads.report.contents import write_report

    start = time.monotonic()
    options = StudyOptions(device=device)
    demo = demo_run(options, run, seed)
    study = Study(resolve([demo], options), HEADS, demo.config.seed).measure()
    (name,) = study.names
    rank_zero_only()

    page = report_path([demo])

    def is_done() -> bool:
        return is_drawn(demo, name, demo.config.seed) and page.is_file()

    with hold(demo.path, is_done):
        if not is_done():
            seed = demo.config.seed
            chosen = DetectionOptions(
                DetectorOptions(run=[demo.path]), HEADS, device=device, seed=seed
            )
            # Before the figures, which are also drawn of the detections that it leaves.
            found, _ = findings(chosen, measured_only=True)
            draw_run(demo, name, seed)
            write_report(page, found)
    took = duration(time.monotonic() - start)
    log(f"the run: {demo.path} ({took})")
    figures = f"figures are in {demo.figures(name)}, tables in {demo.tables(name)}"
    correlate.report(study, (0.0, 1.0), screen, figures)
    if not screen.as_json:
        print_lines(
            f"Open {page} in a browser: it shows all of this, down to the single object.",
            f"The detector is {demo.detector_path}. Next:",
            f"  rethink-heads regress --run {demo.path} --head fc --head conv",
            f"  rethink-heads sensitivity --run {demo.path}",
            f"  rethink-heads correlate --run {demo.path} --head fc --head conv --iou-range 0.5 1",
        )
