"""Comparison with other codecs: rate, distortion and speed, as a report with curves.

`run` measures pictures, `peers` wraps the other codecs, `report` writes the page, `complexity` counts parameters and
operations. `clips` prepares videos; `clip_run`, `clip_peers` and `clip_report` are the same for them. `journal` keeps
what is measured, so that a run can continue.

Import `measure_all` from `run`, `write_report` from `report`, and `describe` from `complexity`. Most peers and some
metrics need the `bench` extra; a report names what is not installed.
"""
