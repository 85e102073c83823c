"""``rethink-heads sensitivity``: how a head's output depends on where things are in the RoI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rethink_heads.commands.comparing import files_written, write_comparison
from rethink_heads.commands.correlation_tables import print_differences
from rethink_heads.commands.studies import Side, Study, records, study
from rethink_heads.console import interval, print_json, print_table, say
from rethink_heads.errors import UserError
from rethink_heads.options import JsonOption, StudyOptions

if TYPE_CHECKING:
    import pandas as pd

NAME = "sensitivity"
EXAMPLE = "Example: rethink-heads sensitivity --run runs/demo"


def command(
    options: StudyOptions,
    as_json: JsonOption = False,
) -> None:
    """Spatial sensitivity: how alike the RoI's cells are, and what a head does when they change.

    Spatial correlation of the output maps and of fc6's weights (paper Figure 4), its decay with the
    distance of cells, the score against displacement of the box, and the change of score and of
    regressed IoU when one RoI cell is zeroed; 95% intervals from a bootstrap over images.
    """
    report(study(options, branches=True), as_json)


def report(found: Study, as_json: bool) -> None:
    """Print the spatial sensitivity of a study's heads and how their branches differ."""
    import pandas as pd

    from rethink_heads.statistics.response import RESPONSE_KINDS, response_summary
    from rethink_heads.statistics.spatial import decay, distinct_pairs

    _check_measured(found)
    # All heads' measurements: a branch may be no head, and the bootstrap is over all images.
    measurements, seed = found.measurements, found.seed
    alike = _of_heads(found, distinct_pairs(measurements, seed=seed))
    by_distance = _of_heads(found, decay(measurements, seed=seed))
    responses = pd.concat(
        [response_summary(measurements, kind, seed=seed) for kind in RESPONSE_KINDS],
        ignore_index=True,
    )
    responses = _of_heads(found, responses)
    differences = _differences(found, alike)
    of_responses = _response_differences(found)
    compared = pd.concat([differences, of_responses], ignore_index=True)
    written, failure = write_comparison(
        found.runs, found.names, NAME, compared, {"decay": by_distance}
    )
    if as_json:
        print_json(
            files_written(written)
            | _as_json(found, alike, by_distance, responses, differences, of_responses)
        )
    else:
        _print_report(alike, by_distance, responses, differences, of_responses)
    if failure is not None:
        raise failure


def _print_report(
    alike: pd.DataFrame,
    by_distance: pd.DataFrame,
    responses: pd.DataFrame,
    differences: pd.DataFrame,
    of_responses: pd.DataFrame,
) -> None:
    _print_alike(alike)
    _print_decay(by_distance)
    _print_responses(responses)
    print_differences(differences)
    if not of_responses.empty:
        named = of_responses["quantity"] + " of " + of_responses["kind"]
        print_differences(of_responses.assign(statistic=named)[of_responses["size"] == "all"])


def _check_measured(found: Study) -> None:
    """Raise UserError for a head or branch that no detector turned out to have."""
    of_maps = {name[2] for name in found.measurements.names if name[0] in ("maps", "weights")}
    there = sorted({*found.measurements.heads, *of_maps})
    for head in found.heads or ():
        if head not in there:
            raise UserError(f"no head or branch {head!r} here; there are {', '.join(there)}")


def _of_heads(found: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the heads and branches asked for, runs in the order given."""
    if found.heads is not None:
        frame = frame[frame["head"].isin(found.heads)]
    order = {run.name: index for index, run in enumerate(found.runs)}
    by_run = frame["detector"].map(order).sort_values(kind="stable")
    return frame.loc[by_run.index].reset_index(drop=True)


def _branch_pairs(alike: pd.DataFrame) -> list[tuple[Side, Side]]:
    """The branches that are compared."""
    from rethink_heads.statistics.comparison import compared_pairs

    of_objects = alike[alike["kind"] == "spatial_correlation"]
    sides = dict.fromkeys(of_objects[["detector", "head"]].itertuples(index=False, name=None))
    return compared_pairs(sides)


def _differences(found: Study, alike: pd.DataFrame) -> pd.DataFrame:
    """Compare the spatial correlation of every two branches."""
    import pandas as pd

    from rethink_heads.statistics.comparison import compare

    frames = [
        compare(found.measurements, "spatial_correlation", a, b, seed=found.seed)
        for a, b in _branch_pairs(alike)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _decay_differences(found: Study, alike: pd.DataFrame) -> list[dict[str, Any]]:
    """Compare the spatial correlation of every two branches, distance by distance."""
    from rethink_heads.statistics.comparison import compare_decay

    rows = []
    for a, b in _branch_pairs(alike):
        try:
            rows += records(compare_decay(found.measurements, a, b, seed=found.seed))
        except UserError as reason:
            # Detectors may have other numbers of RoI cells.
            say(f"no comparison of the decay with distance: {reason}")
    return rows


def _response_differences(found: Study) -> pd.DataFrame:
    """Compare the responses of the pairs of heads that a study compares."""
    import pandas as pd

    from rethink_heads.statistics.comparison import (
        COMPARED_RESPONSES,
        compare_responses,
        compared_pairs,
    )

    frames = []
    for kind in COMPARED_RESPONSES:
        for a, b in compared_pairs(found.sides, kind):
            try:
                frames.append(compare_responses(found.measurements, kind, a, b, seed=found.seed))
            except UserError as reason:
                # A detector need not show its RoI features.
                say(f"no comparison of {kind}: {reason}")
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _as_json(
    found: Study,
    alike: pd.DataFrame,
    by_distance: pd.DataFrame,
    responses: pd.DataFrame,
    differences: pd.DataFrame,
    of_responses: pd.DataFrame,
) -> dict[str, Any]:
    return {
        "spatial_correlation": records(alike),
        "decay": records(by_distance),
        "responses": records(responses),
        "comparisons": records(differences),
        "decay_comparisons": _decay_differences(found, alike),
        "response_comparisons": records(of_responses),
        "provenance": found.measurements.provenance,
    }


def _print_alike(alike: pd.DataFrame) -> None:
    if alike.empty:
        say("no spatial correlation: none of the heads has an output map with RoI cells")
        return
    print_table(
        "Mean spatial correlation of two different RoI cells [95% interval]",
        ["run", "branch", "of", "size", "mean", "objects"],
        [
            [
                row["detector"],
                row["head"],
                _KINDS[row["kind"]],
                row["size"],
                interval(row, "mean"),
                str(row["objects"]),
            ]
            for row in records(alike)
        ],
    )


def _print_decay(by_distance: pd.DataFrame) -> None:
    if by_distance.empty:
        return
    print_table(
        "Spatial correlation by distance of the cells, all sizes [95% interval]",
        ["run", "branch", "of", "distance in cells", "mean", "pairs"],
        [
            [
                row["detector"],
                row["head"],
                _KINDS[row["kind"]],
                f"{row['distance']:.2f}",
                interval(row, "mean"),
                str(row["pairs"]),
            ]
            for row in records(by_distance, size="all")
        ],
    )


def _print_responses(responses: pd.DataFrame) -> None:
    print_table(
        "Response to a displaced box and to zeroed RoI cells, all sizes [95% interval]",
        ["run", "head", "response", "quantity", "value", "objects"],
        [
            [
                row["detector"],
                row["head"],
                row["kind"],
                row["quantity"],
                interval(row, "value"),
                str(row["objects"]),
            ]
            for row in records(responses, size="all")
        ],
    )


_KINDS = {"spatial_correlation": "output map", "weight_correlation": "fc6's weights"}
