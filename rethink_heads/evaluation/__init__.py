"""Evaluation of final detections: matching, average precision, error kinds, calibration, from frames alone."""
