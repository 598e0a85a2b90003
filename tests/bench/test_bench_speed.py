"""Speed measurements of `ulcodec bench`."""

import json
from pathlib import Path

import numpy as np
import pytest

from ulcodec.bench import speed
from ulcodec.bench.peers import PEERS
from ulcodec.bench.pictures import Picture
from ulcodec.errors import BenchmarkError


def test_report_has_speeds_of_every_codec_and_size(report: Path) -> None:
    results = json.loads((report / "results.json").read_text())
    rows = results["speed"]
    sizes = [(128, 80), (160, 112)]
    assert [(row["codec"], row["width"], row["height"]) for row in rows] == [
        (codec, *size) for size in sizes for codec in ("ulcodec", "jpeg", "webp")
    ]
    for row in rows:
        for operation in ("encode", "decode"):
            assert 0 < row[f"{operation}_wall_ms"] < row[f"{operation}_first_ms"]
            assert row[f"{operation}_cpu_ms"] > 0
            assert 1 <= row[f"{operation}_n_runs"] <= speed.RUNS
            assert row[f"{operation}_peak_mib"] > 10
        assert row["file_bytes"] > 0
    kmac_per_px = {row["part"]: row["kmac_per_px"] for row in results["complexity"]["parts"]}
    coding = {part: kmac for part, kmac in kmac_per_px.items() if not part.startswith(("decoder", "denoiser"))}
    assert results["complexity"]["kmac_per_px"] == {
        "encode": pytest.approx(sum(coding.values()), abs=1e-3),
        "decode": pytest.approx(
            kmac_per_px["hyper-decoder"] + kmac_per_px["prior"] + kmac_per_px["decoder trunk"], abs=1e-3
        ),
    }


def test_sizes_that_take_too_long_are_skipped(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_task(task: speed.Task) -> dict[str, float]:
        if task.codec == "jpeg":
            raise BenchmarkError("no memory")
        Path(task.file).write_bytes(b"file")
        return {"wall_ms": 100.0}

    monkeypatch.setattr(speed, "run_task", run_task)
    monkeypatch.setattr(speed, "LONGEST_S", 0.3)
    codecs = [(PEERS["webp"], 50.0), (PEERS["jpeg"], 50.0)]
    rows = speed.measure_speed(codecs, Picture("a", picture), [0.1, 0.2, 0.4], "tiny", "cpu", 1, lambda: None)
    skipped = [(row["codec"], row.get("left_out")) for row in rows]
    assert skipped[0] == skipped[2] == ("webp", None)
    assert skipped[4] == ("webp", "would take 0.4 s")
    assert skipped[1] == ("jpeg", "no memory")
    assert skipped[3] == ("jpeg", "failed on a smaller picture")


def test_failure_in_a_process_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "picture.npy", np.zeros((16, 16, 3), np.uint8))
    task = speed.Task("jpeg", "decode", 50, str(tmp_path / "picture.npy"), str(tmp_path / "none"), "tiny", "cpu", 1, 1)
    with pytest.raises(BenchmarkError, match="No such file"):
        speed.run_task(task)
