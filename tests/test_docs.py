"""The commands and the Python of the cookbook run as they stand, with the shipped model."""

import os
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ulcodec.io.pictures import load_image
from ulcodec_cli.main import app

ROOT = Path(__file__).parent.parent
COOKBOOK = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
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


def test_reference_of_the_command_line_is_up_to_date(tmp_path: Path) -> None:
    """`make docs` writes it."""
    written = tmp_path / "cli.md"
    command = [sys.executable, "-m", "typer", "ulcodec_cli.main", "utils", "docs", "--name", "ulcodec"]
    subprocess.run([*command, "--title", "Command line", "--output", written], check=True, capture_output=True)
    assert written.read_text(encoding="utf-8") == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="mkdocstrings (of the docs extra) is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("codec.image.Codec.encode", "codec.rate_control.encode_to_size", "train.settings.Stage1Settings"):
        assert f'id="ulcodec.{name}"' in page
