"""Results and errors with `--json`."""

import json
from pathlib import Path

import pytest
from command_line import Run

import ulcodec


def test_json_holds_sizes_paths_and_fingerprint(photo: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    coded, decoded = tmp_path / "a.ulc", tmp_path / "a.png"
    encoding = run("encode", photo, "-o", coded, "--model", tiny_model_dir, "--json").json
    file_bytes = coded.stat().st_size
    assert encoding["file_bytes"] == file_bytes
    assert encoding["bits_per_pixel"] == pytest.approx(8 * file_bytes / (51 * 37))
    assert (encoding["width"], encoding["height"], encoding["quality"]) == (51, 37, 50)
    decoding = run("decode", coded, "-o", decoded, "--model", tiny_model_dir, "--json").json
    assert (decoding["output"], decoding["fingerprint"]) == (str(decoded), encoding["fingerprint"])
    info = run("info", coded, "--json").json
    assert info == ulcodec.info(coded.read_bytes())


def test_errors_are_valid_json(photo: Path, run: Run, tmp_path: Path) -> None:
    finished = run("compare", photo, photo, "--json")
    assert json.loads(finished.stdout, parse_constant=pytest.fail)["psnr_db"] is None
    for command in ("info", "verify", "decode", "encode"):
        finished = run(command, tmp_path / "none", "--json")
        assert finished.code in (1, 2)
        assert "No such file" in json.loads(finished.stdout)["error"]
