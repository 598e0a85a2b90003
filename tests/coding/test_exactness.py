"""Latents and bytes are the same for other instruction sets, threads and libraries.

`benchmarks/exactness.py` has more configurations.
"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.exactness import CONFIGURATIONS, Configuration, run, work
from ulcodec.codec.image import Codec

CHEAP = ("2 threads", "oneDNN off", "oneDNN up to SSE41", "ATen default", "MKL compatible code path", "batch of 8",
         "tiles of 5x5 positions", "range coder in plain Python")  # fmt: skip


@pytest.fixture(scope="module")
def files(tiny_codec: Codec, picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("coded")
    paths = [folder / "low.ulc", folder / "high.ulc"]
    for path, quality in zip(paths, (20, 90), strict=True):
        path.write_bytes(tiny_codec.encode(picture, quality=quality))
    clip = folder / "clip.ulc"
    clip.write_bytes(b"".join(tiny_codec.encode_video([picture[:60], picture[20:]], quality=50)))
    return [*paths, clip]


@pytest.mark.parametrize("configuration", [c for c in CONFIGURATIONS if c.name in CHEAP], ids=lambda c: c.name)
def test_latents_and_bytes_do_not_depend_on_the_configuration(
    configuration: Configuration, files: list[Path], tiny_model_dir: Path
) -> None:
    expected = work(files, str(tiny_model_dir), "cpu")
    result = run(configuration, files, str(tiny_model_dir))
    assert (result["decoded"], result["coded"]) == (expected["decoded"], expected["coded"])


def test_cheap_configurations_exist() -> None:
    assert set(CHEAP) <= {configuration.name for configuration in CONFIGURATIONS}
