"""Record of a run over many files, so that the next run makes only what has changed."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = ".ulcodec.jsonl"
"""File beside the results: one line per result; the last line of a result counts."""

Stamp = list[int]
"""Size in bytes, and time of the last change in nanoseconds."""


class Record:
    """The records of all folders that a run writes to. Without a record, a result newer than its source is current.

    `options`: everything beside the sources that decides the results, as JSON values.
    """

    def __init__(self, options: object) -> None:
        self.options = json.dumps(options, sort_keys=True)
        self.folders: dict[Path, dict[str, dict[str, Any]]] = {}
        self.read: dict[Path, Stamp | None] = {}

    def entry(self, target: Path) -> dict[str, Any]:
        """Look up a target; empty if it was not recorded, or has been changed since."""
        if target.parent not in self.folders:
            self.folders[target.parent] = read_record(target.parent / NAME)
        entry = self.folders[target.parent].get(target.name, {})
        return entry if entry.get("written") == stamp(target) else {}

    def is_ours(self, source: Path, target: Path) -> bool:
        """Whether a run wrote the target from this very source, by path, and nothing has changed it since."""
        return self.entry(target).get("source") == source_name(source, target)

    def is_current(self, source: Path, target: Path) -> bool:
        """Whether the result is up to date; False if unknown, since reading or writing then gives the error."""
        now, existing = stamp(source), stamp(target)
        if now is None or existing is None or not target.is_file():
            return False
        if entry := self.entry(target):
            same_source = entry.get("source") == source_name(source, target) and entry.get("read") == now
            return same_source and entry.get("options") == self.options
        return existing[1] >= now[1]

    def see(self, source: Path) -> None:
        """Note the state of a source before it is read, so that a later change is noticed."""
        self.read[source] = stamp(source)

    def add(self, source: Path, target: Path) -> None:
        """Record that the target was written from the source. A record that cannot be written is no error."""
        entry = {"target": target.name, "source": source_name(source, target), "read": self.read[source],
                 "written": stamp(target), "options": self.options}  # fmt: skip
        self.folders.setdefault(target.parent, {})[target.name] = entry
        with suppress(OSError), open(target.parent / NAME, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")


def read_record(file: Path) -> dict[str, dict[str, Any]]:
    """Read the entries of a record by target; unreadable lines are skipped."""
    entries: dict[str, dict[str, Any]] = {}
    with suppress(OSError, UnicodeError):
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                entries[entry["target"]] = entry
    return entries


def source_name(source: Path, target: Path) -> str:
    """Path of a source relative to the folder of its target, so that both can be moved together."""
    return os.path.relpath(os.path.realpath(source), os.path.realpath(target.parent))


def stamp(file: Path) -> Stamp | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
