"""Fixtures for tests of the command line."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Finished, Run
from PIL import Image

from ulcodec_cli.main import app


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def run_command(*arguments: object) -> Finished:
        with pytest.raises(SystemExit) as exit_:
            app([str(argument) for argument in arguments], prog_name="ulcodec")
        code = exit_.value.code
        assert code is None or isinstance(code, int)
        return Finished(code or 0, *capsys.readouterr())

    return run_command


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Write a smooth RGB picture with odd sides, 51x37, to photo.png in an otherwise empty folder."""
    rows, columns = np.mgrid[:37, :51]
    pixels = np.stack([4 * rows, 3 * columns, 2 * (rows + columns)], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def coded(photo: Path, tiny_model_dir: Path, run: Run) -> Path:
    """Encode photo.png to photo.ulc in the same folder."""
    assert run("encode", photo, "--model", tiny_model_dir).code == 0
    return photo.with_suffix(".ulc")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Write a folder with two pictures, a third one in a subfolder, and a text file."""
    (tmp_path / "album" / "inner").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "inner/c.png")):
        pixels = np.full((20, 30, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "album" / name)
    (tmp_path / "album" / "notes.txt").write_text("not a picture")
    return tmp_path / "album"


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Start Ray on this machine, with room for two workers and, as it says, a GPU."""
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "ulcodec[ray]"')
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    paths = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    ray.init("local", num_cpus=2, num_gpus=1, runtime_env=paths, **quiet)
    yield
    ray.shutdown()
