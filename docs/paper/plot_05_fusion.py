"""
Fusion: every reading of one Double-Head-Ext
============================================

AP of one training, read as each of its heads and by each rule that fuses their scores.
"""

from rethink_heads.paper import analyses
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-sweeps/tables")
figure = analyses()["fusion"].draw(tables)
