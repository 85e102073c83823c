"""Ablation: the weights of fc-head's and conv-head's losses in the whole.

L = w_fc L_fc + w_conv L_conv + L_rpn. The authors' code weighs the four losses of Double-Head-Ext with
1.4 and 0.6 (fc-head), 0.5 and 2.0 (conv-head), that is w_fc = 2.0 and w_conv = 2.5; this varies both
about these values.

Measured: the final detections of one detector a pair of weights and seed.
Computed: COCO's average precisions, with 95% intervals from a bootstrap over images.

    rethink-heads sweep weights --preset coco-r50 --data COCO --output FOLDER
    python analyses/loss_weights.py --sweep FOLDER
"""

from rethink_heads.paper import AnalysisInputs, Tables
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.sweeps.description import load_sweep


def tables(inputs: AnalysisInputs):
    """Average precisions and their intervals, a row a point and seed, and the means over seeds."""
    return {"loss_weights": inputs.sweep("weights")}


def draw(tables: Tables):
    """A map of AP over both weights."""
    return sweep_figure(tables["loss_weights"], **load_sweep("weights").figure.model_dump())


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
