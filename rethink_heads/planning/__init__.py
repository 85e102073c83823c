"""What a study will take before it is begun: calibrated on a few objects of the machine at hand."""
