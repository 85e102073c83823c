"""
Figure 2: score and box by IoU
==============================

Row 1: the mean score of the proposals in each bin of IoU. A head whose score follows the IoU rises from left to right.
Row 2: the mean IoU of the regressed box; on the dotted line a box is as good as its proposal. Bands are 95% intervals.
"""

from rethink_heads.paper import analyses
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-apart-0/tables")
figure = analyses()["figure2"].draw(tables)
