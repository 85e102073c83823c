"""Two-stage detectors: what the analyses need of one, and ours on torchvision's parts."""
