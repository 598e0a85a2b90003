"""What a run over many files wrote, and from what, so that the next run makes only what has changed."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = ".ulcodec.jsonl"
"""A file beside the results: a line for each, the last one counts."""

Stamp = list[int]
"""Size in bytes and time of the last change in nanoseconds."""


class Record:
    """The records of all folders that a run writes to. Without one, a result is current if it is newer than its source.

    `options`: what decides of the results beside the sources, as JSON values.
    """

    def __init__(self, options: object) -> None:
        self.options = json.dumps(options, sort_keys=True)
        self.folders: dict[Path, dict[str, dict[str, Any]]] = {}
        self.read: dict[Path, Stamp | None] = {}

    def entry(self, target: Path) -> dict[str, Any]:
        """What was said of a target; empty if nothing, or if somebody has changed it since."""
        if target.parent not in self.folders:
            self.folders[target.parent] = read_record(target.parent / NAME)
        found = self.folders[target.parent].get(target.name, {})
        return found if found.get("written") == stamp(target) else {}

    def is_ours(self, source: Path, target: Path) -> bool:
        """Whether the target is as a run wrote it from this source, by path: another of the same name has no right."""
        return self.entry(target).get("source") == source_name(source, target)

    def is_current(self, source: Path, target: Path) -> bool:
        """False if that cannot be told: reading or writing then says why."""
        now, existing = stamp(source), stamp(target)
        if now is None or existing is None or not target.is_file():
            return False
        if entry := self.entry(target):
            same_source = entry.get("source") == source_name(source, target) and entry.get("read") == now
            return same_source and entry.get("options") == self.options
        return existing[1] >= now[1]

    def see(self, source: Path) -> None:
        """Note the source as it is before it is read: what changes later must not pass for what was read."""
        self.read[source] = stamp(source)

    def add(self, source: Path, target: Path) -> None:
        """Say that the target was written from the source. What cannot be said costs nothing."""
        entry = {"target": target.name, "source": source_name(source, target), "read": self.read[source],
                 "written": stamp(target), "options": self.options}  # fmt: skip
        self.folders.setdefault(target.parent, {})[target.name] = entry
        with suppress(OSError), open(target.parent / NAME, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")


def read_record(file: Path) -> dict[str, dict[str, Any]]:
    """By target; lines that cannot be read count for nothing."""
    entries: dict[str, dict[str, Any]] = {}
    with suppress(OSError, UnicodeError):
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                entries[entry["target"]] = entry
    return entries


def source_name(source: Path, target: Path) -> str:
    """The source's path from the folder of its target: both can be moved together."""
    return os.path.relpath(os.path.realpath(source), os.path.realpath(target.parent))


def stamp(file: Path) -> Stamp | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
