"""detectron2's detectors behind our interface, and our heads in detectron2. Only its modules import detectron2."""
