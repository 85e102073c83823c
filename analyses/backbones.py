"""Table of backbones: the gain of Double-Head over the baseline with ResNet-50 and ResNet-101.

The paper sets Double-Head-Ext beside the FPN baseline, which has a single fc-head. On COCO val2017
the authors' README has 40.3 AP with ResNet-50 and 41.9 with ResNet-101, 3.5 and 2.8 more than the
baselines.

Measured: the final detections of one detector a backbone, head and seed.
Computed: COCO's average precisions, with 95% intervals from a bootstrap over images.

    rethink-heads sweep backbone --preset coco-r50 --data COCO --output FOLDER
    python analyses/backbones.py --sweep FOLDER
"""

from rethink_heads.paper import AnalysisInputs, Tables
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.sweeps.description import load_sweep


def tables(inputs: AnalysisInputs):
    """Average precisions and their intervals, a row a point and seed, and the means over seeds."""
    return {"backbones": inputs.sweep("backbone")}


def draw(tables: Tables):
    """AP a backbone and head, each seed with its interval."""
    return sweep_figure(tables["backbones"], **load_sweep("backbone").figure.model_dump())


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
