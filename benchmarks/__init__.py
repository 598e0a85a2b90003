"""Measurements of the codec. Run them as `python -m benchmarks.NAME` in the root of the repository."""
