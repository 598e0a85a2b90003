"""Comparison with other codecs: rate, distortion and speed, as a report with curves.

`run` measures, `peers` wraps the other codecs, `report` writes the page, `complexity` counts parameters and operations.
"""
