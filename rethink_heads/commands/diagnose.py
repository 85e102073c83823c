"""``rethink-heads diagnose``: where average precision is lost, what becomes of every object, what would win it back."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rethink_heads.commands.evaluate import (
    EvaluationInputs,
    OutputOption,
    Tables,
    check_folder,
    detect_asked,
    where_written,
    write_evaluation,
)
from rethink_heads.console import log, redirect_stdout
from rethink_heads.distributed import rank_zero_only
from rethink_heads.errors import UserError
from rethink_heads.options import DetectionOptions, ScreenOptions, words_of
from rethink_heads.report.output import Report
from rethink_heads.results import shared_folder
from rethink_heads.subject import Key, RunDetections, Subject

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.measure.candidates import Candidates

NAME = "diagnose"
EXAMPLE = (
    "Examples: rethink-heads diagnose --run runs/fc --run runs/conv\n\n"
    "rethink-heads diagnose --detections coco_instances_results.json --annotations instances_val2017.json"
    " --output results/mine"
)
CANDIDATES_FOLDER, OBJECT_FATES = "candidates", "object_fates"
# The IoU threshold at which the ladder is printed.
LADDER_IOU = "0.50"
# Too long for JSON on standard output; they are in files.
LONG_TABLES = (OBJECT_FATES, "precision_recall")
COMPARED_TABLES = ("ap_comparisons", "lost_precision_comparisons", "lrp_comparisons")
NEXT = {
    "ranking": ("correlate", "shows how each head's score follows IoU"),
    "localization": ("regress", "shows what each head makes of a proposal's box"),
    "classification": ("report", "shows which classes are taken for each other"),
    "duplicates": ("correlate --stage all", "shows what NMS is left to sort out"),
    "background": ("evaluate --errors --calibration", "shows how far scores can be trusted"),
    "misses": ("report", "shows which objects, and what became of them"),
}
"""By the largest cause of lost average precision: the command that looks closer, and what it shows."""
FILE_NEXT = NEXT | {
    "ranking": ("correlate --stage detections", "shows how scores follow IoU"),
    "localization": ("report", "shows at which IoU, and which objects"),
    "duplicates": ("evaluate --errors", "shows what second detections cost"),
}
"""The same for a file, which has no heads to be asked."""
Pair = tuple[Key, Key]


def command(options: DetectionOptions, screen: ScreenOptions, output: OutputOption = None) -> None:
    """Say where average precision is lost, and what would win it back.

    The loss is divided among six causes, every object gets its fate, and heads swap scores and boxes on the same
    proposals. With a file of detections alone, what detections can tell; with a run or a model also at which stage
    objects are lost.
    """
    if output is not None:
        check_folder(output)
    asked = detect_asked(options)
    candidates, lacks = ask_candidates(asked)
    rank_zero_only()
    tables = diagnose(asked, candidates)
    written = write_diagnosis(asked, tables, output, complete=options.head is None)
    report(asked, tables, lacks, written, screen, options)


def ask_candidates(asked: EvaluationInputs) -> tuple[Candidates | None, dict[str, str]]:
    """Ask all heads about the proposals of all detectors that show them; beside the answers by detector why it was not
    asked. Raises UserError where something cannot be read, or the data are not the same for all.
    """
    if asked.different:
        raise UserError(asked.different)
    lacks = {
        each.detector: "a file has final detections only, so nothing is known of earlier stages"
        for each in asked.found
        if not isinstance(each, RunDetections)
    }
    if not asked.subjects:
        return None, lacks
    from rethink_heads.detectors.base import missing, supports
    from rethink_heads.measure.candidate_runner import measure_candidates

    followed: list[tuple[Subject, RunDetections]] = []
    for subject, each in zip(asked.subjects, asked.found, strict=False):
        assert isinstance(each, RunDetections)
        if supports(subject.opened.detector, "propose"):
            followed.append((subject, each))
        else:
            lacks[each.detector] = missing("propose")
    if not followed:
        return None, lacks
    runs = [subject.run for subject, _ in followed]
    images = {len(each.dataset) for _, each in followed}
    inner = "-".join([CANDIDATES_FOLDER, *map(str, images)])
    folder = followed[0][0].folder if len(runs) == 1 else shared_folder(runs) / "measurements"
    shared = {
        each.detector: dataclasses.replace(subject.opened, dataset=each.dataset)
        for subject, each in followed
    }
    provenance = {each.detector: each.provenance for _, each in followed}
    with runs[0].logged("asking all heads about the same proposals"), redirect_stdout():
        return measure_candidates(shared, folder / inner, provenance), lacks


def diagnose(asked: EvaluationInputs, candidates: Candidates | None) -> Tables:
    """Make every table that the detectors and files allow: result frames by the names of their CSV files.

    ``candidates``: what :func:`ask_candidates` returned. The table OBJECT_FATES has a row an object and head.
    """
    from rethink_heads.evaluation.measures import diagnosis_tables
    from rethink_heads.statistics.comparison import compared_pairs

    keys, dataset, pairs = asked.keys, asked.dataset, compared_pairs(asked.keys)
    log("dividing the loss of average precision among its causes")
    tables = diagnosis_tables(asked.detections, dataset, keys, pairs, **asked.bootstrap)
    if candidates is None:
        log("telling the fate of every object from the detections alone")
    else:
        log("following every object from proposals to detections")
    tables |= _fates(asked, candidates, pairs)
    followed = [key for key in keys if candidates is not None and key in candidates.keys]
    if candidates is not None and len(followed) > 1:
        from rethink_heads.evaluation.swaps import swap_tables

        log("swapping the scores and boxes of heads")
        tables |= swap_tables(candidates, dataset, keys=followed, **asked.bootstrap)
    return tables


def write_diagnosis(
    asked: EvaluationInputs, tables: Tables, output: Path | None, complete: bool
) -> list[Path]:
    """Write the tables and figures, the objects' fates as Parquet too, where `evaluate` would write its own."""
    from rethink_heads.evaluation.fates import write_object_fates

    others = {name: table for name, table in tables.items() if name != OBJECT_FATES}
    written = write_evaluation(asked.found, others, output, complete)
    if written:
        written += write_object_fates(tables[OBJECT_FATES], written[0].parent)
    return written


