"""Figure 4: how similar a head's output is at different RoI positions.

The paper's figure has three panels, each a 7 x 7 tiling of 7 x 7 maps: the tile of a position holds the
cosine similarity of that position with every position. They are of conv-head's output, which is a grid of
vectors; of fc-head's, where position (i, j) contributes its part W_ij x_ij of fc6's output; and of fc6's
weights W_ij. The paper finds fc-head's positions far less alike, as its weights are: it shares no
parameters between positions, so that it can tell a whole object from a part.

Measured: the cosines of all pairs of positions for the exact box of every object
(``rethink-heads sensitivity``), and once a detector those of the weights.
Computed: the mean over objects. The table "decay" holds the mean by the distance of the two positions
with its 95% interval from a bootstrap over images.

    python analyses/figure4.py --run runs/fc --run runs/conv --output FOLDER
"""

import numpy as np
import pandas as pd

from rethink_heads.paper import AnalysisInputs, Tables, paper_heads
from rethink_heads.plots import figures
from rethink_heads.statistics.sensitivity import correlation_map, decay


def tables(inputs: AnalysisInputs):
    """Cosines, a row a head, kind and pair of positions; and their means by distance."""
    frames = []
    for (detector, head, kind), cosines in correlation_map(inputs.measurements).items():
        a, b = np.indices(cosines.shape)
        keys = {"detector": detector, "head": head, "kind": kind}
        columns = {"cell_a": a.ravel(), "cell_b": b.ravel(), "cosine": cosines.ravel()}
        frames.append(pd.DataFrame(keys | columns))
    return {
        "correlation_maps": pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(),
        "decay": decay(inputs.measurements, **inputs.options),
    }


def draw(tables: Tables):
    """conv-head's output, fc-head's output, fc6's weights."""
    return figures.figure4(paper_heads(tables["correlation_maps"]))


if __name__ == "__main__":
    from rethink_heads.commands.figures import run_script

    run_script(__file__)
