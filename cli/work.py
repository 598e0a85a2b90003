"""Work through inputs with a task, in this process: several at a time, and one failure does not stop the others."""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

from ulcodec.errors import UlcError
from ulcodec.io.places import Place
from ulcodec.progress import share, tracked
from ulcodec_cli.common import ModelOptions, about, is_out_of_memory
from ulcodec_cli.plan import Pair

WINDOW_PIXELS = 2**22
"""Pixels that are read before they are coded together."""


class Job(NamedTuple):
    """An input that has been read, and where its result goes.

    `n_pixels`: its share of a window; `WINDOW_PIXELS` for an input that goes alone.
    """

    source: Place
    target: Place
    content: Any
    n_pixels: int


class Shard(NamedTuple):
    """A tar shard to work on, which is read later, sample by sample: the content of a `Job`."""

    source: Place


class Task(Protocol):
    """What a command does with its inputs. It can be pickled before its model is loaded.

    `verb`: for the progress bar; `options`: everything beside the sources that decides the results, as JSON values;
    `model`: how to load the model.
    """

    verb: str
    options: object
    model: ModelOptions

    def load(self, n_threads: int) -> None:
        """Load the model now, for a number of CPU threads."""

    def read(self, source: Place) -> tuple[Any, int]:
        """Read an input; return its content and its number of pixels, see `Job`."""

    def finish(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Make and write the results; return a report of each, with the keys `output` and `line`."""


class Outcome(NamedTuple):
    """What became of an input: the report of its result, or the reason why there is none, and which process says so."""

    source: Place
    target: Place
    result: dict[str, Any] | None
    error: str | None
    worker: str


@cache
def worker_name() -> str:
    """Name of this process: host and number."""
    return f"{socket.gethostname()}:{os.getpid()}"


def work(task: Task, pairs: Iterable[Pair], n_total: int | None = None) -> Iterator[Outcome]:
    """Read inputs, finish them window by window, and tell what became of each. `n_total`: number of pairs, if known."""
    window: list[Job] = []
    note = ""
    n_left = None
    for number, (source, target) in enumerate(pairs, start=1):
        n_left = None if n_total is None else n_total - number
        note = f"{number}, {source.name}" if n_total is None else f"{number} of {n_total}, {source.name}"
        job = read(task, source, target, note)
        if isinstance(job, Outcome):
            yield job
            continue
        if job.n_pixels >= WINDOW_PIXELS:  # it goes alone
            yield from finish_window(task, window, None if n_left is None else n_left + 1, note)
        window.append(job)
        if sum(job.n_pixels for job in window) >= WINDOW_PIXELS:
            yield from finish_window(task, window, n_left, note)
    yield from finish_window(task, window, n_left, note)


def read(task: Task, source: Place, target: Place, note: str) -> Job | Outcome:
    """Read an input; return what went wrong if that fails."""
    try:
        with share(0, note), about(source):
            return Job(source, target, *task.read(source))
    except Exception as error:  # a library may raise anything for a broken file
        return Outcome(source, target, None, failure(error, source), worker_name())


def finish_window(task: Task, window: list[Job], n_left: int | None, note: str) -> list[Outcome]:
    """Finish the jobs of a window, and empty it. `n_left`: number of inputs after it, if known."""
    if not window:
        return []
    with share(0 if n_left is None else len(window) / (len(window) + n_left), note):
        outcomes = list(finish(task, window))
    window.clear()
    return outcomes


def finish(task: Task, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Finish jobs together; if that fails, each alone, so that one failure does not stop the others."""
    try:
        with about(jobs[0].source if len(jobs) == 1 else None):
            results = task.finish(jobs)
    except Exception as error:  # a library may raise anything for a broken file
        if len(jobs) == 1:
            yield Outcome(*jobs[0][:2], None, failure(error, jobs[0].source), worker_name())
            return
    else:
        for job, result in zip(jobs, results, strict=True):
            yield Outcome(job.source, job.target, result, None, worker_name())
        return
    for job in tracked(jobs):  # outside of `except`: the traceback would hold the memory of the failed attempt
        yield from finish(task, [job])


def failure(error: Exception, source: Place) -> str:
    """Describe what went wrong with a source, without its name."""
    if isinstance(error, OSError) and str(error.filename) == str(source) and error.strerror:
        return error.strerror
    return describe(error)


def describe(error: Exception) -> str:
    """Describe an error in one line."""
    if is_out_of_memory(error):
        return "out of memory"
    if isinstance(error, UlcError):
        return str(error)
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    message = error.strerror or str(error) or type(error).__name__
    return message if error.filename is None else f"{error.filename}: {message}"
