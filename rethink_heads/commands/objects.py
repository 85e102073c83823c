"""``rethink-heads objects``: which objects heads find hardest, listed and drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rethink_heads import bounds
from rethink_heads.errors import UserError
from rethink_heads.options import ScreenOptions, StudyOptions, value
from rethink_heads.report.output import Report
from rethink_heads.results import result_folders, shared_folder, whereabouts, writing
from rethink_heads.study import Study, study
from rethink_heads.subject import Key

if TYPE_CHECKING:
    import pandas as pd

    from rethink_heads.plots.objects import ObjectView

NAME = "objects"
EXAMPLE = "Examples: rethink-heads objects --run runs/demo --head fc --head conv --worst 10"
MOST_DRAWN = 12
MOST_HEADS_DRAWN = 3
OBJECT = ["image_id", "object_id", "class_name", "size"]


@dataclass(frozen=True)
class WorstOptions:
    """How many objects are shown."""

    worst: int = value("N", "List and draw so many objects.", bounds.OBJECTS, 10)


def command(options: StudyOptions, screen: ScreenOptions, own: WorstOptions) -> None:
    """Objects that heads find hardest: the lowest correlation of their proposals' scores and IoUs.

    Of several heads, the lowest on average. Every object's numbers go into a table (CSV); the hardest are drawn,
    their proposals coloured by score, beside score against IoU.
    """
    found = study(options)

    from rethink_heads.files import write_csv
    from rethink_heads.plots.layout import save_figure
    from rethink_heads.plots.objects import draw_objects
    from rethink_heads.plots.style import series_of
    from rethink_heads.report.heads import SIZES, Heads
    from rethink_heads.statistics.by_iou import object_correlations

    objects = object_correlations(found.selected)
    hardest = rank(objects, own.worst)
    shown = objects.merge(hardest[["image_id", "object_id", "rank"]], on=["image_id", "object_id"])
    heads = Heads(found.keys, objects)
    result = Report(NAME, found.measurements.provenance)
    result.data(objects=objects, hardest=hardest)
    tables, figures = result_folders(found.runs, found.names)
    drawn = list(heads.names)[:MOST_HEADS_DRAWN]
    folder = shared_folder(found.runs)
    with result.attempt(), writing(folder, found.runs, found.names, tables):
        result.files.append(tables / "objects.csv")
        write_csv(objects, result.files[0])
        # Without sampled proposals (measuring.rows_per_bin=0) there is nothing to draw.
        if all(len(found.selected.rows(key)) for key in drawn):
            views = list(object_views(found, objects, hardest.head(MOST_DRAWN), drawn))
            series = [one for one in series_of(objects) if (one.detector, one.head) in drawn]
            result.files += save_figure(draw_objects(views, series), figures / "objects")

    names, several = ", ".join(heads.names.values()), len(heads.names) > 1
    result.lines(
        f"The {len(hardest)} objects that {names} {'find' if several else 'finds'} hardest,"
        " by the lowest PCC of score and IoU over an object's own proposals"
        f"{', averaged over the heads' if several else ''}."
    )
    cells = heads.columns(
        shown.sort_values("rank"),
        OBJECT,
        lambda row: f"{row['pcc']:.2f}, {row['score']:.2f}, {row['regressed_iou']:.2f}",
    )
    undefined = objects[objects["pcc"].isna()]["object_id"].nunique()
    left_out = f"{undefined} objects are left out: their scores or IoUs do not vary."
    result.table(
        "By head: PCC, mean score and mean IoU of the regressed box over proposals of IoU 0.7 and more",
        cells,
        *heads.share("classifier and regressor"),
        *[left_out] * (undefined > 0),
        SIZES,
    )
    result.end(screen.as_json, screen.full, whereabouts(found.runs, result.files))


def rank(objects: pd.DataFrame, worst: int) -> pd.DataFrame:
    """The hardest objects: those with a PCC by every head, the lowest mean over the heads first, and their rank from 1.
    Raises UserError where no object has a PCC by every head.
    """
    import pandas as pd

    mean = pd.Series(dtype=float)
    if len(objects):
        by_object = objects.groupby(OBJECT, sort=False)["pcc"]
        mean = by_object.agg(lambda pccs: pccs.mean(skipna=False)).dropna()
    if mean.empty:
        raise UserError(
            "no object has a PCC of score and IoU by every head: none was measured, or scores do not vary; look at"
            " other heads (--head) or more images (--max-images)"
        )
    found = mean.sort_values(kind="stable").head(worst).reset_index()
    return found.assign(rank=range(1, len(found) + 1))


def object_views(
    found: Study, objects: pd.DataFrame, hardest: pd.DataFrame, keys: list[Key]
) -> Iterator[ObjectView]:
    """What is drawn of each object: its image, and the sampled proposals with each head's score.

    The boxes of sampled proposals are made again from the object's grid.
    """
    import numpy as np
    import torch

    from rethink_heads.plots.objects import ObjectView
    from rethink_heads.proposals import grid

    subject = found.subjects[0]
    dataset = subject.opened.dataset
    numbers = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
    places = found.selected.objects.reset_index().set_index(["image_id", "object_id"])["index"]
    rows = {key: found.selected.rows(key) for key in keys}
    pccs = objects.set_index(["image_id", "object_id", "detector", "head"])["pcc"]
    for image_id, object_id, class_name in hardest[OBJECT[:3]].itertuples(index=False, name=None):
        sample = dataset[numbers[image_id]]
        box = sample.boxes[int(torch.nonzero(sample.object_ids == object_id)[0, 0])]
        height, width = sample.image.shape[-2:]
        proposals = grid(box, (height, width), subject.config.measuring.grid_steps)
        scores, chosen = {}, np.empty(0, np.int64)
        for key, head_rows in rows.items():
            own = head_rows[head_rows["object"] == places[image_id, object_id]]
            scores[key], chosen = own["score"], own["proposal"].astype(np.int64)
        yield ObjectView(
            f"{class_name}, object {object_id}\nimage {image_id}",
            sample.image.permute(1, 2, 0).numpy(),
            box.double().numpy(),
            proposals.boxes[chosen].double().numpy(),
            proposals.ious[chosen].numpy(),
            scores,
            {key: float(pccs[image_id, object_id, *key]) for key in keys},
        )
