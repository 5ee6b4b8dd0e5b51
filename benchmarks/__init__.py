"""Micro-benchmarks of the pure code, with pytest-benchmark: `python -m pytest benchmarks`. No part of `make test`."""
