"""The report of `ulcodec bench`: its rows, means and bounds, and the check against an earlier report."""

import json
from pathlib import Path

import numpy as np
import pytest
from bench_reports import rows_of
from PIL import Image

from benchmarks.check import failures
from ulcodec.bench.peers import PEERS
from ulcodec.codec.image import Codec
from ulcodec.metrics import psnr_db


def test_rows_match_encoded_files(report: Path, pictures_dir: Path) -> None:
    rows = rows_of(report)
    assert {row["codec"] for row in rows} == {"ulcodec", "jpeg", "webp"}
    pixels = np.asarray(Image.open(pictures_dir / "a.png"))
    for row in rows:
        if row["codec"] == "jpeg" and row["picture"] == "a.png":
            data = PEERS["jpeg"].encode(pixels, float(row["level"]))
            assert int(row["file_bytes"]) == len(data)
            assert float(row["psnr_db"]) == pytest.approx(psnr_db(pixels, PEERS["jpeg"].decode(data, pixels.shape)))
            assert 0 < float(row["ms_ssim"]) < 1


def test_results_hold_means_and_bd_rates(report: Path) -> None:
    results = json.loads((report / "results.json").read_text())
    rows = [row for row in rows_of(report) if row["codec"] == "webp"]
    point = results["curves"]["webp"][0]
    at_level = [row for row in rows if float(row["level"]) == point["level"]]
    assert len(at_level) == results["n_pictures"] == 2
    assert point["bpp"] == pytest.approx(np.mean([float(row["bpp"]) for row in at_level]), abs=1e-5)
    mean_mse = np.mean([float(row["mse"]) for row in at_level])
    assert point["psnr_of_mean_mse_db"] == pytest.approx(10 * np.log10(255**2 / mean_mse), abs=1e-5)
    assert {row["anchor"] for row in results["bd_rates"]} == {"JPEG 4:2:0", "WebP, method 6"}
    assert "viewer" not in results


def test_bounds_match_the_described_files(report: Path, pictures_dir: Path, tiny_codec: Codec) -> None:
    results = json.loads((report / "results.json").read_text())
    rows = [row for row in rows_of(report) if row["codec"] == "ulcodec"]
    for row in rows:
        data = tiny_codec.encode(pictures_dir / row["picture"], quality=int(float(row["level"])))
        description = tiny_codec.describe(data)
        assert float(row["bound_bits"]) == pytest.approx(description["bound_bits"], rel=1e-4)
        assert int(row["file_bytes"]) == len(data)
    for bound in results["bounds"]:
        at_level = [row for row in rows if float(row["level"]) == bound["quality"]]
        excess = [int(row["file_bytes"]) - 1.01 * float(row["bound_bits"]) / 8 - 24 for row in at_level]
        assert (bound["n_files"], bound["n_within"]) == (2, sum(x <= 0 for x in excess))
        assert bound["worst_excess_bytes"] == pytest.approx(max(excess), abs=1e-4)
        assert bound["bound_bpp"] == pytest.approx(
            np.mean([float(r["bound_bits"]) / 184 / 200 for r in at_level]), 1e-4
        )
        assert bound["continuous_bound_bpp"] > 0
    assert all(row["bound_bits"] == "" for row in rows_of(report) if row["codec"] == "jpeg")


def test_check_detects_larger_and_slower_results(report: Path) -> None:
    """The check uses the curve of JPEG, because the curve of a model with seeded weights may not rise."""
    results = json.loads((report / "results.json").read_text())
    results["curves"]["ulcodec"] = results["curves"]["jpeg"]
    assert failures(results, results) == []
    larger, slower = (json.loads(json.dumps(results)) for _ in range(2))
    for point in larger["curves"]["ulcodec"]:
        point["bpp"] *= 1.02
    assert "BD-rate" in failures(larger, results)[0]
    assert failures(results, larger) == []
    slower["speed"][0]["decode_cpu_ms"] *= 2
    [failure] = failures(slower, results)
    assert failure == "decode_cpu_ms, beside webp's: 2.00 times what it was"
