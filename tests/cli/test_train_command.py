"""`ulcodec train`: dry runs and refused exports."""

import json
from pathlib import Path

import numpy as np
from command_line import Run, assert_refused, file_names
from PIL import Image


def test_dry_run_prints_settings_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("train", "stage1", "--data", tmp_path, "--config", "tiny", "--out", out)
    finished = run(*arguments, "--minutes", "0.5", "--crop", 64, "--dry-run")
    settings = json.loads(finished.stdout)["stage1"]
    assert (settings["minutes"], settings["crop_px"], settings["config"], settings["seed"]) == (0.5, 64, "tiny", 0)
    assert not out.exists()
    assert_refused(run(*arguments), "minutes")
    assert_refused(run(*arguments, "--images", 1, "--config", "none"), "none")
    assert not out.exists()


def test_export_refuses_missing_runs_and_other_folders(run: Run, tmp_path: Path) -> None:
    assert_refused(run("train", "export", tmp_path, "-o", tmp_path), "another directory")
    assert_refused(run("train", "export", tmp_path, "-o", tmp_path / "model"), "no checkpoint")
    assert not file_names(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    for options in ([], ["--force"]):
        export = ("train", "export", tmp_path / "run", *options, "-o")
        assert_refused(run(*export, tmp_path / "photos"), "no model directory")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a.txt", "photos", "run"]


def test_settings_of_video_are_printed_or_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    arguments = ("train", "video", "--data", tmp_path, "--out", tmp_path / "run", "--minutes", 1)
    settings = json.loads(run(*arguments, "--hyper-channels", 8, "--dry-run").stdout)
    assert (settings["model"], settings["views"], settings["hyper_channels"]) == ("small", 10, 8)
    assert_refused(run(*arguments, "--prior-width", 20), "the width of the prior must be a multiple of 8, got 20")
    assert_refused(run(*arguments, "--prior-blocks", "1,x"), "the prior's blocks must be numbers")
    assert_refused(run(*arguments, "--views", 65), "the number of views must be a whole number from 1 to 64")
    assert_refused(run(*arguments), "found clips of 0 scenes")


def test_shards_are_built_and_refused_in_one_line(run: Run, picture: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(tmp_path / "photos" / name)
    shards = ("train", "shards", tmp_path / "photos", "--out", tmp_path / "shards", "--shortest-side", 64)
    assert (
        run(*shards).stdout
        == f"{tmp_path / 'shards'}: pictures added: 1, shards added: 1; left out: 1 near-duplicate\n"
    )
    assert run(*shards).stdout == f"{tmp_path / 'shards'}: pictures added: 0, shards added: 0\n"
    (tmp_path / "shards" / "photos-00000.csv").write_text("")
    assert_refused(run(*shards, "--quality", 200), "the quality must be a whole number from 0 to 100, got 200")
    assert_refused(run("train", "shards", tmp_path / "none", "--out", tmp_path / "new"), "is not a folder")
    (tmp_path / "file").write_text("")
    assert_refused(run(*shards[:3], "--out", tmp_path / "file"), "file")
    assert_refused(run(*shards), "the file is empty")
