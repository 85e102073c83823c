"""
Spatial correlation by distance
===============================

Figure 4 as a curve: the mean cosine of two RoI positions by the distance between them. The faster it falls, the
better a head tells positions apart.
"""

from rethink_heads.plots import figures
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-apart-0/tables")
figure = figures.decay(tables["decay"])
