"""`benchmarks/effort.py`, `progressive.py`, `perception.py` and `datasets.py` with small models."""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import datasets, effort, perception
from ulcodec.codec.image import Codec


def test_effort_report(odd_pictures_dir: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    report = tmp_path / "effort.json"
    effort.main(
        ["--images", str(odd_pictures_dir), "--model", str(tiny_model_dir), "--efforts", "1", "3", "-o", str(report)]
    )
    first, third = json.loads(report.read_text())["rows"]
    assert (first["effort"], first["n_steps"], third["n_steps"]) == (1, 0, 2)
    assert third["bits_percent"] < first["bits_percent"], "an untrained model gains much"
    assert third["median_encode_ms"] > 0


def test_progressive_report(picture: np.ndarray, tiny_codec: Codec, tmp_path: Path) -> None:
    """Longer prefixes of a file give a better picture for all three codecs, and the whole file gives the best one."""
    progressive = pytest.importorskip("benchmarks.progressive", reason="imagecodecs is not installed")
    curves = progressive.psnr_of_fronts(tiny_codec, picture, 90)
    for name, values in curves.items():
        psnr_db = [value for value in values if value is not None]
        assert psnr_db[-1] == max(psnr_db), name
        assert psnr_db[0] < psnr_db[-1] - 1, name
        assert None not in values[-3:], name
    fractions, report = progressive.FRACTIONS, tmp_path / "figure.svg"
    progressive.draw({"fractions": fractions, "psnr_db": curves}, report)
    assert "JPEG XL" in report.read_text()


def test_perception_report(picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Realism needs a trained denoiser, so the test uses the shipped model."""
    (tmp_path / "pictures").mkdir()
    for index in range(2):
        Image.fromarray(np.roll(picture, 20 * index, axis=1)).save(tmp_path / "pictures" / f"{index}.png")
    report, figure = tmp_path / "perception.json", tmp_path / "perception.svg"
    options = ["--rates", "1", "--steps", "2", "--critic-steps", "2", "-o", str(report), "--figure", str(figure)]
    perception.main([str(tmp_path / "pictures"), *options])
    written = json.loads(report.read_text())
    ulcodec_rows = [row for row in written["rows"] if row["codec"] == "ulcodec"]
    assert [row["realism"] for row in ulcodec_rows] == list(perception.SHARES)
    assert all(0.7 < row["bpp"] <= 1 for row in ulcodec_rows)
    psnr_db = [row["psnr_db"] for row in ulcodec_rows]
    assert psnr_db == sorted(psnr_db, reverse=True)
    assert all(0 <= row["critic_accuracy"] <= 1 for row in written["rows"])
    assert "webp" in {row["codec"] for row in written["rows"]}
    assert "PSNR" in figure.read_text()
    assert "critic" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # WebDataset leaves shards open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_datasets_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model, since realism needs a trained denoiser."""
    monkeypatch.setattr(datasets, "RUNS", 1)
    monkeypatch.setattr(datasets, "SPEED_SIDES_PX", (64,))
    report = tmp_path / "datasets.json"
    options = ["--jpeg-qualities", "75", "--qualities", "50", "--realisms", "0", "1", "--seeds", "2", "--epochs", "2"]
    datasets.main([*options, "--pictures", "8", "-o", str(report)])
    gc.collect()
    written = json.loads(report.read_text())
    original, jpeg, smooth, sampled = written["accuracy"]
    assert (original["format"], original["psnr_db"]) == ("original", None)
    assert smooth["bytes_per_picture"] == sampled["bytes_per_picture"] < jpeg["bytes_per_picture"]
    assert jpeg["psnr_db"] > smooth["psnr_db"] > sampled["psnr_db"] > 25
    assert all(0 < row["accuracy_percent"] < 100 for row in written["accuracy"])
    assert [row["side_px"] for row in written["loading"]] == [64] * 5
    assert all(row["pictures_per_s"] > 0 for row in written["loading"])
