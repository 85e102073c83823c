"""Table of VOC07: average precision of Double-Head-Ext and the FPN baseline.

The paper trains on VOC07's trainval and tests on its test split; Double-Head-Ext beats the baseline,
a single fc-head, in AP, AP50 and AP75 as COCO computes them.

Measured: the final detections of each run on the 4,952 images of test07 (``rethink-heads evaluate``);
difficult objects count neither as found nor as missed.
Computed: AP, AP50 and AP75, each with its 95% interval from a bootstrap over images.

    rethink-heads train --preset voc07-r50 --head fc --data VOCdevkit --run runs/voc-fc
    rethink-heads evaluate --run runs/voc-fc            (and the same with --head double-ext)
    python analyses/voc.py --run runs/voc-fc --run runs/voc-double-ext
"""

from rethink_heads.data.voc import VOC_CLASSES
from rethink_heads.evaluation.average_precision import precision_table
from rethink_heads.paper import AnalysisInputs, MissingInputError, Tables
from rethink_heads.plots.sweeps import sweep_figure


def tables(inputs: AnalysisInputs):
    """A row a head of a run with "AP", "AP50" and "AP75", each with "_low" and "_high"."""
    detections, dataset = inputs.detections
    if set(dataset.class_names) != set(VOC_CLASSES):
        raise MissingInputError("it needs runs on VOC07: rethink-heads train --preset voc07-r50")
    found = precision_table(detections, dataset, **inputs.options)
    values = ["value", "value_low", "value_high"]
    wide = found.pivot(index=["detector", "head"], columns="metric", values=values)
    wide = wide[[(value, metric) for metric in ("AP", "AP50", "AP75") for value in values]]
    wide.columns = [metric + value.removeprefix("value") for value, metric in wide.columns]
    return {"voc": wide.reset_index()}


def draw(tables: Tables):
    """AP50 a head of a run."""
    names = tables["voc"]["head"] + ", " + tables["voc"]["detector"]
    points = tables["voc"].assign(point=names, title=names, reading=tables["voc"]["head"], seed="0")
    return sweep_figure(points, metric="AP50")


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
