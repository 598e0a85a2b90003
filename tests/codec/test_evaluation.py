"""`ulcodec eval`: rate-distortion curves of a run and of a model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ulcodec
from ulcodec.codec.evaluation import middle
from ulcodec.export.pipeline import export
from ulcodec.io.sources import read_pictures
from ulcodec_cli.main import app


def test_run_and_its_exported_model_have_equal_curves(finished_run: Path, photographs: Path, tmp_path: Path) -> None:
    export(finished_run, tmp_path / "model", sources=())
    arguments = ["eval", str(photographs), "--model", str(finished_run), "--limit", "2", "--crop", "48"]
    report = json.loads(CliRunner().invoke(app, [*arguments, "--against", str(tmp_path / "model"), "--json"]).stdout)
    assert report["n_pictures"] == 2
    points, model_points = report["curves"].values()
    assert points == model_points
    assert [point["quality"] for point in points] == [0, 25, 50, 75, 100]
    assert report["bd_rate_percent"] == pytest.approx(0, abs=1e-9)
    codec = ulcodec.load(tmp_path / "model", device="cpu")
    crops = [middle(pixels, 48) for pixels in read_pictures([photographs], 2)]
    sizes = [len(codec.encode(crop, quality=50)) for crop in crops]
    assert points[2]["bpp"] == pytest.approx(8 * sum(sizes) / 2 / 48**2)
    finished = CliRunner().invoke(app, [*arguments, "--qualities", "50"])
    assert f"{points[2]['bpp']:.4f}" in finished.stdout


@pytest.mark.parametrize("qualities", ["", "5,x", "101", "-1,3"])
def test_invalid_qualities_are_refused(photographs: Path, qualities: str) -> None:
    assert CliRunner().invoke(app, ["eval", str(photographs), "--qualities", qualities]).exit_code == 2
