"""Plan a run: which inputs there are, and where each result goes."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from errno import ENOENT, ENOTDIR
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ulcodec.errors import LocationError
from ulcodec.io.locations import SHARD_SUFFIX
from ulcodec.io.places import Place, RemoteFile, is_folder, is_pattern, place_at, search
from ulcodec_cli.common import STANDARD_STREAM, output_path

FILE_SUFFIXES = {".ulc", ".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jxl", ".heic",
                 ".mp4", ".mov", ".mkv", ".webm", ".y4m", SHARD_SUFFIX}  # fmt: skip
"""Extensions that make an output a file, where several inputs need a folder."""

Pair = tuple[Place, Place]
"""Source and target."""

Suffix = Callable[[Place], str]
"""Gives the extension of the result of a source."""


class Plan(NamedTuple):
    """Groups of pairs of source and target, and the inputs that cannot be tried, with the reason.

    `groups`: all pairs at once, or those of one folder after another, which may add to `failed`. `many`: the run
    collects errors and skips results that are up to date; a shard alone counts as many.
    """

    groups: Iterable[list[Pair]]
    many: bool
    failed: list[tuple[str, str]]

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, as far as they are known before the run."""
        return list(chain.from_iterable(self.groups)) if isinstance(self.groups, list) else []


def make_plan(
    sources: Sequence[str],
    output: str | None,
    suffix: Suffix,
    extensions: Callable[[], Collection[str]],
    *,
    recursive: bool,
    force: bool,
) -> Plan:
    """Choose the targets of all sources: paths, URLs, and URLs with `*`, `?` or `[`.

    A folder stands for its files with one of `extensions`, sorted by name, and so does a pattern, except one that names
    tar shards. `suffix` gives the extension of the result of a source. `output` is a file for a single source, or a
    folder; one that ends in a slash is made. Two sources of one target both keep their extension in its name. Raises
    OSError or LocationError for a target that cannot be written.
    """
    places = [source if is_pattern(source) else as_place(source) for source in sources]
    target = None if output is None else as_place(output)
    is_local = all(isinstance(place, Path) for place in places) and not isinstance(target, RemoteFile)
    if not is_local:
        check_urls(sources, output, target)
    names_folder = output is not None and target is not None and (output.endswith(("/", os.sep)) or is_folder(target))
    folders = [place for place in places if isinstance(place, str) or is_folder(place)]
    if len(places) == 1 and not folders:
        return _single_plan(places[0], target, names_folder, suffix, force)
    if isinstance(target, Path) and target.exists() and not target.is_dir():
        raise NotADirectoryError(ENOTDIR, "is not a directory", str(target))
    files = [place for place in places if not isinstance(place, str)]
    if target is not None and not names_folder and target.suffix.lower() in FILE_SUFFIXES | set(map(suffix, files)):
        raise NotADirectoryError(ENOTDIR, "several inputs go into a folder, and this names a file", str(target))
    failed: list[tuple[str, str]] = []
    groups = _groups(places, target, extensions() if folders else (), recursive, failed)
    if not is_local:
        return Plan(_distinct_groups(_some(groups, sources, failed), suffix, failed), many=True, failed=failed)
    pairs = list(chain.from_iterable(groups))
    if not pairs and not failed:
        raise FileNotFoundError(ENOENT, "nothing to do in this folder", str(folders[0]))
    return Plan(list(_distinct_groups([pairs], suffix, failed)), many=True, failed=failed)


def is_shard(place: Place) -> bool:
    """Whether an input is a tar shard, see `ulcodec_cli.shards`."""
    return place.suffix.lower() == SHARD_SUFFIX


def as_place(text: str) -> Place:
    """The place that a path or a URL names. Raises LocationError for a URL that cannot be opened."""
    return place_at(text) if "://" in text else Path(text)


def check_urls(sources: Sequence[str], output: str | None, target: Place | None) -> None:
    """Raise LocationError for a combination with URLs that cannot be."""
    if "-" in (*sources, output):
        raise LocationError("standard streams do not go with URLs")
    if output is not None and is_pattern(output):
        raise LocationError(f"{output}: the output is one file or folder")
    results = [as_place(source) for source in sources] if target is None else [target]
    for place in results:
        if isinstance(place, RemoteFile):
            place.check_writable()


def _single_plan(source: Place | str, target: Place | None, names_folder: bool, suffix: Suffix, force: bool) -> Plan:
    if isinstance(source, RemoteFile):
        source = source.listed()
    assert not isinstance(source, str)
    if target is not None and names_folder:
        if isinstance(source, Path) and source != STANDARD_STREAM:
            source.stat()
        if isinstance(target, Path):
            target.mkdir(parents=True, exist_ok=True)
        target = below(target, source.with_suffix(suffix(source)).name)
    many = is_shard(source)  # a run over many skips what is up to date, and looks whether it may replace the rest
    if many and target is not None and not is_shard(target):
        raise LocationError(f"{target}: a shard goes to a folder, which exists or ends in /, or to a file named .tar")
    target = output_path(source, target, suffix(source), force or many)
    return Plan([[(source, target)]], many, failed=[])


