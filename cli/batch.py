"""Run a plan: one input, or many of which one failure does not stop the others."""

import errno
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ulcodec.errors import LocationError
from ulcodec.io.places import Place
from ulcodec.progress import share
from ulcodec_cli.common import STANDARD_STREAM, check_output, print_json
from ulcodec_cli.plan import Pair, Plan
from ulcodec_cli.progress import hide_bar, progress_bar
from ulcodec_cli.record import Entry, Record
from ulcodec_cli.work import Job, Outcome, Task, describe, failure, work, worker_name

if TYPE_CHECKING:
    from ulcodec_cli.engines import Engine
    from ulcodec_cli.manifest import Report

ENGINES = ("process", "ray")

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that a name may have, and that a terminal would obey."""

PORTION = 1000
"""Inputs that are recorded as begun at a time."""

MOST_KEPT = 5
"""Extensions of pictures that are not encoded, of which a warning names so many."""

ROW_KEYS = ("width", "height", "pictures", "bits_per_pixel", "psnr_db", "sha256")
"""What a record and a manifest keep of the report of a result, beside its bytes."""

EngineOption = Annotated[str, typer.Option(help="Where workers run: process (this machine), or ray (a Ray cluster).")]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, max=2**16, help="Workers. Default: this process alone; with ray as many as there is room for."),
]
ManifestOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="List of all results: .jsonl, or .parquet (ulcodec[parquet]).")
]
ErrorsOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="List of all inputs that failed, with the reason, as JSON lines.")
]


class BulkOptions(NamedTuple):
    """What --engine, --jobs, --manifest and --errors say. `wanted`: what the manifest needs beyond the usual fields."""

    engine: str
    jobs: int | None
    manifest: str | None
    errors: str | None
    wanted: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise BadParameter for an unknown engine, or for one file for both reports."""
        if self.engine not in ENGINES:
            raise typer.BadParameter(f"--engine is one of {', '.join(ENGINES)}, got {self.engine!r}")
        if self.manifest is not None and self.manifest == self.errors:
            raise typer.BadParameter("--manifest and --errors name the same file")

    @property
    def uses_workers(self) -> bool:
        """Whether the work is done in other processes."""
        return self.engine != "process" or (self.jobs or 1) > 1

    @property
    def are_given(self) -> bool:
        """Whether a single input is handled as many are."""
        return self.uses_workers or self.manifest is not None or self.errors is not None


def run_plan(plan: Plan, task: Task, bulk: BulkOptions, *, force: bool, json: bool) -> None:
    """Run a task on all inputs of a plan and report. Failures among many inputs come last and make the exit code 1."""
    if bulk.are_given and any(STANDARD_STREAM in pair for pair in plan.pairs):
        raise typer.BadParameter("--jobs, --engine, --manifest and --errors do not go with standard streams")
    if plan.many or bulk.are_given:
        Batch(plan, task, bulk, force, json).run()
        return
    [(source, target)] = plan.pairs
    with progress_bar(task.verb):
        [result] = task.finish([Job(source, target, *task.read(source))])
    report({"source": str(source), "error": None, **result}, json)


