"""
Error in centre and size
========================

The mean absolute error of the regressed box in its centre, in units of the object's sides, and in its width and
height, as log ratios: it says which of the two regressed boxes owe their IoU to.
"""

from rethink_heads.plots import figures
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-apart-0/tables")
figure = figures.error_components(tables["error_components"])
