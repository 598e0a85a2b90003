"""Plan a run: which inputs there are, and where each result goes."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from errno import ENOENT, ENOTDIR
from pathlib import Path
from typing import NamedTuple

from ulcodec_cli.common import STANDARD_STREAM, output_path

FILE_SUFFIXES = {".ulc", ".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jxl", ".heic",
                 ".mp4", ".mov", ".mkv", ".webm", ".y4m"}  # fmt: skip
"""Extensions that make an output a file, where several inputs need a folder."""


class Plan(NamedTuple):
    """Pairs of source and target, and the inputs that cannot be tried, with the reason.

    `many`: the run collects errors and skips results that are up to date.
    """

    pairs: list[tuple[Path, Path]]
    many: bool
    failed: list[tuple[Path, str]]


def make_plan(
    sources: Sequence[Path],
    output: str | None,
    suffix: Callable[[Path], str],
    extensions: set[str],
    *,
    recursive: bool,
    force: bool,
) -> Plan:
    """Choose the targets of all sources. A folder stands for its files with one of `extensions`, sorted by name.

    `suffix` gives the extension of the result of a source. `output` is a file for a single source, or a folder; one
    that ends in a slash is made. Two sources of one target both keep their extension in its name. Raises OSError for a
    target that cannot be written.
    """
    target = None if output is None else Path(output)
    is_folder = output is not None and (output.endswith(("/", os.sep)) or os.path.isdir(output))
    folders = [source for source in sources if os.path.isdir(source)]
    if len(sources) == 1 and not folders:
        return _single_plan(sources[0], target, is_folder, suffix(sources[0]), force)
    if target is not None and target.exists() and not target.is_dir():
        raise NotADirectoryError(ENOTDIR, "is not a directory", str(target))
    if target is not None and not is_folder and target.suffix.lower() in FILE_SUFFIXES | set(map(suffix, sources)):
        raise NotADirectoryError(ENOTDIR, "several inputs go into a folder, and this names a file", str(target))
    files: list[tuple[Path, Path]] = []
    failed: list[tuple[Path, str]] = []
    for source in sources:
        inputs = _files_in(source, extensions, recursive, failed) if source in folders else [source]
        base = source if source in folders else source.parent
        files.extend((file, file if target is None else target / file.relative_to(base)) for file in inputs)
    if not files and not failed:
        raise FileNotFoundError(ENOENT, "nothing to do in this folder", str(folders[0]))
    pairs = _distinct_targets(list(dict(files).items()), suffix)  # an input given twice is done once
    collisions = _repeated(place for _, place in pairs)
    message = "would be written by more than one input"
    failed.extend((file, f"{place}: {message}") for file, place in pairs if place in collisions)
    return Plan([pair for pair in pairs if pair[1] not in collisions], many=True, failed=failed)


def _single_plan(source: Path, target: Path | None, is_folder: bool, suffix: str, force: bool) -> Plan:
    if target is not None and is_folder:
        if source != STANDARD_STREAM:
            source.stat()
        target.mkdir(parents=True, exist_ok=True)
        target = target / source.with_suffix(suffix).name
    return Plan([(source, output_path(source, target, suffix, force))], many=False, failed=[])


def _distinct_targets(files: list[tuple[Path, Path]], suffix: Callable[[Path], str]) -> list[tuple[Path, Path]]:
    """Replace the extension of every target by `suffix`, or append it where two targets would be the same."""
    suffixes = [suffix(file) for file, _ in files]
    pairs = [(file, place.with_suffix(new)) for (file, place), new in zip(files, suffixes, strict=True)]
    collisions = _repeated(place for _, place in pairs)
    appended = [place.with_name(place.name + new) for (_, place), new in zip(files, suffixes, strict=True)]
    return [(file, long if place in collisions else place) for (file, place), long in zip(pairs, appended, strict=True)]


def _repeated(paths: Iterable[Path]) -> set[Path]:
    return {path for path, count in Counter(paths).items() if count > 1}


def _files_in(folder: Path, extensions: set[str], recursive: bool, failed: list[tuple[Path, str]]) -> list[Path]:
    """List the files of a folder, in depth if `recursive`. Adds folders that cannot be read to `failed`."""

    def add_failure(error: OSError) -> None:
        failed.append((Path(error.filename), error.strerror or str(error)))

    files: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=add_failure):
        files.extend(Path(place) / name for name in names if Path(name).suffix.lower() in extensions)
        if not recursive:
            folders.clear()
    # A broken link stays: reading it gives the error.
    return sorted(file for file in files if os.path.isfile(file) or not os.path.exists(file))
