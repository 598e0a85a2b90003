"""Spread the inputs of a run over workers: processes of this machine, or of a cluster (`ray_engine`).

A worker loads the model once and takes small chunks of inputs. If it dies, the inputs that it had are tried again, each
alone, so that an input that kills its worker costs only itself.
"""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from typing import Any, NamedTuple, Protocol, TypeVar

from ulcodec.errors import LocationError, UlcError
from ulcodec.io.places import Place, RemoteFile, protocols_of, read_many, state_at
from ulcodec_cli.common import collected_lines, say, show_warnings
from ulcodec_cli.plan import Pair, is_shard
from ulcodec_cli.work import Outcome, Task, describe, work, worker_name

CHUNK_FILES, CHUNK_BYTES = 32, 2**24
"""Inputs that a worker takes at a time, and their size where it is known."""

CHUNKS_AHEAD = 2
"""Chunks that a worker has, so that it need not wait for the next."""

LONE_ATTEMPTS = 2
"""Workers that an input may kill when it is tried alone. Two, since something else may have killed the first."""

Chunk = list[Pair]

Result = TypeVar("Result")


class Finished(NamedTuple):
    """What became of a chunk, and the lines that its worker would have printed."""

    outcomes: list[Outcome]
    lines: list[str]


class Started(NamedTuple):
    """The name of a worker, and the reason why it cannot work, if any."""

    name: str
    error: str | None


class Worker:
    """The side of a worker's own process."""

    def __init__(self, task: Task, n_threads: int) -> None:
        self.task, self.n_threads = task, n_threads
        show_warnings()

    def start(self) -> Started:
        """Load the model."""
        try:
            self.task.load(self.n_threads)
        except Exception as error:  # returned as text, since not every error can be pickled
            return Started(worker_name(), describe(error))
        return Started(worker_name(), None)

    def run(self, chunk: Chunk) -> Finished:
        """Work through a chunk."""
        sources = {str(source): source for source, _ in chunk}
        with collected_lines() as lines:
            outcomes = list(work(self.task, fetched(chunk)))
        return Finished([outcome._replace(source=sources[str(outcome.source)]) for outcome in outcomes], lines)


class Handle(Protocol):
    """A worker, as the process of the run sees it."""

    def start(self) -> "Future[Started]":
        """Call `Worker.start`."""

    def run(self, chunk: Chunk) -> "Future[Finished]":
        """Call `Worker.run`. The future has an error if the worker dies."""

    def stop(self) -> None:
        """End the worker at once, if it is still there."""


class Engine(Protocol):
    """Starts workers. `n_workers`: how many there should be."""

    n_workers: int

    def new(self) -> Handle:
        """Start a worker."""

    def close(self) -> None:
        """Give back what the engine holds, when its workers have ended."""


class Slot:
    """A worker, and the chunks that it has. `lone`: the one input that it tries, and how many workers died of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.chunks: dict[Future[Finished], Chunk] = {}
        self.lone: tuple[Pair, int] | None = None
        self.name = ""
        self.start()

    def start(self) -> None:
        """Start a worker; its future tells when it has loaded the model."""
        self.handle = self.engine.new()
        self.starting: Future[Started] | None = self.handle.start()

    def check_start(self) -> None:
        """Note that the worker has loaded the model. Raises UlcError if it cannot."""
        if self.starting is None or not self.starting.done():
            return
        try:
            self.name, error = self.starting.result()
        except Exception as death:  # engines have their own errors
            raise UlcError(f"a worker died when it loaded the model ({type(death).__name__})") from death
        if error is not None:
            raise UlcError(error)
        self.starting = None

    def feed(self, supply: "Supply") -> None:
        """Give the worker its next chunks; after the last one, one of the suspects, alone."""
        while self.starting is None and self.lone is None and len(self.chunks) < CHUNKS_AHEAD and supply.has_chunk():
            chunk = supply.next_chunk()
            self.chunks[self.handle.run(chunk)] = chunk
        if self.starting is None and supply.suspects and not self.chunks:
            self.lone = supply.suspects.popleft()
            self.chunks[self.handle.run([self.lone[0]])] = [self.lone[0]]

    def collect(self, supply: "Supply") -> Iterator[Outcome]:
        """Tell what became of the chunks that are done. If the worker has died, start another."""
        done = [future for future in self.chunks if future.done()]
        for future in done:
            if future.exception() is None:
                del self.chunks[future]
                self.lone = None
                finished = future.result()
                for line in finished.lines:
                    say(line, err=True)
                yield from finished.outcomes
        if any(future in self.chunks for future in done):
            yield from self.bury(supply, next(future.exception() for future in done if future in self.chunks))

    def bury(self, supply: "Supply", death: BaseException | None) -> Iterator[Outcome]:
        """Replace a worker that has died, and suspect what it had; or give up what it tried alone."""
        if self.lone is None:
            supply.suspects.extend((pair, 0) for chunk in self.chunks.values() for pair in chunk)
        else:
            pair, n_deaths = self.lone
            if n_deaths + 1 < LONE_ATTEMPTS:
                supply.suspects.append((pair, n_deaths + 1))
            else:
                reason = f"{n_deaths + 1} workers died of it ({type(death).__name__})"
                yield Outcome(*pair, None, reason, self.name)
        self.handle.stop()
        self.chunks, self.lone = {}, None
        self.start()


class Supply:
    """What is left to do: chunks, and inputs whose worker died, with the number of deaths when they were alone."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.chunks = chunked(pairs)
        self.next: Chunk | None = None
        self.suspects: deque[tuple[Pair, int]] = deque()

    def has_chunk(self) -> bool:
        self.next = self.next or next(self.chunks, None)
        return self.next is not None

    def next_chunk(self) -> Chunk:
        chunk, self.next = self.next or next(self.chunks), None
        return chunk

    def is_empty(self) -> bool:
        return not self.suspects and not self.has_chunk()


