"""Record of a run over many files, so that the next run makes only what is missing or has changed.

A line of JSON stands for a result that was begun, or for one that was written, with what a manifest says of it. The
last line of a result counts. The lines of a folder are a file in it; where files cannot be appended to, as in a bucket,
they are the files of a subfolder, one for each portion of lines.
"""

import json
import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from ulcodec.io.places import Place, RemoteFile, State, read_many, reason_of, state_at, states_in
from ulcodec_cli.plan import Pair, is_shard

NAME = ".ulcodec.jsonl"
"""File beside the results, on this machine."""

FOLDER = ".ulcodec"
"""Folder beside the results, elsewhere."""

PORTION_LINES, PORTION_S = 1000, 30.0
"""Lines that wait, and for how long, until they are written as a file."""

PORTIONS_AT_ONCE = 32

Stamp = list[int | str | None]
"""Size in bytes, and what tells that the contents have changed: a time, or a tag of a listing."""

Entry = dict[str, Any]


class Record:
    """The records of the folders that a run writes to. Without a record, a result newer than its source is current.

    `options`: everything beside the sources that decides the results, as JSON values; `wanted`: keys that a manifest
    needs beyond the usual ones.
    """

    def __init__(self, options: object, wanted: Collection[str] = ()) -> None:
        self.options = sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
        self.wanted = wanted
        self.lines: dict[str, dict[str, str]] = {}
        self.states: dict[str, dict[str, State]] = {}
        self.unreadable: dict[str, str] = {}
        self.seen: dict[str, Stamp | None] = {}
        self.before: dict[str, str] = {}
        self.waiting: dict[str, tuple[RemoteFile, list[str]]] = {}
        self.flushed_s = time.monotonic()

    def open(self, pairs: Iterable[Pair]) -> None:
        """Read the records of the folders of these targets, and forget the others.

        Lines are parsed when they are asked for: parsed, they would take several times the memory.
        """
        targets = {folder_of(target): target for _, target in pairs}
        self.lines = {folder: lines for folder, lines in self.lines.items() if folder in targets}
        self.states = {folder: states for folder, states in self.states.items() if folder in targets}
        self.unreadable = {folder: reason for folder, reason in self.unreadable.items() if folder in targets}
        for folder, target in targets.items():
            if folder in self.lines:
                continue
            self.lines[folder], self.states[folder] = {}, {}
            try:
                if isinstance(target, Path):
                    lines: Iterable[str] = lines_of(target.with_name(NAME))
                else:
                    states = states_in(target.folder)
                    self.states[folder] = {name: state._replace(tag=None) for name, state in states.items()}
                    lines = portions_in(target.with_name(FOLDER))
                self.lines[folder] = {entry["target"]: line for line, entry in parsed(lines)}
            except Exception as error:  # drivers raise anything
                self.unreadable[folder] = reason_of(error)

    def problem(self, target: Place) -> str | None:
        """Why nothing is known of what is at a target, if its folder cannot be listed."""
        return self.unreadable.get(folder_of(target))

    def state(self, target: Place) -> State | None:
        """Look up the state of a target; None if there is no file."""
        return state_at(target) if isinstance(target, Path) else self.states[folder_of(target)].get(target.name)

    def entry(self, target: Place) -> Entry:
        """Look up a target; empty if it was not recorded, or has been changed since."""
        line = self.lines[folder_of(target)].get(target.name)
        entry: Entry = {} if line is None else json.loads(line)
        if "source" not in entry:  # it failed
            return {}
        if "written" in entry and entry["written"] != written_stamp(target, self.state(target)):
            return {}
        return entry

    def is_ours(self, source: Place, target: Place) -> bool:
        """Whether a run began or wrote the target from this very source, by path, and nothing has changed it since."""
        return self.entry(target).get("source") == source_name(source, target)

    def current(self, source: Place, target: Place) -> Entry | None:
        """What a manifest says of a result that is up to date, as far as that is known; None for any other result."""
        read, existing = state_at(source), self.state(target)
        if read is None or existing is None or (isinstance(target, Path) and not target.is_file()):
            return None  # reading or writing gives the error
        if entry := self.entry(target):
            recorded = entry.get("row")
            row: Entry = recorded if isinstance(recorded, dict) else {}
            is_same_source = entry["source"] == source_name(source, target) and entry.get("read") == stamp(read)
            is_complete = "written" in entry and all(key in row for key in self.wanted)
            return row if is_same_source and is_complete and entry.get("options") == self.options else None
        if is_shard(target):  # it may be another shard of the same name, such as a copy of the source
            return None
        if existing.modified_s is None or read.modified_s is None or existing.modified_s < read.modified_s:
            return None
        return {"bytes": existing.size}

    def see(self, source: Place) -> None:
        """Note the state of a source before it is read, so that a later change is noticed."""
        state = state_at(source)
        self.seen[str(source)] = None if state is None else stamp(state)

    def begin(self, pairs: Iterable[Pair]) -> None:
        """Record that targets are about to be written: if the run is killed, the next one may replace them."""
        for source, target in pairs:
            self.before[str(target)] = self.lines[folder_of(target)].get(target.name, "{}")
            self._append(target, {"source": source_name(source, target)})
        self.flush()

    def add(self, source: Place, target: Place, row: Entry) -> None:
        """Record that the target was written from the source, with what a manifest says of it."""
        self.before.pop(str(target), None)
        state = state_at(target) if isinstance(target, Path) else State(row.get("bytes"), None, None)
        entry = {"source": source_name(source, target), "read": self.seen.pop(str(source), None),
                 "written": written_stamp(target, state), "options": self.options, "row": row}  # fmt: skip
        self._append(target, entry)

    def drop(self, source: Place, target: Place) -> None:
        """Record that a target that was begun has not been written: what was known of it before holds again."""
        self.seen.pop(str(source), None)
        self._append(target, json.loads(self.before.pop(str(target), "{}")))

    def flush(self) -> None:
        """Write the lines that wait. A record that cannot be written is no error."""
        for folder, lines in self.waiting.values():
            with suppress(Exception):
                folder.below(f"{time.time_ns():020d}-{secrets.token_hex(4)}.jsonl").write("".join(lines).encode())
        self.waiting.clear()
        self.flushed_s = time.monotonic()

    def _append(self, target: Place, entry: Entry) -> None:
        line = json.dumps({"target": target.name, **entry}) + "\n"
        if isinstance(target, Path):
            with suppress(OSError), open(target.with_name(NAME), "a", encoding="utf-8") as handle:
                handle.write(line)
            return
        self.waiting.setdefault(folder_of(target), (target.with_name(FOLDER), []))[1].append(line)
        n_lines = sum(len(lines) for _, lines in self.waiting.values())
        if n_lines >= PORTION_LINES or time.monotonic() > self.flushed_s + PORTION_S:
            self.flush()


