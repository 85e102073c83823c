"""
Displaced boxes
===============

The mean score of the object's box when it is pushed aside, by the shift in units of the object's sides. A head that
knows where the object ends lets go of it soon.
"""

from rethink_heads.plots import figures
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-apart-0/tables")
figure = figures.displacement(tables["displacement"])
