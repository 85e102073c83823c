"""Our detector: an FPN R-CNN with an fc-head, a conv-head or both, on torchvision's parts."""

from rethink_heads.detectors.rcnn.detector import RCNN, build_detector

__all__ = ["RCNN", "build_detector"]