def report(
    asked: EvaluationInputs,
    tables: Tables,
    lacks: Mapping[str, str],
    written: list[Path],
    screen: ScreenOptions,
    options: DetectionOptions,
) -> None:
    """Print the answer in sentences, then shares, the ladder, fates and swaps, and which command to give next.
    ``lacks``: by detector, why its fates are those that detections alone can tell.
    """
    from rethink_heads.report.heads import CAUSE_SENTENCES, Heads, select, verdict, with_count

    result = Report(NAME, asked.provenance)
    result.data(**{name: table for name, table in tables.items() if name not in LONG_TABLES})
    result.files = written
    heads = Heads(asked.keys)
    result.lines(*(sentence.text for sentence in verdict(tables, heads)))
    title = "What 1 - AP is lost to [95% interval]: the shares of a head add up"
    result.table(title, heads.columns(tables["lost_precision"], ["cause"], "share"))
    cells = heads.columns(tables["lost_precision"], ["cause"], "oracle")
    meanings = (f"{one}." for one in CAUSE_SENTENCES.values())
    result.table("AP with one cause fixed [95% interval]", cells, *meanings, full=True)
    if "recall_ladder" in tables:
        ladder = select(tables["recall_ladder"], size="all", iou=LADDER_IOU)
        cells = heads.columns(ladder, ["stage"], "recall")
        result.table(f"Recall at IoU {LADDER_IOU} at each stage [95% interval]", cells)
    fates = select(tables["fates"], size="all", class_name="all")
    # A fate that some head's objects have is shown of all heads.
    occurring = fates.groupby("fate")["count"].transform("sum") > 0
    result.table(
        "Fates of objects at IoU 0.5 [95% interval] (how many)",
        heads.columns(fates[occurring], ["fate"], with_count("share")),
        *(
            f"{', '.join(name for name, said in lacks.items() if said == why)}: {why}"
            for why in dict.fromkeys(lacks.values())
        ),
    )
    if "swaps" in tables:
        names = {"/".join(key): name for key, name in heads.names.items()}
        result.table(
            "AP of the scores of one head (rows) with the boxes of another (columns), same proposals [95% interval]",
            _matrix(select(tables["swaps"], metric="AP"), names),
        )
    lrp = heads.columns(tables["lrp"], ["part"], "value")
    result.table("oLRP and its parts (lower is better) [95% interval]", lrp, full=True)
    # The most frequent class first.
    by_class = select(tables["by_class"], size="all")
    by_class = by_class.sort_values("objects", ascending=False, kind="stable")
    classes = heads.columns(by_class, ["class_name", "objects"], "ap")
    result.table("Classes [95% interval]", classes, full=True)
    compared = [tables[name] for name in COMPARED_TABLES if name in tables]
    cells, said = heads.differences(*compared, full=True)
    result.table("Differences on the same images [95% interval]", cells, *said, full=True)
    result.lines(f"Next: {_next_command(asked, tables, options)}")
    result.end(screen.as_json, screen.full, where_written(asked.found, written))


