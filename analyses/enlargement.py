"""Ablation: how much larger than the proposal the RoI of conv-head is.

Not in the paper: the authors' code enlarges conv-head's RoIs 1.3 times about their centre, and
leaves fc-head's as they are. The maintainers of mmdetection put it at 0.4 to 0.5 AP.

Measured: the final detections of one detector an enlargement and seed.
Computed: COCO's average precisions, with 95% intervals from a bootstrap over images.

    rethink-heads sweep enlargement --preset coco-r50 --data COCO --output FOLDER
    python analyses/enlargement.py --sweep FOLDER
"""

from rethink_heads.paper import AnalysisInputs, Tables
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.sweeps.description import load_sweep


def tables(inputs: AnalysisInputs):
    """Average precisions and their intervals, a row a point and seed, and the means over seeds."""
    return {"enlargement": inputs.sweep("enlargement")}


def draw(tables: Tables):
    """AP over the enlargement."""
    return sweep_figure(tables["enlargement"], **load_sweep("enlargement").figure.model_dump())


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
