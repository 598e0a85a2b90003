import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import rate_distortion, speed
from benchmarks.rate_distortion import closest_quality, peer_curve
from benchmarks.report import markdown_table, text_table, to_json
from ulcodec.bench.curves import Curve, bd_rows, increasing, psnr_at
from ulcodec.bench.machine import without_folder
from ulcodec.bench.peers import PEERS
from ulcodec.bench.pictures import Picture, find_pictures, fitted
from ulcodec.codec import Codec
from ulcodec.images import load_image
from ulcodec.metrics import psnr_db

QUALITIES = [20, 80]


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a textured RGB picture and a grey one, both with odd sides."""
    folder = tmp_path_factory.mktemp("photos")
    texture = np.random.default_rng(0).integers(0, 60, (37, 51, 3))
    ramp = np.add.outer(np.arange(37) * 3, np.arange(51))[:, :, None]
    Image.fromarray((texture + ramp).astype(np.uint8)).save(folder / "colour.png")
    Image.fromarray((texture + ramp)[:, :33, 0].astype(np.uint8)).save(folder / "grey.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def report(photos: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report on both pictures at two qualities, as written."""
    folder = tmp_path_factory.mktemp("report")
    anchors = folder / "anchors.json"
    anchors.write_text(json.dumps({"far away": {"bpp": [1, 2], "psnr_db": [90, 95], "source": "a test"}}))
    output, markdown = folder / "new" / "report.json", folder / "report.md"
    inputs = ["--images", str(photos), "--model", str(tiny_model_dir), "--anchors", str(anchors)]
    outputs = ["-o", str(output), "--markdown", str(markdown)]
    rate_distortion.main([*inputs, "--qualities", ",".join(map(str, QUALITIES)), *outputs])
    assert markdown.read_text().startswith("| quality | bpp |")
    loaded: dict[str, Any] = json.loads(output.read_text())
    return loaded


def test_rates_are_those_of_files(report: dict[str, Any], photos: Path, tiny_codec: Codec) -> None:
    rows = [(quality, name) for quality in QUALITIES for name in ("colour.png", "grey.png")]
    assert [(row["quality"], row["picture"]) for row in report["files"]] == rows
    for row in report["files"]:
        pixels = load_image(photos / row["picture"]).pixels
        file = tiny_codec.encode(pixels, quality=row["quality"])
        bound_bits = tiny_codec.describe(file)["bound_bits"]
        assert (row["height"], row["width"]) == pixels.shape[:2]
        assert row["file_bytes"] == len(file)
        assert row["bpp"] == pytest.approx(8 * len(file) / (pixels.shape[0] * pixels.shape[1]), abs=1e-5)
        assert row["psnr_db"] == pytest.approx(psnr_db(pixels, tiny_codec.decode_array(file)), abs=1e-5)
        assert row["bound_bits"] == pytest.approx(bound_bits, abs=1e-5)
        assert row["overhead_bytes"] == pytest.approx(len(file) - bound_bits / 8, abs=1e-4)
        assert row["excess_bytes"] == pytest.approx(len(file) - 1.01 * bound_bits / 8 - 24, abs=1e-4)


def test_means_and_counts_follow_from_the_files(report: dict[str, Any]) -> None:
    for quality, row in zip(QUALITIES, report["qualities"], strict=True):
        files = [file for file in report["files"] if file["quality"] == quality]
        assert row["quality"] == quality
        assert row["n_pictures"] == len(files) == 2
        assert row["bpp"] == pytest.approx(fmean(file["bpp"] for file in files), abs=2e-5)
        assert row["psnr_db"] == pytest.approx(fmean(file["psnr_db"] for file in files), abs=2e-5)
        assert row["n_within_bound"] == sum(file["excess_bytes"] <= 0 for file in files)
        assert row["worst_excess_bytes"] == max(file["excess_bytes"] for file in files)
    worst = max(report["files"], key=lambda file: file["excess_bytes"])
    assert report["bound"] == {
        "n_files": 4,
        "n_within_bound": sum(file["excess_bytes"] <= 0 for file in report["files"]),
        "worst_excess_bytes": worst["excess_bytes"],
        "worst_picture": worst["picture"],
        "worst_quality": worst["quality"],
    }


def test_report_names_its_origin(report: dict[str, Any], tiny_codec: Codec) -> None:
    run = report["run"]
    assert run["model_fingerprint"] == tiny_codec.fingerprint
    assert run["command"].startswith("python -m benchmarks.rate_distortion --images photos")
    assert "/" not in run["command"]
    assert run["cpu"]
    assert run["n_cores"] >= 1


def test_curves_without_common_psnr_have_no_bd_rate(report: dict[str, Any]) -> None:
    [row] = [row for row in report["bd_rates"] if row["anchor"] == "far away"]
    assert row == {"anchor": "far away", "bd_rate_percent": None, "low_db": None, "high_db": None}


def test_bd_rates_are_sorted_and_name_the_shared_range() -> None:
    curve = Curve([0.1, 0.3, 0.9], [26.0, 30.0, 35.0])
    anchors = {
        "half": Curve([bpp / 2 for bpp in curve.bpp], curve.psnr_db),
        "far": Curve([1.0, 2.0], [50.0, 60.0]),
        "double": Curve([0.2, 0.6, 1.8, 9.0], [26.0, 30.0, 35.0, 40.0]),
    }
    rows = bd_rows(anchors, curve)
    assert [row["anchor"] for row in rows] == ["double", "half", "far"]
    assert rows[1]["bd_rate_percent"] == pytest.approx(100)
    assert (rows[0]["low_db"], rows[0]["high_db"]) == (26.0, 35.0)


