"""
Head structures: which head does which task
===========================================

AP of one detector a structure and seed, with the interval of one training over images. The paper's order is Double-
Head-Ext, Double-Head, the single heads, the reverse assignment; it shows here in part.
"""

from rethink_heads.paper import analyses
from rethink_heads.report.results import read_tables

tables = read_tables("../../figures/shapes-sweeps/tables")
figure = analyses()["head_structures"].draw(tables)
