"""Both stages on shards in the layouts of ImageNet and of Kinetics-600 (docs/reproducing-ul.md), a shard at a time."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_clips import moving_frames, write_video
from PIL import Image

from ulcodec.codec.generate import load_sampler
from ulcodec.io.sources import LeftOut
from ulcodec.train.data.training_set import reader_of
from ulcodec.train.settings import Stage1Settings, Stage2Settings
from ulcodec.train.stage1 import train_stage1
from ulcodec.train.stage2 import train_stage2

STAGE_1 = {"objective": "ul", "n_images": 16, "batch_size": 4, "shards_in_memory": 1, "crops_per_shard": 8}


def write_shard(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    return path


def picture(random: np.random.Generator, size: tuple[int, int], mode: str, format: str) -> bytes:
    file, (width, height) = io.BytesIO(), size
    noise = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    Image.fromarray(noise).resize(size).convert(mode).save(file, format)
    return file.getvalue()


@pytest.fixture
def imagenet(tmp_path: Path) -> tuple[Path, ...]:
    """A shard for each class, whose pictures have other sizes, some of them grey, CMYK, or PNG files."""
    random = np.random.default_rng(0)
    kinds = [((100, 75), "RGB", "JPEG"), ((40, 90), "L", "JPEG"), ((70, 70), "CMYK", "JPEG"), ((64, 50), "RGB", "PNG")]
    return tuple(
        write_shard(
            tmp_path / f"{name}.tar",
            {f"{name}_{number}.JPEG": picture(random, *kind) for number, kind in enumerate(kinds)},
        )
        for name in ("n01440764", "n01443537")
    )


@pytest.fixture
def kinetics(tmp_path: Path) -> tuple[Path, ...]:
    """Shards with a folder for each class. Names are those of videos with the seconds of the cut."""
    shards = []
    for number, label in enumerate(("abseiling", "air drumming")):
        members = {}
        for take, name in enumerate(("-3B32lodo2M_000059_000069", "0-_fM1lqXd8_000010_000020")):
            frames = moving_frames(2 * number + take, n_frames=20, size=(72, 96))
            members[f"train/{label}/{name}.mp4"] = write_video(tmp_path / "take.mp4", frames).read_bytes()
        shards.append(write_shard(tmp_path / f"part_{number}.tar", members))
    return tuple(shards)


def train_both_stages(settings: Stage1Settings, out: Path) -> np.ndarray:
    """Train both stages on the same stream, and draw one sample."""
    run = train_stage1(settings)
    stage2 = Stage2Settings(
        data=settings.data, out=out, model=str(run), config="tiny", n_images=16, batch_size=4, shards_in_memory=1,
        crops_per_shard=8, validation_share=settings.validation_share, device="cpu",
    )  # fmt: skip
    [drawn] = load_sampler(train_stage2(stage2), device=torch.device("cpu")).sample(1, n_steps=2, decoder_steps=2)
    return drawn


def test_layout_of_imagenet(imagenet: tuple[Path, ...], tmp_path: Path) -> None:
    settings = Stage1Settings(
        data=imagenet, out=tmp_path / "run", config="paper_tiny", crop_px=64, resize_px=64, validation_share=0.3,
        device="cpu", **STAGE_1,
    )  # fmt: skip
    reader, left_out = reader_of(settings), LeftOut()
    sides = [pixels.shape[:2] for _, pixels in reader.examples(reader.files(imagenet, left_out), left_out)]
    assert sides == 2 * [(64, 85), (144, 64), (64, 64), (64, 82)]
    assert not left_out
    assert train_both_stages(settings, tmp_path / "base").shape == (64, 64, 3)


def test_layout_of_kinetics(kinetics: tuple[Path, ...], tmp_path: Path) -> None:
    settings = Stage1Settings(
        data=kinetics, out=tmp_path / "run", config="tiny-video", crop_px=32, n_frames=16, resize_px=32,
        validation_share=0.5, device="cpu", **STAGE_1,
    )  # fmt: skip
    reader, left_out = reader_of(settings), LeftOut()
    clips = list(reader.examples(reader.files(kinetics, left_out), left_out))
    assert [frames.shape for _, frames in clips] == 4 * [(20, 32, 40, 3)]
    assert len({scene for scene, _ in clips}) == 4
    assert not left_out
    assert train_both_stages(settings, tmp_path / "base").shape == (16, 32, 32, 3)
