"""torchvision's two-stage detectors behind our interface."""
