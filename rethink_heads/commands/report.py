"""``rethink-heads report``: all that was found of detectors and files of detections, as one page that opens offline."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink_heads import bounds
from rethink_heads.commands.diagnose import OBJECT_FATES, ask_candidates, diagnose
from rethink_heads.commands.evaluate import check_folder, detect_asked
from rethink_heads.console import log
from rethink_heads.distributed import processes, rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.machine import at_once
from rethink_heads.options import DetectionOptions, ScreenOptions, flag, value
from rethink_heads.report.output import Report
from rethink_heads.results import read_inputs, shared_folder
from rethink_heads.runs import Run
from rethink_heads.study import check_comparable
from rethink_heads.subject import Key, Subject

if TYPE_CHECKING:
    from rethink_heads.paper import AnalysisInputs, Tables
    from rethink_heads.report.contents import Findings

NAME = "report"
REPORT_NAME = "report.html"
EXAMPLE = (
    "Examples: rethink-heads report --run runs/fc --run runs/conv --output fc-and-conv.html\n\n"
    "rethink-heads report --detections old=old.bbox.json --detections new=new.bbox.json --annotations"
    " instances_val2017.json --images val2017"
)


@dataclass(frozen=True)
class PageOptions:
    """What the page holds, and where it goes."""

    output: Path | None = value(
        "FILE",
        f"The page. Without it: {REPORT_NAME} in the run's folder, of several runs in one beside the first, of files"
        " alone here.",
    )
    title: str | None = value("TEXT", "Title of the page; names the detectors unless given.")
    measurements: str | None = value(
        "NAME",
        "Which measurements of predefined proposals are shown (a folder in measurements/). Without it: those of these"
        " options, else the newest that all runs have, else they are measured now.",
    )
    measured_only: bool = flag(
        "Show of predefined proposals and stages what was measured before, and measure none, which takes long."
    )
    crops_mb: float = value(
        "MB",
        "How much pictures of objects may take in the page; 0 for none.",
        bounds.CROPS_MB,
        12.0,
    )
    link_images: bool = flag(
        "Show objects that have no picture in the page from the images where they lie now; the page then reads"
        " these files."
    )


def command(options: DetectionOptions, screen: ScreenOptions, page: PageOptions) -> None:
    """Write one HTML file that shows what was found of one or several detectors; it opens offline.

    Where average precision is lost, how scores follow IoU, what becomes of every object, with its picture; all tables
    are in the file. What is missing is measured first: detections, predefined proposals and the boxes of each stage.
    """
    from rethink_heads.report.contents import absent_screens, write_report
    from rethink_heads.report.heads import Heads, verdict

    if page.output is not None:
        # Before the detecting, which takes long.
        if page.output.is_dir():
            raise UserError(
                f"{page.output} is a folder; give a file, for example --output {page.output / REPORT_NAME}"
            )
        check_folder(page.output.parent)
    found, runs = findings(options, page.measurements, page.measured_only)
    path = page.output or report_path(runs)
    title, crops_mb = page.title or "", page.crops_mb
    write_report(path, found, title=title, crops_mb=crops_mb, link_images=page.link_images)
    result = Report(NAME, dict(found.provenance))
    result.data(ap=found.tables["ap"])
    result.files = [path]
    result.lines(*(one.text for one in verdict(found.tables, Heads(list(found.keys)))))
    result.lines(*absent_screens(found.tables).values())
    size = path.stat().st_size / 1e6
    result.end(screen.as_json, screen.full, f"{path} ({size:.1f} MB): open it in a browser")


def findings(
    options: DetectionOptions, measurements: str | None = None, measured_only: bool = False
) -> tuple[Findings, list[Run]]:
    """Diagnose the detectors and files, and read, or measure, their predefined proposals.

    Returns:
        What was found, and the detectors' folders.

    Args:
        measurements: name of the measurements; None for those of the options, else the newest that all runs have, else
            new ones.
        measured_only: measure no predefined proposals.

    Raises:
        UserError: something cannot be read, or there are no measurements of that name.
    """
    from rethink_heads.paper import AnalysisInputs
    from rethink_heads.report.contents import Findings
    from rethink_heads.report.results import compute

    asked = detect_asked(options)
    runs = [subject.run for subject in asked.subjects]
    names = [] if measurements is None else [measurements] * len(runs)
    names = names or _measured_names(asked.subjects, measured_only)
    candidates, _ = ask_candidates(asked)
    rank_zero_only()
    inputs = AnalysisInputs()
    if names:
        inputs = _measured(runs, asked.keys, names, asked.bootstrap)

    def proposal_tables() -> Tables:
        if inputs.found is not None:
            log("computing the tables of predefined proposals")
        return compute(inputs)

    tables, proposals = at_once(partial(diagnose, asked, candidates), proposal_tables)
    fates = tables.pop(OBJECT_FATES)
    provenance = {"command": shlex.join(["rethink-heads", *sys.argv[1:]])}
    for detector, own in asked.provenance.items():
        provenance |= {f"{detector}: {name}": said for name, said in own.items()}
    found = Findings(
        asked.keys,
        asked.dataset,
        tables | proposals,
        inputs.found,
        asked.detections,
        inputs.stages,
        fates,
        candidates,
        provenance,
    )
    return found, runs


def report_path(runs: Sequence[Run]) -> Path:
    """Where the page goes unless it is said: into the run's folder or the shared one; of files alone here."""
    return (shared_folder(runs) if runs else Path()) / REPORT_NAME