def spread(engine: Engine, pairs: Iterable[Pair]) -> Iterator[Outcome]:
    """Spread inputs over the workers of an engine, and tell what became of each, in any order.

    Raises UlcError if a worker cannot load the model, LocationError for files that only this process sees.
    """
    supply = Supply(pairs)
    slots: list[Slot] = []
    try:
        if not supply.is_empty():
            slots += [Slot(engine) for _ in range(engine.n_workers)]
        while not supply.is_empty() or any(slot.chunks for slot in slots):
            for slot in slots:
                slot.feed(supply)
            futures: list[Future[Any]] = [future for slot in slots for future in slot.chunks]
            futures += [slot.starting for slot in slots if slot.starting]
            wait(futures, return_when=FIRST_COMPLETED)
            for slot in slots:
                slot.check_start()
                yield from slot.collect(supply)
    finally:
        for slot in slots:
            slot.handle.stop()
        engine.close()


def chunked(pairs: Iterable[Pair]) -> Iterator[Chunk]:
    """Cut inputs into chunks for workers."""
    chunk: Chunk = []
    n_bytes = 0
    for pair in pairs:
        for place in pair:
            check_shared(place)
        state = state_at(pair[0])
        n_bytes += (state and state.size) or 0
        chunk.append(pair)
        if len(chunk) >= CHUNK_FILES or n_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, n_bytes = [], 0
    if chunk:
        yield chunk


def check_shared(place: Place) -> None:
    """Raise LocationError for a file that other processes do not see."""
    if isinstance(place, RemoteFile) and "memory" in protocols_of(place.system):
        raise LocationError(f"{place}: memory:// is in this process only: leave out --jobs and --engine")


@dataclass(frozen=True, slots=True)
class FetchedFile(RemoteFile):
    """A remote file that has been read already, or the error of reading it."""

    content: bytes | Exception = field(default=b"", compare=False)

    def read(self) -> bytes:
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def fetched(chunk: Chunk) -> Chunk:
    """Read those sources of a chunk whose file system reads many files at the same time. Shards are streamed."""
    files = [source for source, _ in chunk if isinstance(source, RemoteFile) and not is_shard(source)]
    remote = [file for file in files if file.system.async_impl]
    contents = dict(zip(remote, read_many(remote), strict=True))
    return [
        (FetchedFile(source.system, source.path, source.outside, source.state, contents[source]), target)
        if isinstance(source, RemoteFile) and source in contents
        else (source, target)
        for source, target in chunk
    ]


class Processes:
    """Worker processes of this machine."""

    def __init__(self, task: Task, n_workers: int) -> None:
        self.task, self.n_workers = task, n_workers
        self.n_threads = task.model.threads or max((os.cpu_count() or 1) // n_workers, 1)
        self.handles: list[ProcessHandle] = []

    def new(self) -> "ProcessHandle":
        self.handles.append(ProcessHandle(self.task, self.n_threads))
        return self.handles[-1]

    def close(self) -> None:
        """Wait for the workers, which have been told to end: a pool that ends while Python does may raise an error."""
        for handle in self.handles:
            handle.pool.shutdown(cancel_futures=True)


class ProcessHandle:
    """A pool of one process: of a larger pool, nothing could be used after a death."""

    def __init__(self, task: Task, n_threads: int) -> None:
        self.process = 0
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), begin_process, (task, n_threads))

    def start(self) -> "Future[Started]":
        self._submit(os.getpid).add_done_callback(self._note)
        return self._submit(start_worker)

    def _note(self, future: "Future[int]") -> None:
        if future.exception() is None:
            self.process = future.result()

    def run(self, chunk: Chunk) -> "Future[Finished]":
        return self._submit(run_worker, chunk)

    def _submit(self, function: Callable[..., Result], *arguments: object) -> "Future[Result]":
        try:
            return self.pool.submit(function, *arguments)
        except BrokenProcessPool as death:  # since the last result came
            future: Future[Result] = Future()
            future.set_exception(death)
            return future

    def stop(self) -> None:
        if self.process:
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGTERM)


_workers: list[Worker] = []


def begin_process(task: Task, n_threads: int) -> None:
    """Begin a worker process: it ends when its parent does, and leaves interrupts to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that temporary files are removed
    threading.Thread(target=exit_with_parent, daemon=True).start()
    _workers.append(Worker(task, n_threads))


def exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def start_worker() -> Started:
    return _workers[0].start()


def run_worker(chunk: Chunk) -> Finished:
    try:
        return _workers[0].run(chunk)
    except SystemExit:  # the pool would go on with the next chunk
        os._exit(1)
