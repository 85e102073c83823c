"""Speed and memory against plain torchvision code: see README.md. Run as ``python -m benchmarks.speed``."""

import os

# torch's profiler would write a line of its own to stderr at every pass.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
