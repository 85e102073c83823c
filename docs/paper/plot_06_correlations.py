"""
Correlations by object size
===========================

Pearson's correlation pools all proposals: does a score mean the same IoU for every object? Its mean over objects: are
the proposals of one object told apart? Spearman's: has the better box the higher score?
"""

from rethink_heads.plots import figures
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-apart-0/tables")
figure = figures.correlations(tables["pcc"], tables["spearman"])
