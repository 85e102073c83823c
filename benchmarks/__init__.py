"""Speed and memory against plain torchvision code: see README.md. Run as ``python -m benchmarks.speed``."""
