"""`benchmarks/trade_off.py` and `recipe.py` with short runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from clip_files import moving_frames, write_clip

from benchmarks import recipe, trade_off


def test_trade_off_report(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trade_off, "SETTINGS", ((1.3, 0.0), (2.1, 0.0), (1.5, -2.0)))
    for sides in (trade_off.TRAINING_CROP_PX, trade_off.CROP_PX):
        monkeypatch.setitem(sides, "tiny", 64)
    monkeypatch.setattr(trade_off, "STEPS", 4)
    report, figure = tmp_path / "trade_off.json", tmp_path / "trade_off.svg"
    options = ["--images", "32", "-o", str(report), "--figure", str(figure)]
    trade_off.main(["--data", str(photographs), *options])
    written = json.loads(report.read_text())
    assert [(row["loss_factor"], row["bias"]) for row in written["rows"]] == list(trade_off.SETTINGS)
    assert all(row["bound_bpp"] > 0 for row in written["rows"])
    assert all(row["estimate_psnr_db"] > row["sample_psnr_db"] > 10 for row in written["rows"])
    assert "ImageNet-512" in figure.read_text()


def test_trade_off_report_of_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trade_off, "SETTINGS", ((1.5, 0.0), (1.5, 3.0)))
    monkeypatch.setattr(trade_off, "STEPS", 4)
    for name, value in {"resize_px": 64, "n_frames": 4, "validation_share": 0.5}.items():
        monkeypatch.setitem(trade_off.OF_CLIPS, name, value)
    report = tmp_path / "trade_off.json"
    clips = tmp_path / "clips"
    clips.mkdir()
    for number, name in enumerate(("a", "b-0", "b-1", "c")):
        picture = np.random.default_rng(number).integers(0, 256, (24, 32, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        write_clip(clips / f"{name}.mkv", moving_frames(picture, 4, 80, 72))
    trade_off.main(["--config", "tiny-video", "--data", str(clips), "--images", "32", "-o", str(report)])
    written = json.loads(report.read_text())
    assert written["n_pictures"] == 2, "every second scene is held out"
    for row in written["rows"]:
        assert row["bound_bpp"] > 0
        assert row["estimate_difference_psnr_db"] > row["sample_difference_psnr_db"] > 5
        assert len(row["sample_sliced_wasserstein"]) == 3
    assert "of differences" in capsys.readouterr().out


def test_recipe_report(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("as it is", "reveal: every 16th channel, doubling", "twice the learning rate", "no continuous bound",
             "SOAP", "depthwise blocks", "blocks of two 3x3 kernels", "no hyper-latent",
             "reveal: five steps, 1/8 1/8 1/8 1/8 1/2", "errors of luma, Cb, Cr by 6 : 1 : 1",
             "losses over the Lagrangian's power 0.75", "crops of 256 while the rate falls")  # fmt: skip
    monkeypatch.setattr(recipe, "CROP_PX", 64)
    monkeypatch.setattr(recipe, "MIN_SIDE_PX", 64)
    recipe.main(["--data", str(photographs), "--images", "96", "-o", str(tmp_path / "recipe.json"), "--only", *names])
    rows = json.loads((tmp_path / "recipe.json").read_text())["rows"]
    assert [row["trial"] for row in rows] == list(names)
    assert rows[0]["bits_percent"] == 0
    assert all(row["bits_percent"] != 0 for row in rows[1:]), "every trial must train another model"
    assert all(row["bpp"] == sorted(row["bpp"]) for row in rows)
