"""Locations of pictures as a user names them: folders, files, and URLs."""

from pathlib import Path

Source = Path | str
"""A folder (searched in depth), a picture or a tar shard; a str is the URL of a shard, or of several with `*`."""

SHARD_SUFFIX = ".tar"


def as_source(text: str) -> Source:
    """Tell URLs from paths."""
    return text if "://" in text else Path(text)
