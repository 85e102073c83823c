"""Other frameworks' checkpoints as detectors of this package, and the other way."""
