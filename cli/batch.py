"""One file or many: where results go, what is left out, and how errors are told."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from errno import ENOENT, ENOTDIR
from pathlib import Path
from typing import Any, NamedTuple

import typer

from ulcodec.errors import UlcError
from ulcodec.progress import share, tracked
from ulcodec_cli.common import STANDARD_STREAM, about, is_out_of_memory, output_path, print_json
from ulcodec_cli.progress import progress_bar
from ulcodec_cli.record import Record

WINDOW_PIXELS = 2**22
"""Of many pictures, so much is read before it is coded together."""


FILE_SUFFIXES = {".ulc", ".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jxl", ".heic"}


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
    """`pairs` of source and target; `many`: errors are collected, results that are up to date left alone.

    `failed`: what cannot even be tried, and why.
    """

    pairs: list[tuple[Path, Path]]
    many: bool
    failed: list[tuple[Path, str]]


def make_plan(
    sources: Sequence[Path], output: str | None, suffix: str, wanted: set[str], *, recursive: bool, force: bool
) -> Plan:
    """Targets of all sources. A folder stands for the files in it whose extension is `wanted`, in the order of names.

    `output` is a file for a single source, or a folder; one that ends in a slash is made. Where two sources would have
    one target, both keep their extension in its name. Raises OSError for a target that cannot be written.
    """
    target = None if output is None else Path(output)
    is_folder = output is not None and (output.endswith(("/", os.sep)) or os.path.isdir(output))
    folders = [source for source in sources if os.path.isdir(source)]
    if len(sources) == 1 and not folders:
        [source] = sources
        if target is not None and is_folder:
            if source != STANDARD_STREAM:
                source.stat()
            target.mkdir(parents=True, exist_ok=True)
            target = target / source.with_suffix(suffix).name
        return Plan([(source, output_path(source, target, suffix, force))], many=False, failed=[])
    if target is not None and target.exists() and not target.is_dir():
        raise NotADirectoryError(ENOTDIR, "is not a directory", str(target))
    if target is not None and not is_folder and target.suffix.lower() in FILE_SUFFIXES | {suffix}:
        raise NotADirectoryError(ENOTDIR, "several inputs go into a folder, and this names a file", str(target))
    files: list[tuple[Path, Path]] = []
    failed: list[tuple[Path, str]] = []
    for source in sources:
        found = found_in(source, wanted, recursive, failed) if source in folders else [source]
        base = source if source in folders else source.parent
        files.extend((file, file if target is None else target / file.relative_to(base)) for file in found)
    if not files and not failed:
        raise FileNotFoundError(ENOENT, "nothing to do in this folder", str(folders[0]))
    files = list(dict(files).items())  # an input given twice is done once
    pairs = [(file, place.with_suffix(suffix)) for file, place in files]
    doubled = repeated(place for _, place in pairs)
    longer = [place.with_name(place.name + suffix) for _, place in files]
    pairs = [(file, long if place in doubled else place) for (file, place), long in zip(pairs, longer, strict=True)]
    doubled = repeated(place for _, place in pairs)
    message = "would be written by more than one input"
    failed.extend((file, f"{place}: {message}") for file, place in pairs if place in doubled)
    return Plan([pair for pair in pairs if pair[1] not in doubled], many=True, failed=failed)


def repeated(paths: Iterable[Path]) -> set[Path]:
    return {path for path, count in Counter(paths).items() if count > 1}


def found_in(folder: Path, wanted: set[str], recursive: bool, failed: list[tuple[Path, str]]) -> list[Path]:
    """Files of a folder, in depth if `recursive`; adds to `failed` the folders that cannot be read."""

    def unreadable(error: OSError) -> None:
        failed.append((Path(error.filename), error.strerror or str(error)))

    found: list[Path] = []
    for place, inner, names in os.walk(folder, onerror=unreadable):
        found.extend(Path(place) / name for name in names if Path(name).suffix.lower() in wanted)
        if not recursive:
            inner.clear()
    # A broken link stays: reading it says what is wrong.
    return sorted(file for file in found if os.path.isfile(file) or not os.path.exists(file))


def run_plan(plan: Plan, read: Read, finish: Finish, *, doing: str, force: bool, json: bool, options: object) -> None:
    """Work through a plan and report. Of many files, errors come at the end and make the exit code 1.

    `options`: what decides of the results beside the sources, as JSON values; where it changed they are made anew.
    """
    if not plan.many:
        [(source, target)] = plan.pairs
        with progress_bar(doing):
            [result] = finish([Job(source, target, *read(source))])
        report({"source": str(source), "error": None, **result}, json)
        return
    failed = list(plan.failed)
    done: list[dict[str, Any]] = []
    waiting: list[Job] = []
    record = Record(options)

    def finish_all(jobs: Sequence[Job]) -> None:
        """Together, or where that fails each by itself, so that one does not cost the others."""
        try:
            with about(jobs[0].source if len(jobs) == 1 else None):
                results = finish(jobs)
        except Exception as error:  # whatever a file makes a library raise
            if len(jobs) == 1:
                failed.append((jobs[0].source, failure(error, jobs[0].source)))
                return
        else:
            for job, result in zip(jobs, results, strict=True):
                record.add(job.source, job.target)
                done.append({"source": str(job.source), "error": None, **result})
            return
        for job in tracked(jobs):  # the error is gone, and with it the memory that its traceback holds
            finish_all([job])

    started = time.perf_counter()
    pairs = [pair for pair in plan.pairs if force or not record.is_current(*pair)]
    n_skipped = len(plan.pairs) - len(pairs)
    n_waiting_pixels = 0
    with progress_bar(doing):
        for number, (source, target) in enumerate(pairs, start=1):
            note = f"{number} of {len(pairs)}, {source.name}"
            try:
                with share(0, note), about(source):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    place = output_path(source, target, "", force or record.is_ours(source, target))
                    record.see(source)
                    waiting.append(Job(source, place, *read(source)))
            except Exception as error:  # whatever a file makes a library raise
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
        line = " ".join(message.split())
        if json:
            print_json({"source": str(source), "output": None, "error": line})
        typer.echo(f"ulcodec: error: {source}: {line}", err=True)
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
    if is_out_of_memory(error):
        return "out of memory"
    if isinstance(error, UlcError):
        return str(error)
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    elsewhere = error.filename is not None and str(error.filename) != str(source)
    message = error.strerror or str(error)
    return f"{error.filename}: {message}" if elsewhere else message


def report(result: dict[str, Any], json: bool) -> None:
    """Nothing on standard output where the result itself went there."""
    line = result.pop("line")
    if result["output"] == str(STANDARD_STREAM):
        return
    if json:
        print_json(result)
    else:
        typer.echo(line)
