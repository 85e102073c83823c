"""Our detectors as other frameworks' files: :mod:`detectron2` the weights, :mod:`detectron2_config` the settings."""
