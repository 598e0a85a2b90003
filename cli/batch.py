"""Run a plan: one input, or many of which one failure does not stop the others."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import typer

from ulcodec.errors import UlcError
from ulcodec.progress import share, tracked
from ulcodec_cli.common import STANDARD_STREAM, about, is_out_of_memory, output_path, print_json
from ulcodec_cli.plan import Plan
from ulcodec_cli.progress import progress_bar
from ulcodec_cli.record import Record

WINDOW_PIXELS = 2**22
"""Pixels that are read before they are coded together."""


class Job(NamedTuple):
    """An input that has been read, and where its result goes.

    `n_pixels`: its share of a window; `WINDOW_PIXELS` for an input that goes alone.
    """

    source: Path
    target: Path
    content: Any
    n_pixels: int


class Task(Protocol):
    """What a command does with its inputs.

    `verb`: for the progress bar; `options`: everything beside the sources that decides the results, as JSON values.
    """

    verb: str
    options: object

    def read(self, source: Path) -> tuple[Any, int]:
        """Read an input; return its content and its number of pixels, see `Job`."""

    def finish(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Make and write the results; return a report of each, with the keys `output` and `line`."""


def run_plan(plan: Plan, task: Task, *, force: bool, json: bool) -> None:
    """Run a task on all inputs of a plan and report. Failures among many inputs come last and make the exit code 1."""
    if plan.many:
        Batch(plan, task, force).run(json)
        return
    [(source, target)] = plan.pairs
    with progress_bar(task.verb):
        [result] = task.finish([Job(source, target, *task.read(source))])
    report({"source": str(source), "error": None, **result}, json)


class Batch:
    """A run over many inputs: what is done, and what failed."""

    def __init__(self, plan: Plan, task: Task, force: bool) -> None:
        self.task, self.force = task, force
        self.record = Record(task.options)
        self.pairs = [pair for pair in plan.pairs if force or not self.record.is_current(*pair)]
        self.n_up_to_date = len(plan.pairs) - len(self.pairs)
        self.failed = list(plan.failed)
        self.done: list[dict[str, Any]] = []

    def run(self, json: bool) -> None:
        """Work through the inputs, window by window, then report and exit."""
        started = time.perf_counter()
        window: list[Job] = []
        n_pixels = 0
        with progress_bar(self.task.verb):
            for number, (source, target) in enumerate(self.pairs, start=1):
                n_left = len(self.pairs) - number
                note = f"{number} of {len(self.pairs)}, {source.name}"
                job = self.read(source, target, note)
                goes_alone = job is not None and job.n_pixels >= WINDOW_PIXELS
                if window and goes_alone:
                    self.finish_window(window, n_left + 1, note)
                    n_pixels = 0
                if job is not None:
                    window.append(job)
                    n_pixels += job.n_pixels
                if window and (n_pixels >= WINDOW_PIXELS or not n_left):
                    self.finish_window(window, n_left, note)
                    n_pixels = 0
        self.report(time.perf_counter() - started, json)

    def read(self, source: Path, target: Path, note: str) -> Job | None:
        """Read an input; None if that fails."""
        try:
            with share(0, note), about(source):
                target.parent.mkdir(parents=True, exist_ok=True)
                place = output_path(source, target, "", self.force or self.record.is_ours(source, target))
                self.record.see(source)
                return Job(source, place, *self.task.read(source))
        except Exception as error:  # a library may raise anything for a broken file
            self.failed.append((source, failure(error, source)))
            return None

    def finish_window(self, window: list[Job], n_left: int, note: str) -> None:
        """Finish the jobs of a window, and empty it. `n_left`: number of inputs after it."""
        with share(len(window) / (len(window) + n_left), note):
            self.finish(window)
        window.clear()

    def finish(self, jobs: Sequence[Job]) -> None:
        """Finish jobs together; if that fails, each alone, so that one failure does not stop the others."""
        try:
            with about(jobs[0].source if len(jobs) == 1 else None):
                results = self.task.finish(jobs)
        except Exception as error:  # a library may raise anything for a broken file
            if len(jobs) == 1:
                self.failed.append((jobs[0].source, failure(error, jobs[0].source)))
                return
        else:
            for job, result in zip(jobs, results, strict=True):
                self.record.add(job.source, job.target)
                self.done.append({"source": str(job.source), "error": None, **result})
            return
        for job in tracked(jobs):  # outside of `except`: the traceback would hold the memory of the failed attempt
            self.finish([job])

    def report(self, seconds: float, json: bool) -> None:
        """Print the results as JSON, the failures, and a summary. Exits with 1 if there are failures, else with 0."""
        for result in self.done if json else ():
            report(result, json)
        for source, message in self.failed:
            line = " ".join(message.split())
            if json:
                print_json({"source": str(source), "output": None, "error": line})
            typer.echo(f"ulcodec: error: {source}: {line}", err=True)
        summary = {
            "n_done": len(self.done),
            "n_up_to_date": self.n_up_to_date,
            "n_failed": len(self.failed),
            "source_bytes": sum(result["source_bytes"] for result in self.done),
            "output_bytes": sum(result["output_bytes"] for result in self.done),
            "seconds": seconds,
        }
        if json:
            print_json(summary)
        else:
            counts = f"{len(self.done)} done, {self.n_up_to_date} up to date, {len(self.failed)} failed"
            sizes = f"{summary['source_bytes']:,} to {summary['output_bytes']:,} bytes in {seconds:.1f} s"
            typer.echo(f"{counts}; {sizes}")
        raise typer.Exit(1 if self.failed else 0)


def failure(error: Exception, source: Path) -> str:
    """Describe what went wrong with a source, without its name."""
    if is_out_of_memory(error):
        return "out of memory"
    if isinstance(error, UlcError):
        return str(error)
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    is_elsewhere = error.filename is not None and str(error.filename) != str(source)
    message = error.strerror or str(error)
    return f"{error.filename}: {message}" if is_elsewhere else message


def report(result: dict[str, Any], json: bool) -> None:
    """Print a result, unless standard output holds the result itself."""
    line = result.pop("line")
    if result["output"] == str(STANDARD_STREAM):
        return
    if json:
        print_json(result)
    else:
        typer.echo(line)
