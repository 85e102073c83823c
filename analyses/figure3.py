"""Figure 3: the correlation of score and IoU at three stages of detection, by object size.

The paper's figure sets fc-head's Pearson correlation (PCC) beside conv-head's for small, medium and
large objects: for the predefined proposals, for the proposals of each detector's own RPN, and for
its final detections after NMS. The paper finds fc-head's higher throughout, most for small objects.

Measured: for the predefined proposals the score of the object's class and the proposal's IoU
(``rethink-heads correlate``). For the others every box with the object that it overlaps
(``rethink-heads correlate --stage all``); a detection's IoU is that of its final box. A stage that
was not measured has no panel.
Computed: Pearson's correlation over all boxes of all objects of the size, and Spearman's in the
table, each with its 95% interval from a bootstrap over images.

    python analyses/figure3.py --run runs/fc --run runs/conv --output FOLDER
"""

from rethink_heads.paper import PAPER_SIZES, AnalysisInputs, Tables, paper_heads
from rethink_heads.plots import figures
from rethink_heads.statistics.stages import stage_correlation


def tables(inputs: AnalysisInputs):
    """Both correlations, a row a head, stage and size."""
    return {"stages": stage_correlation(inputs.stages, inputs.measurements, **inputs.options)}


def draw(tables: Tables):
    """A panel a stage."""
    stages = paper_heads(tables["stages"])
    return figures.figure3(stages[stages["size"].isin(PAPER_SIZES)])


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
