"""``rethink-heads sensitivity``: how a head's output depends on where things are in the RoI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink_heads.console import log
from rethink_heads.errors import UserError
from rethink_heads.options import ScreenOptions, StudyOptions
from rethink_heads.report.output import Report
from rethink_heads.results import whereabouts, write_comparison
from rethink_heads.study import Study, study
from rethink_heads.subject import Key

if TYPE_CHECKING:
    import pandas as pd

NAME = "sensitivity"
EXAMPLE = "Example: rethink-heads sensitivity --run runs/demo"
KINDS = {"spatial_correlation": "output map", "weight_correlation": "weights of fc6"}
MAIN_QUANTITIES = (
    "score",
    "drop_dx",
    "drop_dy",
    "half_width_dx",
    "half_width_dy",
    "mean_absolute_change",
)


def command(options: StudyOptions, screen: ScreenOptions) -> None:
    """Spatial sensitivity: how similar RoI positions are, and what a head does when they change.

    Spatial correlation of the output maps and of fc6's weights (paper Figure 4), its decay with the
    distance of RoI positions, the score against displacement of the box, and the change of score and of
    regressed IoU when one RoI position is zeroed; 95% intervals from a bootstrap over images.
    """
    found = study(options, branches=True)

    import pandas as pd

    from rethink_heads.report.cells import LABELS
    from rethink_heads.report.heads import Heads
    from rethink_heads.statistics.comparison import (
        COMPARED_RESPONSES,
        compare_decay,
        compare_responses,
    )
    from rethink_heads.statistics.sensitivity import (
        RESPONSE_KINDS,
        decay,
        distinct_pairs,
        response_summary,
    )

    _check_measured(found)
    # All heads' measurements: a branch may be no head, and the bootstrap is over all images.
    measurements, seed = found.measurements, found.seed
    correlations = _selected_rows(found, distinct_pairs(measurements, seed=seed))
    by_distance = _selected_rows(found, decay(measurements, seed=seed))
    summaries = [response_summary(measurements, kind, seed=seed) for kind in RESPONSE_KINDS]
    responses = _selected_rows(found, pd.concat(summaries, ignore_index=True))
    branches = _keys(correlations[correlations["kind"] == "spatial_correlation"])
    differences = found.compare("spatial_correlation", branches)
    # A detector need not show its RoI features.
    response_frames = [
        found.compare_by(compare_responses, found.keys, kind, optional=kind, kind=kind)
        for kind in COMPARED_RESPONSES
    ]
    filled = [each for each in response_frames if len(each)] or [pd.DataFrame()]
    response_differences = pd.concat(filled, ignore_index=True)
    result = Report(NAME, measurements.provenance)
    result.data(spatial_correlation=correlations, decay=by_distance, responses=responses)
    result.data(comparisons=differences, response_comparisons=response_differences)
    if screen.as_json:
        # Detectors may have other numbers of RoI positions.
        about = "the decay with distance"
        result.data(decay_comparisons=found.compare_by(compare_decay, branches, optional=about))
    compared = pd.concat([differences, response_differences], ignore_index=True)
    with result.attempt():
        result.files = write_comparison(found, NAME, compared, {"decay": by_distance})
    _show_branches(result, correlations, by_distance, differences)
    shown = responses[responses["size"] == "all"]
    if not screen.full:
        shown = shown[shown["quantity"].isin(MAIN_QUANTITIES)]
    heads = Heads(found.keys, responses)
    named = shown.replace({"kind": LABELS, "quantity": LABELS})
    result.table(
        "Response to a displaced box and to zeroed RoI positions, all sizes [95% interval]",
        heads.columns(named, ["kind", "quantity"], "value"),
        *heads.share("classifier and regressor"),
        "drop: fall of the score at a displacement of half the object's size; half-width: displacement that halves it,"
        " in units of the object's size.",
    )
    cells, said = heads.differences(differences, response_differences, full=screen.full)
    where = "" if screen.full else ", all sizes"
    result.table(f"Differences on the same objects{where} [95% interval]", cells, *said)
    result.end(screen.as_json, screen.full, whereabouts(found.runs, result.files))


def _show_branches(
    result: Report, correlations: pd.DataFrame, by_distance: pd.DataFrame, differences: pd.DataFrame
) -> None:
    """Add which branch's output map tells RoI positions apart most, and the tables of correlations."""
    from rethink_heads.report.heads import SIZES, Heads

    if correlations.empty:
        log("no spatial correlation: none of the heads has an output map with RoI positions")
    branches = Heads(_keys(correlations))
    object_rows = correlations[correlations["kind"] == "spatial_correlation"]
    if len(object_rows):
        label = "Most spatially sensitive, by the lowest correlation of its output map"
        result.lines(
            branches.leader(object_rows, differences, "mean", label, lowest=True, size="all")
        )
    result.table(
        "Correlation of two different RoI positions, mean [95% interval]",
        branches.rows(correlations.replace({"kind": KINDS}), ["kind", "size", "mean", "objects"]),
        f"Low: what is at one position says little of another, so that the branch tells places apart. {SIZES}",
    )
    all_sizes = by_distance[by_distance["size"] == "all"].replace({"kind": KINDS})
    shown = ["kind", "distance", "mean", "pairs"]
    cells = branches.rows(all_sizes, shown, formats={"distance": ".2f"})
    title = "The same by distance of the positions, all sizes [95% interval]"
    result.table(title, cells, full=True)


def _check_measured(found: Study) -> None:
    """Raise UserError for a head or branch that no detector turned out to have."""
    map_heads = {name[2] for name in found.measurements.names if name[0] in ("maps", "weights")}
    there = sorted({*found.measurements.heads, *map_heads})
    for head in found.heads or ():
        if head not in there:
            raise UserError(f"no head or branch {head!r} here; there are {', '.join(there)}")


def _selected_rows(found: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the heads and branches asked for, runs in the order given."""
    if found.heads is not None:
        frame = frame[frame["head"].isin(found.heads)]
    order = {run.name: index for index, run in enumerate(found.runs)}
    by_run = frame["detector"].map(order).sort_values(kind="stable")
    return frame.loc[by_run.index].reset_index(drop=True)


def _keys(correlations: pd.DataFrame) -> list[Key]:
    """The branches that have spatial correlations."""
    return list(dict.fromkeys(zip(correlations["detector"], correlations["head"], strict=True)))
