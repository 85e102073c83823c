"""
Figure 3: correlation of score and IoU at three stages
======================================================

Pearson's correlation, by object size: of the predefined proposals, of the RPN's own proposals, and of final
detections after NMS; bars are 95% intervals. The paper finds fc-head's higher throughout. Overlapping bars do not
mean that heads are level: the paired difference says that, in the table ``comparisons``.
"""

from rethink_heads.paper import analyses
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-apart-0/tables")
figure = analyses()["figure3"].draw(tables)
