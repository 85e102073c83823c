"""Ablation: the balance of classification and regression in each head's loss.

In Double-Head-Ext each head is also trained on its unfocused task: the loss of fc-head is
l_fc L_cls + (1 - l_fc) L_reg, that of conv-head (1 - l_conv) L_cls + l_conv L_reg. At 1 and 1 it is
Double-Head. The paper varies both; the authors' code has l_fc = 0.7 and l_conv = 0.8.

Measured: the final detections of one detector a pair of weights and seed, each in the fullest
reading that its weights train: scores are fused where conv-head also classifies.
Computed: COCO's average precisions, with 95% intervals from a bootstrap over images.

    rethink-heads sweep balance --preset coco-r50 --data COCO --output FOLDER
    python analyses/balance_weights.py --sweep FOLDER
"""

from rethink_heads.paper import AnalysisInputs, Tables
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.sweeps.description import load_sweep


def tables(inputs: AnalysisInputs):
    """Average precisions and their intervals, a row a point and seed, and the means over seeds."""
    return {"balance_weights": inputs.sweep("balance")}


def draw(tables: Tables):
    """A map of AP over both weights."""
    return sweep_figure(tables["balance_weights"], **load_sweep("balance").figure.model_dump())


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