def _measured_names(subjects: Sequence[Subject], measured_only: bool) -> list[str]:
    """The names of the measurements that are shown, one a detector, after measuring what is missing.

    Empty where there are files alone, nothing may be measured, or the detectors would not be measured alike.
    """
    own = [subject.name for subject in subjects]
    # Asked once for all processes, before any of them measures.
    before = processes().broadcast(lambda: _measured_before(subjects, own)) if subjects else []
    if measured_only or before not in ([], own):
        return list(before)
    try:
        planned = [subject.planned_provenance() for subject in subjects]
        if planned:
            check_comparable([subject.run for subject in subjects], planned)
    except UserError as reason:
        log(f"predefined proposals are not measured: {reason}")
        return []
    if not before and subjects:
        log("measuring predefined proposals, which report shows; --measured-only does without")
    for subject in subjects:
        subject.measure()
        subject.match_stages()
    return own


def _measured_before(subjects: Sequence[Subject], own: Sequence[str]) -> list[str]:
    """The names of complete measurements: ``own`` of each detector, else the newest that all have, else none."""
    there = [
        {path.parent.name for path in subject.run.measurements_dir.glob("*/meta.json")}
        for subject in subjects
    ]
    shared = set.intersection(*there)
    if all(each in found for each, found in zip(own, there, strict=True)):
        return list(own)
    if not shared:
        return []
    folder = subjects[0].run.measurements
    newest = max(shared, key=lambda each: folder(each).stat().st_mtime)
    log(
        f"predefined proposals: the measurements {newest} are shown; --measurements NAME chooses others"
    )
    return [newest] * len(subjects)


def _measured(
    runs: Sequence[Run], keys: Sequence[Key], names: Sequence[str], options: Any
) -> AnalysisInputs:
    """What was measured of predefined proposals and later stages of the heads that are shown.

    Args:
        names: of the measurements, one a run.
    """
    inputs = read_inputs(runs, names, (), options["seed"])
    assert inputs.found is not None
    heads = [head for _, head in keys]
    found = inputs.found.select(heads=heads)
    stages = inputs.stages
    if stages is not None:
        stages = stages[stages["head"].isin(heads)]
    # What is detected of other images than these is in the diagnosis.
    return dataclasses.replace(
        inputs, found=found, stages=stages, detected=None, options={**inputs.options, **options}
    )
