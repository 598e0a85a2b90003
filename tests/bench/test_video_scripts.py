"""`benchmarks/video_sheet.py` with a small clip and a small model."""

import sys
from pathlib import Path

import numpy as np
import pytest
from clip_files import moving_frames, write_clip
from PIL import Image

from benchmarks import video_sheet

pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg")


def test_sheet(
    picture: np.ndarray,
    tmp_path: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = write_clip(tmp_path / "clip.mkv", moving_frames(picture, 4, 64, 64))
    sheet = tmp_path / "sheet.png"
    options = ["--frames", "4", "--crop", "0,0,40,30", "--model", str(tiny_model_dir), "-o", str(sheet)]
    monkeypatch.setattr(sys, "argv", ["video_sheet.py", str(clip), *options])
    video_sheet.main()
    gap = video_sheet.GAP_PX
    with Image.open(sheet) as image:
        assert image.size == (4 * 40 + 3 * gap, 4 * 30 + 3 * gap)
    assert len(capsys.readouterr().out.splitlines()) == 4
