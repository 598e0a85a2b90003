"""Measurements of the codec: run them as `python -m benchmarks.NAME` in the repository's root."""