def _fates(asked: EvaluationInputs, candidates: Candidates | None, pairs: Sequence[Pair]) -> Tables:
    """Fates of objects, and the recall ladder: by candidates where there are any, else by detections alone."""
    import pandas as pd

    from rethink_heads.evaluation.fates import count_tables, detection_fates, fate_tables
    from rethink_heads.statistics.bootstrap import ImageBootstrap

    keys, dataset = asked.keys, asked.dataset
    parts: list[Tables] = []
    followed: set[Key] = set()
    if candidates is not None:
        # Heads that were not asked for are in the file as well.
        followed = set(candidates.keys) & set(keys)
        shown_pairs = [pair for pair in pairs if followed.issuperset(pair)]
        found = fate_tables(candidates, dataset, shown_pairs, **asked.bootstrap)
        for name, table in found.items():
            if "detector" in table:
                own = pd.MultiIndex.from_frame(table[["detector", "head"]])
                found[name] = table[own.isin(list(followed))]
        parts.append(found)
    others = [key for key in keys if key not in followed]
    if others:
        fates = detection_fates(asked.detections, dataset, keys=others)
        bootstrap = ImageBootstrap(dataset.image_ids, **asked.bootstrap)
        compared = [pair for pair in pairs if set(others).issuperset(pair)]
        parts.append({OBJECT_FATES: fates} | count_tables(fates, others, bootstrap, compared))
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: pd.concat([part[name] for part in parts if name in part], ignore_index=True)
        for name in names
    }


def _matrix(swaps: pd.DataFrame, names: dict[str, str]) -> dict[str, list[str]]:
    """Cells of the swaps: a row for each head's scores, a column for each head's boxes."""
    from rethink_heads.report.heads import interval, records

    cells = {(row["scores"], row["boxes"]): interval(row, "value") for row in records(swaps)}
    heads = [key for key in dict.fromkeys(swaps["scores"]) if key in names]
    columns = {"scores": [names[key] for key in heads]}
    return columns | {
        f"boxes of {names[boxes]}": [cells[scores, boxes] for scores in heads] for boxes in heads
    }


def _next_command(asked: EvaluationInputs, tables: Tables, options: DetectionOptions) -> str:
    """What to give next, by the largest cause of the head with the highest average precision."""
    precision = tables["ap"]
    best = precision[precision["metric"] == "AP"].sort_values("value").iloc[-1]
    lost = tables["lost_precision"]
    own = lost[(lost["detector"] == best["detector"]) & (lost["head"] == best["head"])]
    cause = str(own.sort_values("share").iloc[-1]["cause"])
    run = next((s.run for s in asked.subjects if s.run.name == best["detector"]), None)
    if run is None:
        command, shows = FILE_NEXT[cause]
        groups = options.detectors, options.results, options.data
        given = shlex.join([*command.split(), *words_of(*groups)])
        return f"rethink-heads {given} {shows}; --run or --model in place of the file can ask heads why."
    command, shows = NEXT[cause]
    return f"rethink-heads {command} --run {run.path} {shows}."
