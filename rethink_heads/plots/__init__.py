"""Figures: one function each, `Axes` in and out."""
