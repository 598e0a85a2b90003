"""`benchmarks/trade_off.py` and `recipe.py` with short runs."""

import json
from pathlib import Path

import pytest

from benchmarks import recipe, trade_off


def test_trade_off_report(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trade_off, "SETTINGS", ((1.3, 0.0), (2.1, 0.0), (1.5, -2.0)))
    for name, value in {"TRAINING_CROP_PX": 64, "CROP_PX": 64, "STEPS": 4}.items():
        monkeypatch.setattr(trade_off, name, value)
    report, figure = tmp_path / "trade_off.json", tmp_path / "trade_off.svg"
    options = ["--images", "32", "-o", str(report), "--figure", str(figure)]
    trade_off.main(["--data", str(photographs), *options])
    written = json.loads(report.read_text())
    assert [(row["loss_factor"], row["bias"]) for row in written["rows"]] == list(trade_off.SETTINGS)
    assert all(row["bound_bpp"] > 0 for row in written["rows"])
    assert all(row["estimate_psnr_db"] > row["sample_psnr_db"] > 10 for row in written["rows"])
    assert "ImageNet-512" in figure.read_text()


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
