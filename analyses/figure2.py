"""Figure 2: the score and the regressed box's IoU against the proposal's IoU, by object size.

The paper's figure has a column for small, medium and large objects. Row 1 is the mean and the
standard deviation of the classification score, row 2 of the IoU between the regressed box and the
object, in 20 equal bins of the proposal's IoU; fc-head and conv-head share a panel. The paper reads
from it that fc-head's scores follow the IoU more closely, and that conv-head regresses better boxes.

Measured: about every object the same predefined proposals for both heads; of each proposal the
score of the object's class and the box regressed for that class (``rethink-heads correlate``).
Computed: in each bin the mean over all proposals of all objects of the size, with its 95% interval
from a bootstrap over images, which the paper's figure lacks.

    python analyses/figure2.py --run runs/fc --run runs/conv --output FOLDER
"""

from rethink_heads.paper import PAPER_SIZES, AnalysisInputs, Tables, paper_heads
from rethink_heads.plots import figures
from rethink_heads.statistics.by_iou import regressed_iou_by_iou, score_by_iou


def tables(inputs: AnalysisInputs):
    """Mean, standard deviation and interval of both, a row a head, size and bin."""
    return {
        "score_by_iou": score_by_iou(inputs.measurements, **inputs.options),
        "regressed_iou": regressed_iou_by_iou(inputs.measurements, **inputs.options),
    }


def draw(tables: Tables):
    """Small, medium and large objects side by side."""
    scores, regressed = paper_heads(tables["score_by_iou"]), paper_heads(tables["regressed_iou"])
    return figures.figure2(scores, regressed, sizes=PAPER_SIZES)


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