def lines_of(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def portions_in(folder: RemoteFile) -> Iterator[str]:
    """Read the lines of all portions in a folder, oldest first; what cannot be read is skipped."""
    names = sorted(states_in(folder))
    for start in range(0, len(names), PORTIONS_AT_ONCE):
        for content in read_many([folder.below(name) for name in names[start : start + PORTIONS_AT_ONCE]]):
            if isinstance(content, bytes):
                yield from content.decode(errors="replace").splitlines()


def parsed(lines: Iterable[str]) -> Iterator[tuple[str, Entry]]:
    """Parse the lines of a record; unreadable ones are skipped."""
    for line in lines:
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("target"), str):
                yield line, entry


def folder_of(target: Place) -> str:
    return str(target.parent if isinstance(target, Path) else target.folder)


def source_name(source: Place, target: Place) -> str:
    """Name a source: by its path relative to the folder of its target, so that both can be moved, or by its URL."""
    if isinstance(source, Path) and isinstance(target, Path):
        return os.path.relpath(os.path.realpath(source), os.path.realpath(target.parent))
    return os.path.realpath(source) if isinstance(source, Path) else str(source)


def stamp(state: State) -> Stamp:
    return [state.size, state.tag]


def written_stamp(target: Place, state: State | None) -> Stamp | None:
    """The stamp of a target that was written. Elsewhere than on this machine, it is known by its size alone."""
    if state is None:
        return None
    return stamp(state) if isinstance(target, Path) else [state.size, None]
