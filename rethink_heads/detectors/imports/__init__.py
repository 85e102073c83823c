"""Other frameworks' checkpoints as detectors of this package.

:mod:`reading` opens a file, :mod:`maskrcnn_benchmark`, :mod:`mmdetection` and :mod:`detectron2` each describe one
layout, :mod:`renaming` sets a file's weights against a detector's, :mod:`importing` does all of it.
"""
