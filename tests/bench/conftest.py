"""Fixtures for tests of benchmarks: pictures, clips, reports, and the number of threads."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_reports import bench
from clip_files import bench_clips, moving_frames, write_clip
from PIL import Image

from ulcodec.bench.clip_peers import absent_vmaf


@pytest.fixture(scope="session")
def pictures_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures that are large enough for MS-SSIM."""
    directory = tmp_path_factory.mktemp("pictures")
    row, column = np.mgrid[0:184, 0:200].astype(np.float64)
    for name, period in (("a", 9), ("b", 23)):
        waves = [128 + 70 * np.sin(row / period + column / (period + 4) + channel) for channel in range(3)]
        pixels = np.stack(waves, axis=2) + np.random.default_rng(period).normal(0, 4, (184, 200, 3))
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(directory / f"{name}.png")
    return directory


@pytest.fixture(scope="session")
def report(pictures_dir: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of `ulcodec bench` with speeds of two sizes, read-only."""
    out = tmp_path_factory.mktemp("report") / "report"
    n_threads = torch.get_num_threads()
    output = bench(pictures_dir, tiny_model_dir, out, "--sizes", "0.01,0.02")
    torch.set_num_threads(n_threads)
    assert output.splitlines()[-1] == str(out / "index.html")
    return out


@pytest.fixture(scope="session")
def clips_dir(picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two clips of different sizes, rates and numbers of frames, one of odd sides and 10 bits."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.mkv", moving_frames(picture, 5, 80, 64))
    write_clip(folder / "b.mkv", moving_frames(picture, 3, 67, 65), Fraction(30000, 1001), "yuv420p10le")
    (folder / "README.md").write_text("# Clips")
    return folder


@pytest.fixture(scope="session")
def clip_report(clips_dir: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on both clips, read-only."""
    if reason := absent_vmaf():
        pytest.skip(reason)
    out = tmp_path_factory.mktemp("report") / "report"
    finished = bench_clips([clips_dir], tiny_model_dir, out, "--limit", "2", "--frames", "4")
    assert finished.stdout.splitlines()[-1] == str(out / "index.html")
    return out


@pytest.fixture(scope="session")
def odd_pictures_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a textured RGB picture and a grey one, both with odd sides."""
    directory = tmp_path_factory.mktemp("pictures")
    texture = np.random.default_rng(0).integers(0, 60, (37, 51, 3))
    ramp = np.add.outer(np.arange(37) * 3, np.arange(51))[:, :, None]
    Image.fromarray((texture + ramp).astype(np.uint8)).save(directory / "colour.png")
    Image.fromarray((texture + ramp)[:, :33, 0].astype(np.uint8)).save(directory / "grey.png")
    (directory / "notes.txt").write_text("not a picture")
    return directory


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    """Restore the number of threads that a benchmark changes."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)
