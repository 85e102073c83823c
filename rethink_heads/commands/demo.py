"""``rethink-heads demo``: everything once, on the generated set."""

from __future__ import annotations

import time

from rethink_heads.commands import correlate
from rethink_heads.commands.figures import draw_run, is_drawn
from rethink_heads.commands.sessions import demo_run, measured
from rethink_heads.commands.studies import Study
from rethink_heads.console import print_lines, say
from rethink_heads.distributed import rank_zero_only
from rethink_heads.locking import hold
from rethink_heads.options import DeviceOption, JsonOption, RunOption, SeedOption, StudyOptions
from rethink_heads.progress import duration

NAME = "demo"
EXAMPLE = "Example: rethink-heads demo"

HEADS = ["fc", "conv"]


def command(
    run: RunOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a small detector with both heads, measure both, draw the figures (some minutes).

    The run is runs/demo. What is there already is used again.
    """
    start = time.monotonic()
    options = StudyOptions(device=device)
    demo = demo_run(options, run, seed)
    measurements, name = measured(demo, options)
    rank_zero_only()

    def is_done() -> bool:
        return is_drawn(demo, name, demo.config.seed)

    with hold(demo.path, is_done):
        if not is_done():
            draw_run(demo, name, demo.config.seed)
    study = Study([demo], measurements, [name], HEADS, demo.config.seed)
    correlate.report(study, (0.0, 1.0), as_json, curves=False)
    took = duration(time.monotonic() - start)
    if as_json:
        say(f"the run: {demo.path} ({took})")
        return
    print_lines(
        f"The run is {demo.path} ({took}):",
        f"  figures  {demo.figures(name)}",
        f"  tables   {demo.tables(name)}",
        f"  detector {demo.detector_path}",
        "Next:",
        f"  rethink-heads regress --run {demo.path} --head fc --head conv",
        f"  rethink-heads sensitivity --run {demo.path}",
        f"  rethink-heads correlate --run {demo.path} --head fc --head conv --iou-range 0.5 1",
    )
