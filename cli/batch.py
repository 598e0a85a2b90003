"""One file or many: where results go, what is left out, and how errors are told."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from ulcodec.errors import UlcError
from ulcodec.progress import share, tracked
from ulcodec_cli.common import STANDARD_STREAM, output_path, print_json
from ulcodec_cli.progress import progress_bar

WINDOW_PIXELS = 2**22
"""Of many pictures, so much is read before it is coded together."""


FAILURES = (UlcError, OSError, MemoryError)
"""What costs one file and not the run."""


class Job(NamedTuple):
    """What was read from `source`, on its way to `target`; `n_pixels` of it, a window's for one that goes alone."""

    source: Path
    target: Path
    item: Any
    n_pixels: int


Read = Callable[[Path], tuple[Any, int]]
"""A source's item and its number of pixels."""

Finish = Callable[[Sequence[Job]], list[dict[str, Any]]]
"""Makes and writes all targets; returns what to report of each, `output` and `line` among it."""


class Plan(NamedTuple):
    """`pairs` of source and target; `many`: errors are collected, results that are up to date left alone."""

    pairs: list[tuple[Path, Path]]
    many: bool


def make_plan(
    sources: Sequence[Path], output: Path | None, suffix: str, wanted: set[str], *, recursive: bool, force: bool
) -> Plan:
    """Targets of all sources. A folder stands for the files in it whose extension is `wanted`, in the order of names.

    `output` is a file for a single source, or a folder. Raises OSError for a target that cannot be written.
    """
    folders = [source for source in sources if source.is_dir()]
    if len(sources) == 1 and not folders:
        [source] = sources
        if output is not None and output.is_dir():
            output = output / source.with_suffix(suffix).name
        return Plan([(source, output_path(source, output, suffix, force))], many=False)
    if output is not None and output.exists() and not output.is_dir():
        raise NotADirectoryError(20, "is not a directory", str(output))
    pairs = []
    for source in sources:
        found = found_in(source, wanted, recursive) if source in folders else [source]
        base = source if source in folders else source.parent
        for file in found:
            beside = file.with_suffix(suffix)
            pairs.append((file, beside if output is None else output / beside.relative_to(base)))
    if not pairs:
        raise FileNotFoundError(2, "nothing to do in this folder", str(folders[0]))
    targets = [target for _, target in pairs]
    if doubled := {target for target in targets if targets.count(target) > 1}:
        raise FileExistsError(17, "would be written by more than one input", str(min(doubled)))
    return Plan(pairs, many=True)


def found_in(folder: Path, wanted: set[str], recursive: bool) -> list[Path]:
    files = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(file for file in files if file.suffix.lower() in wanted and file.is_file())


def run_plan(plan: Plan, read: Read, finish: Finish, *, doing: str, force: bool, json: bool) -> None:
    """Work through a plan and report. Of many files, errors come at the end and make the exit code 1."""
    if not plan.many:
        [(source, target)] = plan.pairs
        with progress_bar(doing):
            [result] = finish([Job(source, target, *read(source))])
        report(result, json)
        return
    failed: list[tuple[Path, str]] = []
    done: list[dict[str, Any]] = []
    waiting: list[Job] = []

    def finish_all(jobs: Sequence[Job]) -> None:
        """Together, or where that fails each by itself, so that one does not cost the others."""
        try:
            done.extend(finish(jobs))
        except FAILURES as error:
            if len(jobs) == 1:
                failed.append((jobs[0].source, failure(error, jobs[0].source)))
                return
            for job in tracked(jobs):
                finish_all([job])

    started = time.perf_counter()
    pairs = [pair for pair in plan.pairs if force or not is_up_to_date(*pair)]
    n_skipped = len(plan.pairs) - len(pairs)
    n_waiting_pixels = 0
    with progress_bar(doing):
        for number, (source, target) in enumerate(pairs, start=1):
            note = f"{number} of {len(pairs)}, {source.name}"
            try:
                with share(0, note):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    waiting.append(Job(source, output_path(source, target, "", force), *read(source)))
            except FAILURES as error:
                failed.append((source, failure(error, source)))
            else:
                n_waiting_pixels += waiting[-1].n_pixels
            if waiting and (n_waiting_pixels >= WINDOW_PIXELS or number == len(pairs)):
                with share(len(waiting) / (len(waiting) + len(pairs) - number), note):
                    finish_all(waiting)
                waiting, n_waiting_pixels = [], 0
    for result in done if json else ():
        report(result, json)
    for source, message in failed:
        typer.echo(f"ulcodec: error: {source}: {' '.join(message.split())}", err=True)
    summary = {
        "n_done": len(done),
        "n_up_to_date": n_skipped,
        "n_failed": len(failed),
        "source_bytes": sum(result["source_bytes"] for result in done),
        "output_bytes": sum(result["output_bytes"] for result in done),
        "seconds": time.perf_counter() - started,
    }
    if json:
        print_json(summary)
    else:
        sizes = f"{summary['source_bytes']:,} to {summary['output_bytes']:,} bytes in {summary['seconds']:.1f} s"
        typer.echo(f"{len(done)} done, {n_skipped} up to date, {len(failed)} failed; {sizes}")
    raise typer.Exit(1 if failed else 0)


def failure(error: Exception, source: Path) -> str:
    """What went wrong with a source, without its name."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if not isinstance(error, OSError):
        return str(error)
    elsewhere = error.filename is not None and str(error.filename) != str(source)
    message = error.strerror or str(error)
    return f"{error.filename}: {message}" if elsewhere else message


def is_up_to_date(source: Path, target: Path) -> bool:
    """False if that cannot be told: reading or writing then says why."""
    try:
        return target.is_file() and target.stat().st_mtime >= source.stat().st_mtime
    except OSError:
        return False


def report(result: dict[str, Any], json: bool) -> None:
    """Nothing on standard output where the result itself went there."""
    line = result.pop("line")
    if result["output"] == str(STANDARD_STREAM):
        return
    if json:
        print_json(result)
    else:
        typer.echo(line)
