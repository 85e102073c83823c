"""
Figure 2: score and box by IoU
==============================

Row 1 is the mean score of the proposals in each bin of IoU, with its standard deviation; a score that follows the IoU
rises from left to right. Row 2 is the mean IoU of the regressed box: above the diagonal the box got better. The paper
reads from it that fc-head's scores follow the IoU more closely, and that conv-head regresses better boxes.
"""

from rethink_heads.paper import analyses
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-apart-0/tables")
figure = analyses()["figure2"].draw(tables)