@pytest.mark.parametrize(
    ("target_bpp", "quality"), [(0.0, 0), (0.1, 0), (0.5044, 40), (0.506, 41), (1.1, 100), (9.0, 100)]
)
def test_target_search_finds_the_closest_quality(target_bpp: float, quality: int) -> None:
    asked = set()

    def mean_bpp(quality: int) -> float:
        asked.add(quality)
        return 0.1 + quality / 100

    assert closest_quality(mean_bpp, target_bpp) == quality
    assert len(asked) <= 9


def test_targets_are_measured_beside_the_qualities(photos: Path, tiny_codec: Codec) -> None:
    tables = rate_distortion.evaluate(tiny_codec, find_pictures(photos), [50], [1e-9, 1e9], {})
    low, high = tables["targets"]
    assert (low["target_bpp"], low["quality"]) == (1e-9, 0)
    assert high["quality"] > 90  # the rate of fresh weights need not grow at every step
    assert [row["quality"] for row in tables["qualities"]] == [0, 50, high["quality"]]


def test_jpeg_is_interpolated_within_its_range_only(photos: Path) -> None:
    curve = peer_curve(PEERS["jpeg"], find_pictures(photos))
    middle = len(curve.bpp) // 2
    assert psnr_at(curve, curve.bpp[middle]) == pytest.approx(curve.psnr_db[middle])
    between = psnr_at(curve, math.sqrt(curve.bpp[middle] * curve.bpp[middle + 1]))
    assert between is not None
    assert curve.psnr_db[middle] < between < curve.psnr_db[middle + 1]
    assert psnr_at(curve, curve.bpp[0] / 2) is None
    assert psnr_at(curve, curve.bpp[-1] * 2) is None


def test_curves_leave_out_points_that_are_worse_or_infinite() -> None:
    points = [(0.5, 30.0), (0.2, 25.0), (0.6, 29.0), (0.2, 24.0), (0.9, math.inf), (0.8, 33.0)]
    assert increasing(points) == Curve([0.2, 0.5, 0.8], [25.0, 30.0, 33.0])


def test_speed_report(photos: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "speed.json"
    size = ["--width", "64", "--height", "48", "--runs", "3"]
    speed.main(["--images", str(photos), "--model", str(tiny_model_dir), *size, "--products", "-o", str(output)])
    report = json.loads(output.read_text())
    rows = {row["stage"]: row for row in report["stages"]}
    assert {stage.partition(":")[0] for stage in rows} == {"encode", "decode"}
    assert len(rows) == 8
    assert all(0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"] for row in rows.values())
    assert report["picture"]["n_runs"] == 3
    assert (report["picture"]["width"], report["picture"]["height"]) == (64, 48)
    assert report["cold_starts"] == []
    assert len(report["products"]) >= 2
    assert all(row["min_ms"] > 0 for row in report["products"])


def test_pictures_of_a_folder_and_samples(photos: Path, tmp_path: Path) -> None:
    assert [(picture.name, picture.width, picture.height) for picture in find_pictures(photos)] == [
        ("colour.png", 51, 37),
        ("grey.png", 33, 37),
    ]
    assert len(find_pictures(photos, limit=1)) == 1
    assert [(picture.width, picture.height) for picture in find_pictures(None)] == [(512, 512), (600, 400), (451, 300)]
    with pytest.raises(FileNotFoundError, match="no pictures"):
        find_pictures(tmp_path)


@pytest.mark.parametrize("shape", [(40, 30, 3), (10, 90), (64, 48, 3), (8, 6, 3)])
def test_fitted_pictures_have_the_size_and_the_centre(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    result = fitted(Picture("noise", pixels), 48, 64)
    assert (result.width, result.height) == (48, 64)
    assert result.pixels.shape[2:] == shape[2:]
    assert np.array_equal(result.pixels[32, 24], pixels[shape[0] // 2, shape[1] // 2])


def test_wrong_arguments_are_one_line(photos: Path, tmp_path: Path) -> None:
    for folder, model in ((tmp_path, "small"), (tmp_path / "none", "small"), (photos, str(tmp_path))):
        for benchmark in (rate_distortion, speed):
            with pytest.raises(SystemExit) as exit_:
                benchmark.main(["--images", str(folder), "--model", model])
            assert str(exit_.value).startswith("error: ")
            assert "\n" not in str(exit_.value)


def test_paths_in_commands_lose_their_folders() -> None:
    given = ["--images=/data/kodak", "/data/model", "relative/path", "-o", "0.1,0.2"]
    assert list(map(without_folder, given)) == ["--images=kodak", "model", "relative/path", "-o", "0.1,0.2"]


def test_tables_have_a_line_for_every_row() -> None:
    table = {"run": {"a": 1.23456789}, "rows": [{"x": 0.1}, {"x": None}]}
    written = to_json(table)
    assert json.loads(written) == {"run": {"a": 1.23457}, "rows": [{"x": 0.1}, {"x": None}]}
    assert '\n  {"x": 0.1},\n  {"x": null}\n' in written
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| :--- | ---: |\n| 1 | 2 |"
    assert text_table(["name", "n"], [["a", "10"]]) == "name   n\na     10"
