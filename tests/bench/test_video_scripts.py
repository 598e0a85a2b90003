"""`benchmarks/video.py` and `benchmarks/video_sheet.py` with a small clip and a small model."""

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from benchmarks import video, video_sheet


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, picture: np.ndarray) -> Path:
    """Four frames of 64x64, lossless."""
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for x in range(0, 16, 4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[8:72, x : x + 64]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_report(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "video.json"
    peers = ["x264-medium-intra", "x264-medium-intra-qp"]
    qualities = ["--qualities", "5", "50", "95", "--intra-qualities", "5", "50", "95"]
    options = ["--frames", "4", *qualities, "--peers", *peers, "-o", str(report)]
    monkeypatch.setattr(sys, "argv", ["video.py", str(clip), *options])
    video.main()
    written = json.loads(report.read_text())
    points = written["points"]["clip"]
    assert list(points) == [video.ANCHOR, *peers, *video.OWN]
    for curve in points.values():
        by_rate = sorted(curve, key=lambda point: point["bpp"])
        values = [point["yuv_psnr_db"] for point in by_rate]
        assert values == sorted(values)
        assert all(point["n_bytes"] * 8 / (4 * 64 * 64) == pytest.approx(point["bpp"], abs=1e-4) for point in curve)
    rates = written["bd_rate_percent"]["mean"]["yuv_psnr_db"]
    assert rates[video.ANCHOR] == 0
    assert rates["x264-medium-intra"] > 0, "prediction saves bits"
    assert rates["ulcodec"] < rates["ulcodec-intra"]
    assert written["own_against_percent"]["ulcodec"]["clip"]["yuv_psnr_db"]["ulcodec"] == 0
    assert "ulcodec" in capsys.readouterr().out


def test_version_strings_do_not_count() -> None:
    stream = b"\0\0\0\1\x67ab" + b"\0\0\1\x06version" + b"\0\0\1\x65picture"
    assert video.n_version_bytes(video.PEERS["x264-medium"], stream) == 3 + 1 + len(b"version")
    assert video.n_version_bytes(video.PEERS["svtav1-p6"], stream) == 0


def test_sheet(clip: Path, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = tmp_path / "sheet.png"
    options = ["--frames", "4", "--crop", "0,0,40,30", "--model", str(tiny_model_dir), "-o", str(sheet)]
    monkeypatch.setattr(sys, "argv", ["video_sheet.py", str(clip), *options])
    video_sheet.main()
    gap = video_sheet.GAP_PX
    with Image.open(sheet) as image:
        assert image.size == (4 * 40 + 3 * gap, 4 * 30 + 3 * gap)
