"""The ONNX graphs of a model directory, and the sessions of onnxruntime that run them."""

import ctypes
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ulcodec.errors import MissingPackageError, ModelError
from ulcodec.store.tensor_files import GRAPHS, read_document

Array = NDArray[Any]
Shape = tuple[int, ...]

GRAPH_NAME = re.compile(r"\w[\w-]*", re.ASCII)


class Graphs:
    """The graphs of one directory. A session is opened when its graph first runs, once in each process.

    `n_threads`: CPU threads of each session, None for the number of cores. Raises MissingPackageError without
    onnxruntime, ModelError for a directory without graphs, or with graphs of another version of its model.
    """

    def __init__(self, directory: Path, n_threads: int | None = None):
        check_graphs(directory)
        self.directory, self.n_threads = directory, n_threads or len(available_cores())
        self._sessions: dict[tuple[int, str], Any] = {}
        _users_of_sessions.add(self)
        _onnxruntime()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the sessions: another process opens its own."""
        return {**vars(self), "_sessions": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _users_of_sessions.add(self)

    def run(self, name: str, shapes: Sequence[Shape], **inputs: Array) -> list[Array]:
        """Run a graph. Returns its outputs in their order: float32, of these shapes.

        Raises MemoryError, ModelError for a graph that fails, or with other outputs.
        """
        session, file = self._session(name), self.directory / f"{name}.onnx"
        try:
            results: list[Any] = session.run(None, inputs, _releasing_memory())
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise _as_ours(error, file) from error
        found = [(getattr(result, "dtype", None), getattr(result, "shape", None)) for result in results]
        if found != [(np.dtype(np.float32), shape) for shape in shapes]:
            raise ModelError(f"{file}: its results are not float32 of the shapes {list(shapes)}")
        if not all(np.isfinite(result).all() for result in results):
            raise ModelError(f"{file}: its results are not finite")
        return results

    def _session(self, name: str) -> Any:
        """The session of a graph. A forked process opens its own: it has none of the threads of its parent."""
        key = os.getpid(), name
        if key not in self._sessions:
            self._sessions[key] = self._opened(self.directory / f"{name}.onnx")
        return self._sessions[key]

    def _opened(self, file: Path) -> Any:
        if file.stem not in listed_graphs(self.directory):
            raise ModelError(f"{self.directory} has no graph {file.stem}: export the model again, with this part")
        if not file.is_file():  # a named pipe would block
            raise ModelError(f"{file} is missing: export the model again")
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.n_threads
        options.log_severity_level = 4  # errors are raised: they need not be printed as well
        options.enable_mem_pattern = False  # would keep the memory of a large tile for every size of tile
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would take the cores
        try:
            return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise _as_ours(error, file) from error


_users_of_sessions: WeakSet[Graphs] = WeakSet()


def _keep_sessions() -> None:
    """Let a forked process never destroy the sessions of its parent: that waits for threads which it does not have."""
    for graphs in _users_of_sessions:
        for session in graphs._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions)


def _as_ours(error: Exception, file: Path) -> Exception:
    """Return what is raised in place of an error of onnxruntime: MemoryError, or ModelError of one line."""
    message = str(error)
    if isinstance(error, MemoryError) or "alloc" in message.replace(str(file), ""):
        return MemoryError()
    return ModelError(f"{file}: {(message.splitlines() or [type(error).__name__])[0]}")


def available_cores() -> set[int] | range:
    """Return the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def has_graphs(directory: Path) -> bool:
    """Whether a model directory holds graphs, of any version."""
    return (directory / f"{GRAPHS}.json").is_file()


def listed_graphs(directory: Path) -> list[str]:
    """Names of the graphs that belong to a directory's model: none if it has no graphs, or if their list is damaged."""
    names = read_document(directory, GRAPHS).get("graphs") if has_graphs(directory) else None
    if not isinstance(names, list):
        return []
    return [name for name in names if isinstance(name, str) and GRAPH_NAME.fullmatch(name)]


def has_present_graphs(directory: Path) -> bool:
    """Whether a directory holds graphs of its present model."""
    try:
        check_graphs(directory)
    except (ModelError, OSError):
        return False
    return True


def is_deployment(directory: Path) -> bool:
    """Whether a model directory holds graphs and only the tensors that they refer to, so that torch cannot load it."""
    return "deployment" in read_document(directory, "config")


def check_graphs(directory: Path) -> None:
    """Raise ModelError unless a directory holds graphs of its present model."""
    if not has_graphs(directory):
        raise ModelError(f"{directory} holds no ONNX graphs; write them with ulcodec model export-onnx")
    if read_document(directory, GRAPHS).get("config_sha256") != config_sha256(directory):
        raise ModelError(f"{directory}: the ONNX graphs are those of another version of the model; export them again")


def config_sha256(directory: Path) -> str:
    """SHA-256 of a directory's `config.json`, which differs between versions of a model."""
    return hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError('the backend onnxruntime needs a package: pip install "ulcodec[onnx]"') from error
    return onnxruntime


def _releasing_memory() -> Any:
    """Options of a run that gives its memory back at its end: the next run may be of another graph."""
    options = _onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def as_quality_level(quality: int) -> NDArray[np.int64]:
    """A quality from 0 to 100 as input of the graphs of the prior: int64 [1]."""
    return np.array([quality], dtype=np.int64)
