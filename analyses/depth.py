"""Ablation: the depth of conv-head, with and without non-local blocks.

The paper varies K, the number of bottlenecks after conv-head's residual block, with and without a
non-local block before each. Here it is done in Double-Head, where conv-head does nothing but
regress. The authors' released model has K = 2, with non-local blocks.

Measured: the final detections of one detector a depth, variant and seed.
Computed: COCO's average precisions, with 95% intervals from a bootstrap over images.

    rethink-heads sweep depth --preset coco-r50 --data COCO --output FOLDER
    python analyses/depth.py --sweep FOLDER
"""

from rethink_heads.paper import AnalysisInputs, Tables
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.sweeps.description import load_sweep


def tables(inputs: AnalysisInputs):
    """Average precisions and their intervals, a row a point and seed, and the means over seeds."""
    return {"depth": inputs.sweep("depth")}


def draw(tables: Tables):
    """AP over K, a line with non-local blocks and one without."""
    return sweep_figure(tables["depth"], **load_sweep("depth").figure.model_dump())


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
