"""Keep measurements in a journal, `measurements.jsonl`: an interrupted run continues with what is missing."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

Job = TypeVar("Job")
Row = dict[str, Any]
LEFT_OUT = "left_out"
"""Column with the reason why a row has no figures."""


def measure_missing(
    work: Sequence[tuple[str, Job]],
    measure: Callable[[Sequence[tuple[str, Job]]], Iterable[tuple[str, Row]]],
    journal: Path,
    fields: Sequence[str],
    on_done: Callable[[], object],
) -> list[Row]:
    """Measure the jobs that the journal lacks, and write each row at once; return the rows of all jobs, in their order.

    `work`: jobs with their identities; `measure` yields the rows of jobs as they finish; `fields`: columns of a row.
    Rows with a reason under `LEFT_OUT` are not written, so that the next run tries their jobs again.
    """
    done = read_journal(journal, fields)
    missing = [(identity, job) for identity, job in work if identity not in done]
    for _ in range(len(work) - len(missing)):
        on_done()
    with open(journal, "a") as handle:
        if journal.stat().st_size and not journal.read_bytes().endswith(b"\n"):
            handle.write("\n")  # a line that an interruption has cut stays one
        for identity, row in measure(missing):
            if row.get(LEFT_OUT) is None:
                handle.write(json.dumps({"id": identity, **row}) + "\n")
                handle.flush()
            done[identity] = row
            on_done()
    return [done[identity] for identity, _ in work]


def read_journal(path: Path, fields: Sequence[str]) -> dict[str, Row]:
    """Read measurements by identity; an incomplete last line is skipped."""
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["id"]] = {name: row.get(name) for name in fields}
    return rows
