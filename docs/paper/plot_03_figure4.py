"""
Figure 4: spatial correlation
=============================

Each tile is one position of the RoI, and in it the cosine of what the head makes of that position with every other:
conv-head's output, fc-head's output, fc6's weights. Tiles that are bright at their own place alone tell positions
apart.
"""

from rethink_heads.paper import analyses
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-apart-0/tables")
figure = analyses()["figure4"].draw(tables)
