"""Ablation: how the scores of two heads become one.

One trained Double-Head-Ext is read in several ways: fc-head alone, conv-head alone, fc-head's scores
with conv-head's boxes, and these boxes with both scores s and t fused: by the authors' complementary
rule s + t (1 - s), or by their maximum or mean, with which the paper compares it (from memory, not
checked against it). Nothing is trained again.

Measured: the final detections of each reading of one detector a seed.
Computed: COCO's average precisions, with 95% intervals from a bootstrap over images. The points of a
seed share a detector, so that their differences are surer than the intervals suggest.

    rethink-heads sweep fusion --preset coco-r50 --data COCO --output FOLDER
    python analyses/fusion.py --sweep FOLDER
"""

from rethink_heads.paper import AnalysisInputs, Tables
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.sweeps.description import load_sweep


def tables(inputs: AnalysisInputs):
    """Average precisions and their intervals, a row a point and seed, and the means over seeds."""
    return {"fusion": inputs.sweep("fusion")}


def draw(tables: Tables):
    """AP a reading, each seed with its interval."""
    return sweep_figure(tables["fusion"], **load_sweep("fusion").figure.model_dump())


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
