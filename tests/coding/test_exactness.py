"""Latents and bytes are the same for other instruction sets, threads, libraries and backends.

`benchmarks/exactness.py` has more configurations.
"""

from pathlib import Path

import numpy as np
import pytest

import ulcodec
from benchmarks.exactness import CONFIGURATIONS, Configuration, run, work
from ulcodec.codec.image import Codec

CHEAP = ("2 threads", "oneDNN off", "oneDNN up to SSE41", "ATen default", "MKL compatible code path", "batch of 8",
         "tiles of 5x5 positions", "range coder in plain Python")  # fmt: skip


def write_files(codec: Codec, picture: np.ndarray, folder: Path) -> list[Path]:
    """Write two pictures and a clip of two frames, coded by a codec."""
    paths = [folder / "low.ulc", folder / "high.ulc"]
    for path, quality in zip(paths, (20, 90), strict=True):
        path.write_bytes(codec.encode(picture, quality=quality))
    clip = folder / "clip.ulc"
    clip.write_bytes(b"".join(codec.encode_video([picture[:60], picture[20:]], quality=50)))
    return [*paths, clip]


@pytest.fixture(scope="module")
def files(tiny_codec: Codec, picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_files(tiny_codec, picture, tmp_path_factory.mktemp("coded"))


@pytest.mark.parametrize("configuration", [c for c in CONFIGURATIONS if c.name in CHEAP], ids=lambda c: c.name)
def test_latents_and_bytes_do_not_depend_on_the_configuration(
    configuration: Configuration, files: list[Path], tiny_model_dir: Path
) -> None:
    expected = work(files, str(tiny_model_dir), "cpu")
    result = run(configuration, files, str(tiny_model_dir))
    assert (result["decoded"], result["coded"]) == (expected["decoded"], expected["coded"])


@pytest.mark.parametrize("name", ["onnxruntime, graphs not optimised", "onnxruntime, tiles of 5x5 positions"])
def test_latents_and_bytes_are_those_of_onnxruntime(name: str, picture: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    files = write_files(ulcodec.load(device="cpu", backend="torch"), picture, tmp_path)
    [configuration] = [configuration for configuration in CONFIGURATIONS if configuration.name == name]
    expected, result = work(files, "small", "cpu"), run(configuration, files, "small")
    assert result["product"] == "onnxruntime"
    assert (result["decoded"], result["coded"]) == (expected["decoded"], expected["coded"])


def test_cheap_configurations_exist() -> None:
    assert set(CHEAP) <= {configuration.name for configuration in CONFIGURATIONS}