class Batch:
    """A run over many inputs: what is done, and what failed."""

    def __init__(self, plan: Plan, task: Task, bulk: BulkOptions, force: bool, json: bool) -> None:
        from ulcodec_cli.manifest import ERROR_FIELDS, MANIFEST_FIELDS, Report

        self.plan, self.task, self.bulk, self.force, self.json = plan, task, bulk, force, json
        self.record = Record(task.options, bulk.wanted)
        self.failed: list[tuple[str, str]] = []
        self.n_done = self.n_up_to_date = self.n_pictures = self.source_bytes = self.output_bytes = 0
        self.kept: set[str] = set()
        self.n_total: int | None = None
        self.started_s = time.perf_counter()
        self.stdout = sys.stdout
        with ExitStack() as stack:
            self.errors = None if bulk.errors is None else Report(bulk.errors, ERROR_FIELDS)
            if self.errors:
                stack.callback(self.errors.abort)
            self.manifest = None if bulk.manifest is None else Report(bulk.manifest, MANIFEST_FIELDS)
            stack.pop_all()

    def run(self) -> None:
        """Work through the inputs, then report and exit."""
        try:
            with progress_bar(self.task.verb), self.quiet():
                for outcome in self.outcomes():
                    self.take(outcome)
            self.fail_as_planned()
            if self.manifest:
                self.commit(self.manifest)
                self.manifest = None
        finally:
            self.record.flush()
            if self.manifest:
                self.manifest.abort()
            if self.errors:
                self.commit(self.errors)
        self.summarise(time.perf_counter() - self.started_s)

    def commit(self, report: "Report") -> None:
        """Write a manifest or a list of errors. If that fails, the summary says so, since the results are there."""
        try:
            report.commit()
        except (OSError, LocationError) as error:
            report.abort()
            self.failed.append((str(report.place), describe(error)))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Context in which standard output is for results only: Ray prints there that a worker has died."""
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if self.bulk.uses_workers else self.stdout):
            yield

    def outcomes(self) -> Iterator[Outcome]:
        """Do the work, here or in workers, and tell what became of each input that was tried."""
        groups: Iterable[list[Pair]] = map(self.outdated, self.plan.groups)
        if isinstance(self.plan.groups, list):
            groups = list(groups)
            self.n_total = sum(map(len, groups))
        pairs = self.begun(groups)
        if not self.bulk.uses_workers:
            return work(self.task, pairs, self.n_total)
        from ulcodec_cli.engines import spread

        return spread(self.engine(), pairs)

    def engine(self) -> "Engine":
        """Start the engine."""
        if self.bulk.engine == "ray":
            from ulcodec_cli.ray_engine import RayEngine

            return RayEngine(self.task, self.bulk.jobs)
        from ulcodec_cli.engines import Processes

        return Processes(self.task, self.bulk.jobs or 1)

    def outdated(self, group: list[Pair]) -> list[Pair]:
        """Filter the pairs whose result is missing or not up to date; the manifest gets the others."""
        self.fail_as_planned()
        self.record.open(group)
        pairs = []
        for source, target in group:
            if problem := self.record.problem(target):
                self.fail(str(source), f"{target}: its folder cannot be listed: {problem}", worker_name())
            elif self.force or (row := self.record.current(source, target)) is None:
                pairs.append((source, target))
            else:
                self.n_up_to_date += 1
                self.add_to_manifest(source, target, row)
                for failed in failures_in(row):
                    self.fail(*failed, worker_name())
        return pairs

    def add_to_manifest(self, source: Place, target: Place, row: Entry) -> None:
        """Add a result to the manifest, if there is one. Paths come last: a record may be damaged."""
        if self.manifest:
            self.manifest.add({**row, "input": str(source), "output": str(target)})

    def fail_as_planned(self) -> None:
        """Note the inputs of which the plan says that they cannot be tried, as far as it is made."""
        while self.plan.failed:
            self.fail(*self.plan.failed.pop(0), worker_name())

    def begun(self, groups: Iterable[list[Pair]]) -> Iterator[Pair]:
        """Prepare the targets of all pairs, and record portion by portion that they are begun."""
        for group in groups:
            for start in range(0, len(group), PORTION):
                pairs = [pair for pair in group[start : start + PORTION] if self.prepare(*pair)]
                self.record.begin(pairs)
                yield from pairs

    def prepare(self, source: Place, target: Place) -> bool:
        """Make the folder of a target, and look whether it may be written. Returns whether all is well."""
        may_replace = self.force or self.record.is_ours(source, target)
        try:
            if isinstance(target, Path):
                target.parent.mkdir(parents=True, exist_ok=True)
                check_output(source, target, may_replace)
            elif self.record.state(target) is not None and not may_replace:
                raise FileExistsError(errno.EEXIST, "exists already; --force overwrites it", str(target))
        except OSError as error:
            self.fail(str(source), failure(error, source), worker_name())
            return False
        self.record.see(source)
        return True

    def take(self, outcome: Outcome) -> None:
        """Record and report what became of an input."""
        source, target, result = outcome.source, outcome.target, outcome.result
        if result is None:
            self.record.drop(source, target)
            self.fail(str(source), outcome.error or "", outcome.worker)
        else:
            self.n_done += 1
            self.n_pictures += result.get("pictures", 1)
            self.source_bytes += result["source_bytes"]
            self.output_bytes += result["output_bytes"]
            row = {"bytes": result["output_bytes"]}
            row |= {key: result.get(key) for key in ROW_KEYS if key in result or key in self.bulk.wanted}
            self.kept |= result.pop("kept", set())
            if failed := result.pop("failed", []):
                row["failed"] = failed
            for member, reason in failed:
                self.fail(member, reason, outcome.worker)
            self.record.add(source, target, row)
            self.add_to_manifest(source, target, row)
            if self.json:
                hide_bar()
                with redirect_stdout(self.stdout):
                    report({"source": str(source), "error": None, **result}, json=True)
        if self.bulk.uses_workers:
            self.show_progress()

    def show_progress(self) -> None:
        """Move the progress bar, which the workers do not see."""
        n_tried = self.n_done + len(self.failed)
        n_coded = self.n_pictures + len(self.failed)
        note = f"{n_tried:,}, {n_coded / (time.perf_counter() - self.started_s):.1f} a second"
        with share(0 if self.n_total is None else 1 / max(self.n_total - n_tried + 1, 1), note):
            pass

    def fail(self, source: str, reason: str, worker: str) -> None:
        """Note an input that failed."""
        line = " ".join(reason.split())
        self.failed.append((source, line))
        if self.errors:
            self.errors.add({"input": source, "reason": line, "worker": worker})

    def summarise(self, seconds: float) -> None:
        """Print the failures and a summary. Exits with 1 if there are failures, else with 0."""
        for source, reason in self.failed:
            if self.json:
                print_json({"source": source, "output": None, "error": reason})
            typer.echo(f"ulcodec: error: {CONTROL.sub(escaped, source)}: {reason}", err=True)
        if self.kept:
            some = ", ".join(sorted(self.kept)[:MOST_KEPT]) + (" ..." if len(self.kept) > MOST_KEPT else "")
            typer.echo(f"ulcodec: warning: pictures in shards left as they are: {some}; see --members", err=True)
        summary = {
            "n_done": self.n_done,
            "n_up_to_date": self.n_up_to_date,
            "n_failed": len(self.failed),
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "seconds": seconds,
        }
        if self.json:
            print_json(summary)
        else:
            pictures = f" ({self.n_pictures:,} pictures)" if self.n_pictures > self.n_done else ""
            counts = f"{self.n_done} done{pictures}, {self.n_up_to_date} up to date, {len(self.failed)} failed"
            sizes = f"{self.source_bytes:,} to {self.output_bytes:,} bytes in {seconds:.1f} s"
            typer.echo(f"{counts}; {sizes}, {self.n_pictures / seconds:.1f} a second")
        raise typer.Exit(1 if self.failed else 0)


def escaped(match: re.Match[str]) -> str:
    """The way that Python writes a control character."""
    return repr(match[0])[1:-1]


def failures_in(row: Entry) -> list[tuple[str, str]]:
    """The samples that a shard of an earlier run lacks, with the reasons."""
    failed = row.get("failed")
    entries = failed if isinstance(failed, list) else []
    return [(str(entry[0]), str(entry[1])) for entry in entries if isinstance(entry, list) and len(entry) == 2]


def report(result: dict[str, Any], json: bool) -> None:
    """Print a result, unless standard output holds the result itself."""
    line = result.pop("line")
    if result["output"] == str(STANDARD_STREAM):
        return
    if json:
        print_json(result)
    else:
        typer.echo(line)
