import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import batch, effort, perception, products, recipe, speed, trade_off, training_speed
from ulcodec.bench.curves import Curve, bd_rows, increasing
from ulcodec.bench.machine import without_folder
from ulcodec.bench.pictures import Picture, find_pictures, fitted
from ulcodec.bench.tables import markdown_table, text_table, to_json
from ulcodec.codec.image import Codec


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


def test_curves_without_common_psnr_have_no_bd_rate() -> None:
    rows = bd_rows({"far away": Curve([1.0, 2.0], [90.0, 95.0])}, Curve([0.1, 0.3], [26.0, 30.0]))
    assert rows == [{"anchor": "far away", "bd_rate_percent": None, "low_db": None, "high_db": None}]


def test_curves_leave_out_points_that_are_worse_or_infinite() -> None:
    points = [(0.5, 30.0), (0.2, 25.0), (0.6, 29.0), (0.2, 24.0), (0.9, math.inf), (0.8, 33.0)]
    assert increasing(points) == Curve([0.2, 0.5, 0.8], [25.0, 30.0, 33.0])


def test_training_speed_report(tmp_path: Path) -> None:
    output = tmp_path / "training-speed.json"
    size = ["--config", "tiny", "--crop", "64", "--steps", "2", "--threads", "1", "--device", "cpu"]
    training_speed.main([*size, "--batch-sizes", "2", "4", "-o", str(output)])
    report = json.loads(output.read_text())
    assert [row["batch"] for row in report["rows"]] == [2, 4]
    for row in report["rows"]:
        assert row["gradients_ms"] > 0
        assert row["renewal_ms"] > 0
        assert row["crops_per_s"] == pytest.approx(1000 * row["batch"] / row["step_ms"], rel=0.01)
        assert row["tflop_per_s"] == pytest.approx(row["crops_per_s"] * report["gflop_per_crop"] / 1000, rel=0.02)
    with pytest.raises(SystemExit, match="unknown configuration"):
        training_speed.main(["--config", "none"])


def test_speed_report(
    photos: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(products, "LIMITS", {"none": {}})
    monkeypatch.setattr(products, "THREADS", (1,))
    output = tmp_path / "speed.json"
    size = ["--width", "64", "--height", "48", "--runs", "3"]
    speed.main(["--images", str(photos), "--model", str(tiny_model_dir), *size, "--products", "-o", str(output)])
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
    assert row["pass_ms"][row["chosen"]] > 0
    assert all(row["pass_ms"][name] > 0 for name in ("float32", "float64", "int64"))
    assert "chosen" in capsys.readouterr().out


def test_cold_starts(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "COLD_RUNS", 1)
    picture = Picture("grey", np.full((16, 16, 3), 128, np.uint8))
    rows = speed.time_cold_starts(picture, 50, str(tiny_model_dir), 1)
    named = {row["stage"].removeprefix("ulcodec ") for row in rows}
    assert named == {"encode", "decode", "info", "verify", "--help", "encode, output exists"}
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
        with pytest.raises(SystemExit) as exit_:
            speed.main(["--images", str(folder), "--model", model])
        assert str(exit_.value).startswith("error: ")
        assert "\n" not in str(exit_.value)


def test_paths_in_commands_lose_their_folders() -> None:
    given = ["--images=/data/kodak", "/data/model", "relative/path", "-o", "0.1,0.2"]
    assert list(map(without_folder, given)) == ["--images=kodak", "model", "relative/path", "-o", "0.1,0.2"]


def test_tables_have_a_line_for_every_row() -> None:
    table = {"run": {"a": 1.23456789}, "rows": [{"x": 0.1, "y": math.inf}, {"x": None}], "none": []}
    written = to_json(table)
    rows = [{"x": 0.1, "y": None}, {"x": None}]
    assert json.loads(written) == {"run": {"a": 1.23457}, "rows": rows, "none": []}
    assert '\n  {"x": 0.1, "y": null},\n  {"x": null}\n' in written
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| :--- | ---: |\n| 1 | 2 |"
    assert text_table(["name", "n"], [["a", "10"]]) == "name   n\na     10"


def test_effort_report(photos: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    report = tmp_path / "effort.json"
    effort.main(["--images", str(photos), "--model", str(tiny_model_dir), "--efforts", "1", "3", "-o", str(report)])
    first, third = json.loads(report.read_text())["rows"]
    assert (first["effort"], first["n_steps"], third["n_steps"]) == (1, 0, 2)
    assert third["bits_percent"] < first["bits_percent"], "an untrained model gains much"
    assert third["median_encode_ms"] > 0


def test_progressive_report(picture: np.ndarray, tiny_codec: Codec, tmp_path: Path) -> None:
    """Fronts of all three codecs show more and more, and the whole file shows the whole picture."""
    progressive = pytest.importorskip("benchmarks.progressive", reason="imagecodecs is not installed")
    curves = progressive.psnr_of_fronts(tiny_codec, picture, 90)
    for name, values in curves.items():
        known = [value for value in values if value is not None]
        assert known[-1] == max(known), name
        assert known[0] < known[-1] - 1, name
        assert None not in values[-3:], name
    fractions, report = progressive.FRACTIONS, tmp_path / "figure.svg"
    progressive.draw({"fractions": fractions, "psnr_db": curves}, report)
    assert "JPEG XL" in report.read_text()


def test_perception_report(picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the shipped model: one that draws needs a trained denoiser."""
    (tmp_path / "pictures").mkdir()
    for index in range(2):
        Image.fromarray(np.roll(picture, 20 * index, axis=1)).save(tmp_path / "pictures" / f"{index}.png")
    report, figure = tmp_path / "perception.json", tmp_path / "perception.svg"
    options = ["--rates", "1", "--steps", "2", "--critic-steps", "2", "-o", str(report), "--figure", str(figure)]
    perception.main([str(tmp_path / "pictures"), *options])
    written = json.loads(report.read_text())
    ours = [row for row in written["rows"] if row["codec"] == "ulcodec"]
    assert [row["realism"] for row in ours] == list(perception.SHARES)
    assert all(0.7 < row["bpp"] <= 1 for row in ours)
    psnr_db = [row["psnr_db"] for row in ours]
    assert psnr_db == sorted(psnr_db, reverse=True)
    assert all(0 <= row["critic_accuracy"] <= 1 for row in written["rows"])
    assert "webp" in {row["codec"] for row in written["rows"]}
    assert "PSNR" in figure.read_text()
    assert "critic" in capsys.readouterr().out


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
