"""Format tables as text, Markdown and JSON."""

import json
import math
from collections.abc import Sequence
from typing import Any

DECIMALS = 5


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a text table: first column left-aligned, the others right-aligned."""
    first, *others = (max(map(len, column)) for column in zip(header, *rows, strict=True))
    lines = (
        [row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))]
        for row in (header, *rows)
    )
    return "\n".join("  ".join(line) for line in lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table, aligned like `text_table`."""
    lines = (header, [":---"] + ["---:"] * (len(header) - 1), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def decimals(value: float | None, places: int) -> str:
    """Format a number with `places` decimals; "-" for None."""
    return "-" if value is None else f"{value:.{places}f}"


def to_json(report: Any) -> str:
    """Serialise a report with one line per row of a table, so that reports are short and their diffs readable.

    Numbers are rounded to `DECIMALS`; infinities and nan become null.
    """
    return indented(report, "") + "\n"


def indented(value: Any, margin: str) -> str:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(part, dict | list) for part in parts):
        return json.dumps(rounded(value))
    inner = margin + " "
    if isinstance(value, list):
        body = [inner + indented(part, inner) for part in value]
        return "[\n" + ",\n".join(body) + f"\n{margin}]"
    body = [f"{inner}{json.dumps(name)}: {indented(part, inner)}" for name, part in value.items()]
    return "{\n" + ",\n".join(body) + f"\n{margin}}}"


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    if isinstance(value, float):
        return round(value, DECIMALS) if math.isfinite(value) else None
    return value
