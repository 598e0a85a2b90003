"""Runs of `ulcodec bench`: continued, in several processes, beside an earlier report, and refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_reports import bench, rows_of
from typer.testing import CliRunner

from ulcodec.bench import run as bench_run
from ulcodec.bench.peers import PEERS
from ulcodec.bench.run import level_of_size
from ulcodec_cli.main import app


def test_curves_are_taken_from_an_earlier_report(
    report: Path, pictures_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    bench(
        pictures_dir,
        tiny_model_dir,
        tmp_path / "new",
        "--codecs",
        "jpeg",
        "--others-from",
        str(report / "results.json"),
    )
    earlier, new = (json.loads((path / "results.json").read_text()) for path in (report, tmp_path / "new"))
    assert {row["codec"] for row in rows_of(tmp_path / "new")} == {"ulcodec", "jpeg"}
    assert [codec["key"] for codec in new["codecs"]] == ["ulcodec", "jpeg", "webp"]
    assert new["codecs"][2] == {"measured": earlier["run"]["date"], **earlier["codecs"][2]}
    assert new["curves"]["webp"] == earlier["curves"]["webp"]
    assert new["bd_rates"] == earlier["bd_rates"]
    assert f"Measured {earlier['run']['date']}: WebP, method 6." in (tmp_path / "new" / "tables.md").read_text()
    options = [
        "bench",
        str(pictures_dir),
        "--limit",
        "1",
        "--codecs",
        "jpeg",
        "--model",
        str(tiny_model_dir),
        "--quick",
    ]
    options += ["--viewer", "0", "--sizes", "", "-o", str(tmp_path / "one")]
    for path, message in (
        (report / "results.json", "is of 2 pictures"),
        (report / "index.html", "not a results.json"),
    ):
        finished = CliRunner().invoke(app, [*options, "--others-from", str(path)])
        assert (finished.exit_code, message in finished.stderr) == (2, True)


def test_stopped_run_resumes(
    report: Path, pictures_dir: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (report / "measurements.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    del first["lpips"]  # as written by an older version
    complete = [json.dumps(first), *lines[1:-3]]
    (tmp_path / "measurements.jsonl").write_text("\n".join(complete) + "\n" + lines[-3][:40])
    measured_jobs = []
    measure = bench_run.measure
    monkeypatch.setattr(bench_run, "measure", lambda job: measured_jobs.append(job) or measure(job))
    bench(pictures_dir, tiny_model_dir, tmp_path, "--viewer", "0")
    assert len(measured_jobs) == 3
    keys = ("codec", "picture", "level", "file_bytes", "psnr_db")
    rows, expected = ([[row[key] for key in keys] for row in rows_of(path)] for path in (tmp_path, report))
    assert rows == expected


def test_two_processes_measure_the_same(report: Path, pictures_dir: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    bench(pictures_dir, tiny_model_dir, tmp_path, "--viewer", "0", "--jobs", "2")
    keys = ("codec", "picture", "level", "file_bytes")
    rows, expected = ([[row[key] for key in keys] for row in rows_of(path)] for path in (tmp_path, report))
    assert rows == expected


def test_level_of_size_gives_the_file_size(picture: np.ndarray) -> None:
    peer = PEERS["jpeg"]
    for level in (1, 40, 99):
        n_bytes = len(peer.encode(picture, level))
        assert len(peer.encode(picture, level_of_size(peer, picture, n_bytes))) == n_bytes


def test_level_of_size_starts_from_known_sizes(picture: np.ndarray) -> None:
    tried_levels = []
    sizes = {level: 100.0 * level**2 for level in range(1, 101)}
    peer = replace(PEERS["jpeg"], levels=(1, 20, 40, 60, 100))
    counting = replace(peer, encode=lambda pixels, level: tried_levels.append(level) or b"." * int(sizes[int(level)]))
    known_sizes = {float(level): int(sizes[level]) for level in peer.levels}
    assert level_of_size(counting, picture, int(sizes[47]), known_sizes) == 47
    assert len(tried_levels) <= 5
    assert all(40 < level < 60 for level in tried_levels)


@pytest.mark.parametrize(
    "options",
    [
        ["--codecs", "jpeg,gif"],
        ["--rates", "0.1,x"],
        ["--rates", "-1"],
        ["--jobs", "0"],
        ["--sizes", "0"],
        ["--sizes", "x"],
    ],
)
def test_invalid_options_are_refused(pictures_dir: Path, tmp_path: Path, options: list[str]) -> None:
    assert CliRunner().invoke(app, ["bench", str(pictures_dir), "-o", str(tmp_path), *options]).exit_code == 2


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"a": {"bpp": [1]}}'])
def test_invalid_anchors_are_refused(pictures_dir: Path, tmp_path: Path, text: str) -> None:
    anchors = tmp_path / "anchors.json"
    anchors.write_text(text)
    options = ["--anchors", str(anchors), "-o", str(tmp_path / "report")]
    finished = CliRunner().invoke(app, ["bench", str(pictures_dir), *options])
    assert (finished.exit_code, "not a JSON of rate-distortion curves" in finished.stderr) == (2, True)
    assert not (tmp_path / "report").exists()


def test_missing_sample_pictures_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "skimage"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skimage", None)
    finished = CliRunner().invoke(app, ["bench", "-o", str(tmp_path)])
    assert (finished.exit_code, "come with scikit-image" in finished.stderr) == (2, True)


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    finished = CliRunner().invoke(app, ["bench", str(tmp_path), "-o", str(tmp_path / "report")])
    assert (finished.exit_code, "no pictures in" in finished.stderr) == (2, True)
