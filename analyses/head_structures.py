"""Table of head structures: which head does which task.

The paper's table sets the average precision of single heads beside that of two heads, in every
assignment of the tasks: Single-FC, Single-Conv, Double-FC, Double-Conv, Double-Head (fc-head
classifies, conv-head regresses), Double-Head-Reverse, and Double-Head-Ext. Its order, best first:
Double-Head-Ext, Double-Head, the single heads; the reverse last (from memory, not checked against it).

Measured: the final detections of one detector a structure and seed, which differ in their head alone.
Computed: COCO's AP, AP50, AP75, APs, APm and APl, each with its 95% interval from a bootstrap over
images; and for each pair in the paper's order the difference on the same draws of images, with what
it says of the order ("head_structures_ordering").

    rethink-heads sweep structures --preset coco-r50 --data COCO --output FOLDER
    python analyses/head_structures.py --sweep FOLDER
"""

from rethink_heads.paper import AnalysisInputs, Tables
from rethink_heads.plots.sweeps import sweep_figure
from rethink_heads.sweeps.description import load_sweep


def tables(inputs: AnalysisInputs):
    """Average precisions and their intervals, a row a point and seed, and the means over seeds."""
    return {
        "head_structures": inputs.sweep("structures"),
        "head_structures_ordering": inputs.sweep("structures_ordering"),
    }


def draw(tables: Tables):
    """AP a structure, each seed with its interval."""
    return sweep_figure(tables["head_structures"], **load_sweep("structures").figure.model_dump())


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