def _groups(
    places: Sequence[Place | str],
    target: Place | None,
    extensions: Collection[str],
    recursive: bool,
    failed: list[tuple[str, str]],
) -> Iterator[list[Pair]]:
    """Find the files of all sources, folder by folder, with their places in the target, still with their extensions."""
    from ulcodec.io.clip_kinds import VIDEO_SUFFIXES

    for place in places:
        if isinstance(place, Path):
            inputs = _files_in(place, extensions, recursive, failed) if place.is_dir() else [place]
            base = place if place.is_dir() else place.parent
            relative = [file.relative_to(base).as_posix() for file in inputs]
            yield [(file, target_of(file, target, path)) for file, path in zip(inputs, relative, strict=True)]
        elif isinstance(place, RemoteFile) and not is_folder(place):
            try:
                listed = place.listed()
            except LocationError as error:
                failed.append((str(place), str(error)))
            else:
                yield [(listed, target_of(listed, target, listed.name))]
        else:
            names_shards = isinstance(place, str) and place.partition("::")[0].lower().endswith(SHARD_SUFFIX)
            wanted = {SHARD_SUFFIX} if names_shards else set(extensions) - VIDEO_SUFFIXES
            for folder in search(str(place), wanted, recursive, lambda *failure: failed.append(failure)):
                yield [(file, target_of(file, target, folder.path_of(file))) for file in folder.files]


def _some(groups: Iterable[list[Pair]], sources: Sequence[str], failed: list[tuple[str, str]]) -> Iterator[list[Pair]]:
    """Pass groups on. Raises FileNotFoundError at the end if all are empty, and nothing failed."""
    is_empty = True
    for group in groups:
        is_empty = is_empty and not group and not failed
        yield group
    if is_empty and not failed:
        raise FileNotFoundError(ENOENT, "nothing to do here", sources[0])


def _distinct_groups(
    groups: Iterable[list[Pair]], suffix: Suffix, failed: list[tuple[str, str]]
) -> Iterator[list[Pair]]:
    """Give all targets their extension. Inputs of the same target fail; within a group all of them, else the later.

    An input that is given twice is done once.
    """
    taken: dict[int, int] = {}
    for group in groups:
        once = {key_of(source): (source, target) for source, target in reversed(group)}
        pairs = _distinct_targets(list(reversed(once.values())), suffix)
        repeated = _repeated(target for _, target in pairs)
        distinct = []
        for source, target in pairs:
            is_first = hash(str(target)) not in taken
            if key_of(source) == key_of(target):
                failed.append((str(source), "input and output are the same file"))
            elif target in repeated or taken.setdefault(hash(str(target)), hash(key_of(source))) != hash(
                key_of(source)
            ):
                failed.append((str(source), f"{target}: would be written by more than one input"))
            elif is_first:
                distinct.append((source, target))
        yield distinct


def key_of(source: Place) -> str:
    """The same text for a file however it is named, but for links."""
    return os.path.abspath(source) if isinstance(source, Path) else str(source)


def target_of(file: Place, target: Place | None, relative: str) -> Place:
    """The place of a result, still with the extension of its source: in a folder, or beside the source."""
    return file if target is None else below(target, relative)


def below(folder: Place, relative: str) -> Place:
    """The file at a relative path in a folder."""
    return folder / relative if isinstance(folder, Path) else folder.below(relative)


def _distinct_targets(files: list[Pair], suffix: Suffix) -> list[Pair]:
    """Replace the extension of every target by `suffix`, or append it where two targets would be the same."""
    suffixes = [suffix(file) for file, _ in files]
    pairs = [(file, place.with_suffix(new)) for (file, place), new in zip(files, suffixes, strict=True)]
    collisions = _repeated(place for _, place in pairs)
    appended = [place.with_name(place.name + new) for (_, place), new in zip(files, suffixes, strict=True)]
    return [(file, long if place in collisions else place) for (file, place), long in zip(pairs, appended, strict=True)]


def _repeated(places: Iterable[Place]) -> set[Place]:
    return {place for place, count in Counter(places).items() if count > 1}


def _files_in(folder: Path, extensions: Collection[str], recursive: bool, failed: list[tuple[str, str]]) -> list[Path]:
    """List the files of a folder, in depth if `recursive`. Adds folders that cannot be read to `failed`."""

    def add_failure(error: OSError) -> None:
        failed.append((str(error.filename), error.strerror or str(error)))

    files: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=add_failure):
        files.extend(Path(place) / name for name in names if Path(name).suffix.lower() in extensions)
        if not recursive:
            folders.clear()
    # A broken link stays: reading it gives the error.
    return sorted(file for file in files if os.path.isfile(file) or not os.path.exists(file))
