"""Types and assertions that the tests of the command line share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Finished(NamedTuple):
    """Exit code and output of a finished command."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        """The JSON object of the last line of standard output."""
        return json.loads(self.stdout.splitlines()[-1])


Run = Callable[..., Finished]


def file_names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def files_under(folder: Path) -> set[str]:
    """Return the relative paths of all files in a folder and its subfolders."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def assert_refused(finished: Finished, *words: str, code: int = 2) -> None:
    """Check that a command failed with one line of error, which holds `words`, and without output."""
    assert finished.code == code
    assert finished.stdout == ""
    [line] = finished.stderr.splitlines()
    assert line.startswith("ulcodec: error: ")
    for word in words:
        assert word in line
