"""Training of the detectors: data module, Lightning module, schedule, evaluation."""
