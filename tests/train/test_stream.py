"""Streaming of shards: a few are in memory, and one at a time is replaced."""

import io
import tarfile
from pathlib import Path

import pytest
import torch
from numbered_pictures import PICTURES, numbers_of, png, write_shard

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.data.readers import PictureReader
from ulcodec.train.data.stream import ShardStream


def stream(sources: list[Source], **changes: int) -> ShardStream[PictureSet]:
    values = {"n_held": 2, "crops_per_shard": 10, "seed": 3, **changes}
    reader = PictureReader(min_side_px=32)
    return ShardStream(sources, reader, validation_share=0.5, device=torch.device("cpu"), **values)


def test_stream_holds_two_shards_and_replaces_one_at_a_time(tmp_path: Path) -> None:
    """Each of six shards has a held-out picture, and a training picture with the number of the shard."""
    sources: list[Source] = []
    for number in range(6):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w") as shard:
            for name, pixels in (("a.png", PICTURES[0]), ("b.png", PICTURES[number])):
                data = png(pixels)
                member = tarfile.TarInfo(name)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
        sources.append(path)
    shards = stream(sources)
    assert numbers_of(shards.validation()) == [0, 0]
    windows = [numbers_of(shards.at(n_images)) for n_images in range(0, 120, 10)]
    assert [first for first, _ in windows[:-1]][1:] == [second for _, second in windows[:-2]]
    for epoch in (windows[:6], windows[6:]):
        assert sorted(first for first, _ in epoch) == list(range(6))
    assert [first for first, _ in windows[:6]] != [first for first, _ in windows[6:]]
    assert numbers_of(shards.at(0)) == numbers_of(shards.at(9)) == windows[0]
    assert numbers_of(stream(sources).at(70)) == windows[7], "a resumed run reads the same pictures"
    with pytest.raises(TrainingError, match="cannot hold 7 of 6 shards"):
        stream(sources, n_held=7)


def test_stream_of_unusable_shards_is_refused(folder: Path, tmp_path: Path) -> None:
    small = write_shard(tmp_path / "small.tar", ["b/small.png"])
    with pytest.raises(TrainingError, match="no pictures with sides of at least 32 px in 1 shards"):
        stream([small], n_held=1).at(0)
    with pytest.raises(TrainingError, match="cannot read training data"):
        stream([tmp_path / "gone.tar"], n_held=1).at(0)
