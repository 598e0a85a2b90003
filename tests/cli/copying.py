"""A task for tests of workers: it copies files in capitals, and some contents kill the process that reads them."""

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ulcodec.errors import ImageError, ModelError
from ulcodec.io.places import Place
from ulcodec_cli.common import ModelOptions, read_file, say, write_file
from ulcodec_cli.work import Job


@dataclass
class Copying:
    """The task. `load_error`: what loading the model gives; `log`: gets a line for each load."""

    log: Path
    load_error: str = ""
    verb: str = "copying"
    options: object = None
    model: ModelOptions = field(default_factory=lambda: ModelOptions("small", "cpu", 1, "auto"))

    def load(self, n_threads: int) -> None:
        if self.load_error == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.load_error:
            raise ModelError(self.load_error)
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {n_threads}\n")

    def read(self, source: Place) -> tuple[Any, int]:
        """Read a file. A "poison" kills the process, "frail PATH" only while there is a file at PATH.

        A "tidy" takes long, with a temporary file.
        """
        data = read_file(source)
        word, _, place = data.decode().partition(" ")
        if word == "bad":
            raise ImageError("not good")
        if word == "tidy":
            temporary = source.with_name(f"{os.getpid()}.tmp")
            try:
                temporary.touch()
                time.sleep(20)
            finally:
                temporary.unlink()
        if word == "slow":
            time.sleep(0.05)
        if word == "frail" and Path(place).exists():
            Path(place).unlink()
            word = "poison"
        if word == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "loud":
            say(f"ulcodec: warning: {source}: loud", err=True)
        return data, 1

    def finish(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        return [self.write(job) for job in jobs]

    def write(self, job: Job) -> dict[str, Any]:
        data = job.content.upper()
        write_file(job.target, data)
        sizes = {"source_bytes": len(data), "output_bytes": len(data)}
        return {"output": str(job.target), **sizes, "sha256": hashlib.sha256(data).hexdigest(), "line": "done"}
