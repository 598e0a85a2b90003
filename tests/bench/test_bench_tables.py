"""Reports as JSON, Markdown and text."""

import json
import math

from ulcodec.bench.tables import markdown_table, text_table, to_json


def test_json_has_a_line_for_every_row() -> None:
    report = {"run": {"a": 1.23456789}, "rows": [{"x": 0.1, "y": math.inf}, {"x": None}], "none": []}
    written = to_json(report)
    rows = [{"x": 0.1, "y": None}, {"x": None}]
    assert json.loads(written) == {"run": {"a": 1.23457}, "rows": rows, "none": []}
    assert '\n  {"x": 0.1, "y": null},\n  {"x": null}\n' in written
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| :--- | ---: |\n| 1 | 2 |"
    assert text_table(["name", "n"], [["a", "10"]]) == "name   n\na     10"
