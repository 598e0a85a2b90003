"""The commands and the Python of the cookbook run as they stand, with the shipped model."""

import re
import shlex
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ulcodec.images import load_image
from ulcodec_cli.main import app

COOKBOOK = (Path(__file__).parent.parent / "docs" / "cookbook.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", COOKBOOK, re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photo.png and icon.png, and a folder of photographs."""
    folder = tmp_path_factory.mktemp("cookbook")
    pixels = load_image((files("skimage.data") / "chelsea.png").read_bytes()).pixels[:192, 100:356]
    (folder / "photos" / "trip").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "photo.png")
    for name in ("holiday.png", "garden.png", "trip/harbour.png"):
        Image.fromarray(np.roll(pixels, len(name), axis=1)).save(folder / "photos" / name)
    row, column = np.mgrid[:64, :64]
    disc = (255 * (np.hypot(row - 32, column - 32) < 24)).astype(np.uint8)
    Image.fromarray(np.dstack([pixels[:64, :64], disc])).save(folder / "icon.png")
    return folder


def test_the_page_shows_commands_and_python() -> None:
    assert {kind for kind, _ in BLOCKS} == {"console", "python"}
    assert len(BLOCKS) > 8


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(workplace: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    kind, text = BLOCKS[number]
    monkeypatch.chdir(workplace)
    if kind == "python":
        exec(text, {})
        return
    for line in text.splitlines():
        name, *arguments = shlex.split(line)
        assert name == "ulcodec"
        monkeypatch.setattr("sys.argv", [name, *arguments])
        with pytest.raises(SystemExit) as exit_:
            app(arguments, prog_name="ulcodec")
        assert not exit_.value.code, line
