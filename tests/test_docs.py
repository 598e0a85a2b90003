"""The documentation: the cookbook runs unchanged with the shipped model, and the site builds."""

import gc
import os
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ulcodec.io.pictures import load_image
from ulcodec_cli.main import app

ROOT = Path(__file__).parent.parent
COOKBOOK = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", COOKBOOK, re.DOTALL)


@pytest.fixture(scope="module")
def cookbook_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photo.png, icon.png, clip.mp4 and a folder of photographs."""
    folder = tmp_path_factory.mktemp("cookbook")
    pixels = load_image((files("skimage.data") / "chelsea.png").read_bytes()).pixels[:192, 100:356]
    (folder / "photos" / "trip").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "photo.png")
    for name in ("holiday.png", "garden.png", "trip/harbour.png"):
        Image.fromarray(np.roll(pixels, len(name), axis=1)).save(folder / "photos" / name)
    row, column = np.mgrid[:64, :64]
    disc = (255 * (np.hypot(row - 32, column - 32) < 24)).astype(np.uint8)
    Image.fromarray(np.dstack([pixels[:64, :64], disc])).save(folder / "icon.png")
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(4):
            frame = np.ascontiguousarray(pixels[2 * number : 96 + 2 * number, 40:168])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return folder


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"])


def test_lines_of_prose_have_at_most_120_columns() -> None:
    """Rows of tables cannot be broken, and `docs/cli.md` is generated."""
    lines = [(page, line) for page in PAGES if page.name != "cli.md" for line in page.read_text("utf-8").splitlines()]
    assert not [(page.name, line) for page, line in lines if len(line) > 120 and not line.startswith("|")]


def test_cookbook_contains_commands_and_python() -> None:
    assert {kind for kind, _ in BLOCKS} == {"console", "python"}
    assert len(BLOCKS) > 8


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # WebDataset leaves shards open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_of_the_cookbook_runs(cookbook_folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    kind, text = BLOCKS[number]
    monkeypatch.chdir(cookbook_folder)
    if kind == "python":
        exec(text, {})
        gc.collect()
        return
    for line in text.splitlines():
        name, *arguments = shlex.split(line)
        assert name == "ulcodec"
        monkeypatch.setattr("sys.argv", [name, *arguments])
        with pytest.raises(SystemExit) as exit_:
            app(arguments, prog_name="ulcodec")
        assert not exit_.value.code, line


def test_reference_of_the_command_line_is_up_to_date(tmp_path: Path) -> None:
    """`make docs` writes this page."""
    page = tmp_path / "cli.md"
    command = [sys.executable, "-m", "typer", "ulcodec_cli.main", "utils", "docs", "--name", "ulcodec"]
    subprocess.run([*command, "--title", "Command line", "--output", page], check=True, capture_output=True)
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="mkdocstrings (of the docs extra) is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert finished.returncode == 0, finished.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("codec.image.Codec.encode", "codec.rate_control.encode_to_size", "train.settings.Stage1Settings"):
        assert f'id="ulcodec.{name}"' in page
