"""Statistics of measurements: frames in, frames out, each number with its 95% interval."""
