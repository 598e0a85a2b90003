"""`benchmarks/speed.py`, `batch.py` and `training_speed.py` with the tiny model; `backends.py` with the shipped one."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import backends, batch, products, speed, training_speed
from ulcodec.bench.pictures import Picture


def test_training_speed_report(tmp_path: Path) -> None:
    output = tmp_path / "training-speed.json"
    size = ["--config", "tiny", "--crop", "64", "--steps", "2", "--threads", "1", "--device", "cpu"]
    augmentation = ["--reduction", "1.5", "--turns"]
    training_speed.main([*size, *augmentation, "--batch-sizes", "2", "4", "-o", str(output)])
    report = json.loads(output.read_text())
    assert [row["batch"] for row in report["rows"]] == [2, 4]
    for row in report["rows"]:
        assert row["gradients_ms"] > 0
        assert row["crops_ms"] > 0
        assert row["renewal_ms"] > 0
        assert row["crops_per_s"] == pytest.approx(1000 * row["batch"] / row["step_ms"], rel=0.01)
        assert row["tflop_per_s"] == pytest.approx(row["crops_per_s"] * report["gflop_per_crop"] / 1000, rel=0.02)
    with pytest.raises(SystemExit, match="unknown configuration"):
        training_speed.main(["--config", "none"])


def test_speed_report(
    odd_pictures_dir: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(products, "LIMITS", {"none": {}})
    monkeypatch.setattr(products, "THREADS", (1,))
    output = tmp_path / "speed.json"
    size = ["--width", "64", "--height", "48", "--runs", "3"]
    speed.main(
        ["--images", str(odd_pictures_dir), "--model", str(tiny_model_dir), *size, "--products", "-o", str(output)]
    )
    report = json.loads(output.read_text())
    rows = {row["stage"]: row for row in report["stages"]}
    assert {stage.partition(":")[0] for stage in rows} == {"encode", "decode"}
    assert len(rows) == 9
    assert all(0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"] for row in rows.values())
    assert report["picture"]["n_runs"] == 3
    assert (report["picture"]["width"], report["picture"]["height"]) == (64, 48)
    assert report["cold_starts"] == []
    [row] = report["products"]
    assert (row["limit"], row["threads"]) == ("none", 1)
    assert row["prior_ms"][row["chosen"]] > 0
    assert all(row["prior_ms"][name] > 0 for name in ("float32", "float64", "int64"))
    assert "chosen" in capsys.readouterr().out


def test_cold_starts_time_every_command(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "COLD_RUNS", 1)
    picture = Picture("grey", np.full((16, 16, 3), 128, np.uint8))
    rows = speed.time_cold_starts(picture, 50, str(tiny_model_dir), 1)
    commands = {row["stage"].removeprefix("ulcodec ") for row in rows}
    assert commands == {"encode", "decode", "info", "verify", "--help", "encode, output exists"}
    with pytest.raises(SystemExit, match="no such directory"):
        speed.run_command(["encode", "a.png", "-o", "none/a.ulc"], 0, 1)


def test_batch_report(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "SIDES_PX", (16, 40))
    output = tmp_path / "batch.json"
    batch.main(["--model", str(tiny_model_dir), "--pictures", "5", "-o", str(output)])
    report = json.loads(output.read_text())
    assert [row["side_px"] for row in report["rows"]] == [16, 40]
    assert all(row[name] > 0 for row in report["rows"] for name in row if name.endswith("_ms"))
    assert all(row["n_equal_files"] == 5 for row in report["rows"])


def test_backends_table(odd_pictures_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    monkeypatch.setattr(backends, "ROWS", backends.ROWS[:3:2])
    output = tmp_path / "table.md"
    sizes = ["--images", str(odd_pictures_dir), "--sizes", "48x32"]
    backends.main([*sizes, "--rounds", "1", "--runs", "1", "--markdown", str(output)])
    [header, _, *rows] = [line.strip("| ").split(" | ") for line in output.read_text().splitlines()]
    assert header == ["picture", "backend", "threads", *backends.COLUMNS.values()]
    assert [row[:3] for row in rows] == [["48x32", name, "1"] for name in ("torch", "onnxruntime")]
    assert all(float(figure) > 0 for row in rows for figure in row[3:])
    with pytest.raises(SystemExit, match="exit code 2"):
        backends.run(["decode", tmp_path / "none.ulc"], {})


def test_invalid_arguments_are_one_line_errors(odd_pictures_dir: Path, tmp_path: Path) -> None:
    for folder, model in ((tmp_path, "small"), (tmp_path / "none", "small"), (odd_pictures_dir, str(tmp_path))):
        with pytest.raises(SystemExit) as caught:
            speed.main(["--images", str(folder), "--model", model])
        assert str(caught.value).startswith("error: ")
        assert "\n" not in str(caught.value)
