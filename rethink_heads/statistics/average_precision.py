"""COCO's average precision of detections."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hotcoco

from rethink_heads.errors import UserError

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def average_precision(
    annotations: Path,
    detections: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None = None,
    left_out: Collection[int] = (),
) -> dict[str, float]:
    """COCO's AP of boxes, equal to pycocotools' and some ten times as fast.

    Args:
        annotations: COCO JSON file with the objects.
        detections: COCO's result format: "image_id", "category_id", "bbox" (x, y, width, height
            in px of the original image) and "score". None at all is allowed.
        image_ids: the images to evaluate, None for all; detections in others do not count.
        left_out: ids of annotations that are not objects to find, such as boxes without an area
            (``CocoDataset.left_out_ids``). Crowd boxes are no such: COCO has its own rule for them.

    Returns:
        "AP" (mean over IoU 0.50 to 0.95), "AP50", "AP75", and "APs", "APm", "APl" of small, medium
        and large objects, in 0..1; nan where there is no object to find.

    Raises:
        UserError: no such file, not COCO, or detections in images that are not in the file.
    """
    annotations = Path(annotations)
    if not annotations.is_file():
        raise UserError(f"no such annotation file: {annotations}")
    try:
        truth = hotcoco.COCO(_without(annotations, left_out) if left_out else str(annotations))
    except (ValueError, TypeError, RuntimeError, OSError, KeyError) as error:
        raise UserError(f"cannot read {annotations} as COCO annotations: {error}") from error
    strangers = {detection["image_id"] for detection in detections} - set(truth.get_img_ids())
    if strangers:
        raise UserError(
            f"{len(strangers)} images with detections are not in {annotations} (the first: "
            f"{min(strangers)}); evaluate on the data that was detected on"
        )
    results = [dict(detection) for detection in detections]
    evaluation = hotcoco.COCOeval(truth, truth.load_res(results), "bbox")
    if image_ids is not None:
        evaluation.params.img_ids = sorted({int(image_id) for image_id in image_ids})
    evaluation.evaluate()
    evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()  # prints, and is what makes the results
    found = evaluation.get_results()
    # COCO's -1 says that there was nothing to find.
    return {name: found[name] if found[name] >= 0 else float("nan") for name in AP_NAMES}


def _without(annotations: Path, left_out: Collection[int]) -> dict[str, Any]:
    """What a COCO file holds, without the annotations of these ids."""
    content = json.loads(annotations.read_bytes())
    gone = set(left_out)
    kept = [record for record in content["annotations"] if record["id"] not in gone]
    return {**content, "annotations": kept}
