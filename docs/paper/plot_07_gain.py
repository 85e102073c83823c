"""
Gain: what regression wins and spoils
=====================================

The IoU of the regressed box less that of its proposal, by the proposal's IoU. Above 0 the head improves boxes, below it
spoils.
"""

from rethink_heads.plots import figures
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-apart-0/tables")
figure = figures.gain(tables["regressed_iou"])
