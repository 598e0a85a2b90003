"""`ulcodec bench`: measurements, the report, and the page in a browser."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.check import failures
from ulcodec.bench import peers
from ulcodec.bench import run as bench_run
from ulcodec.bench.peers import PEERS
from ulcodec.bench.run import level_of_size
from ulcodec.errors import BenchmarkError
from ulcodec.metrics import psnr_db
from ulcodec_cli.main import app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures large enough for MS-SSIM."""
    directory = tmp_path_factory.mktemp("pictures")
    row, column = np.mgrid[0:184, 0:200].astype(np.float64)
    for name, period in (("a", 9), ("b", 23)):
        waves = [128 + 70 * np.sin(row / period + column / (period + 4) + channel) for channel in range(3)]
        pixels = np.stack(waves, axis=2) + np.random.default_rng(period).normal(0, 4, (184, 200, 3))
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(directory / f"{name}.png")
    return directory


def bench(folder: Path, model: Path, out: Path, *options: str) -> str:
    given = {"-o": out, "--model": model, "--codecs": "jpeg,webp", "--device": "cpu", "--rates": "0.5,2", "--viewer": 1}
    arguments = [str(part) for option in given.items() for part in option]
    finished = CliRunner().invoke(app, ["bench", str(folder), "--quick", *arguments, *options])
    assert finished.exit_code == 0, finished.output
    return finished.stdout


@pytest.fixture(scope="module")
def report(folder: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report"
    shown = bench(folder, tiny_model_dir, out)
    assert shown.splitlines()[-1] == str(out / "index.html")
    return out


def rows_of(report: Path) -> list[dict[str, str]]:
    with open(report / "measurements.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_rows_are_those_of_real_files(report: Path, folder: Path) -> None:
    rows = rows_of(report)
    assert {row["codec"] for row in rows} == {"ulcodec", "jpeg", "webp"}
    pixels = np.asarray(Image.open(folder / "a.png"))
    for row in rows:
        if row["codec"] == "jpeg" and row["picture"] == "a.png":
            data = PEERS["jpeg"].encode(pixels, float(row["level"]))
            assert int(row["file_bytes"]) == len(data)
            assert float(row["psnr_db"]) == pytest.approx(psnr_db(pixels, PEERS["jpeg"].decode(data, pixels.shape)))
            assert 0 < float(row["ms_ssim"]) < 1
        assert float(row["encode_ms"]) > 0


def test_results_hold_means_and_comparisons(report: Path) -> None:
    results = json.loads((report / "results.json").read_text())
    rows = [row for row in rows_of(report) if row["codec"] == "webp"]
    point = results["curves"]["webp"][0]
    at_level = [row for row in rows if float(row["level"]) == point["level"]]
    assert len(at_level) == results["n_pictures"] == 2
    assert point["bpp"] == pytest.approx(np.mean([float(row["bpp"]) for row in at_level]))
    mean_mse = np.mean([float(row["mse"]) for row in at_level])
    assert point["psnr_of_mean_mse_db"] == pytest.approx(10 * np.log10(255**2 / mean_mse))
    assert {row["anchor"] for row in results["bd_rates"]} == {"JPEG 4:2:0", "WebP, method 6"}
    assert "viewer" not in results


def test_stopped_run_goes_on(
    report: Path, folder: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (report / "measurements.jsonl").read_text().splitlines()
    (tmp_path / "measurements.jsonl").write_text("\n".join(lines[:-3]) + "\n" + lines[-3][:40])
    measured = []
    measure = bench_run.measure
    monkeypatch.setattr(bench_run, "measure", lambda job: measured.append(job) or measure(job))
    bench(folder, tiny_model_dir, tmp_path, "--viewer", "0")
    assert len(measured) == 3
    keys = ("codec", "picture", "level", "file_bytes", "psnr_db")
    ours, before = ([[row[key] for key in keys] for row in rows_of(path)] for path in (tmp_path, report))
    assert ours == before


def test_two_processes_measure_the_same(report: Path, folder: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    bench(folder, tiny_model_dir, tmp_path, "--viewer", "0", "--jobs", "2")
    keys = ("codec", "picture", "level", "file_bytes")
    ours, before = ([[row[key] for key in keys] for row in rows_of(path)] for path in (tmp_path, report))
    assert ours == before


def test_regression_check(report: Path) -> None:
    results = json.loads((report / "results.json").read_text())
    assert failures(results, results) == []
    larger, slower = (json.loads(json.dumps(results)) for _ in range(2))
    for point in larger["curves"]["ulcodec"]:
        point["bpp"] *= 1.02
    assert "BD-rate" in failures(larger, results)[0]
    assert failures(results, larger) == []
    slower["times"][0]["decode_cpu_ms"] *= 2
    [found] = failures(slower, results)
    assert found == "decode_cpu_ms, beside webp's: 2.00 times what it was"


def test_level_of_size(picture: np.ndarray) -> None:
    peer = PEERS["jpeg"]
    for level in (1, 40, 99):
        n_bytes = len(peer.encode(picture, level))
        assert len(peer.encode(picture, level_of_size(peer, picture, n_bytes))) == n_bytes


@pytest.mark.parametrize(
    "options", [["--codecs", "jpeg,gif"], ["--rates", "0.1,x"], ["--rates", "-1"], ["--jobs", "0"]]
)
def test_bench_refuses(folder: Path, tmp_path: Path, options: list[str]) -> None:
    assert CliRunner().invoke(app, ["bench", str(folder), "-o", str(tmp_path), *options]).exit_code == 2


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"a": {"bpp": [1]}}'])
def test_anchors_that_are_none(folder: Path, tmp_path: Path, text: str) -> None:
    anchors = tmp_path / "anchors.json"
    anchors.write_text(text)
    options = ["--anchors", str(anchors), "-o", str(tmp_path / "report")]
    refused = CliRunner().invoke(app, ["bench", str(folder), *options])
    assert (refused.exit_code, "not a JSON of rate-distortion curves" in refused.stderr) == (2, True)
    assert not (tmp_path / "report").exists()


def test_sample_pictures_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "skimage"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skimage", None)
    refused = CliRunner().invoke(app, ["bench", "-o", str(tmp_path)])
    assert (refused.exit_code, "come with scikit-image" in refused.stderr) == (2, True)


def test_a_codec_that_fails_is_an_error(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ffmpeg", lambda: "false")
    with pytest.raises(BenchmarkError, match="ffmpeg"):
        PEERS["hevc"].encode(picture, 30)


def test_bench_without_pictures(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["bench", str(tmp_path), "-o", str(tmp_path / "report")])
    assert (refused.exit_code, "no pictures in" in refused.stderr) == (2, True)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (390, "dark")])
def test_page_in_a_browser(report: Path, width: int, scheme: str) -> None:
    """From file://, without network: the divider moves, pictures swap, curves show, and nothing is an error."""
    playwright = pytest.importorskip("playwright.sync_api")
    errors: list[str] = []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
        page.goto((report / "index.html").as_uri())
        stage = page.locator("#stage")
        assert stage.get_attribute("aria-valuenow") == "50"
        page.keyboard.press("ArrowRight")
        assert stage.get_attribute("aria-valuenow") == "52"
        area = stage.bounding_box()
        page.mouse.move(area["x"] + area["width"] / 4, area["y"] + 50)
        page.mouse.down()
        page.mouse.up()
        assert stage.get_attribute("aria-valuenow") == "25"
        right = page.locator("#image-right")
        ours = right.get_attribute("src")
        assert page.evaluate("document.querySelector('#image-right').naturalWidth") == 200
        page.keyboard.press("2")
        assert right.get_attribute("src") != ours
        assert page.locator("#name-right").inner_text().startswith("JPEG 4:2:0:")
        page.select_option("#rate", "1")
        page.select_option("#right", "ulcodec")
        assert right.get_attribute("src") != ours
        page.keyboard.press("+")
        assert page.locator("#zoom").inner_text() == "200 %"
        assert page.locator("#plot polyline").count() == 3
        page.locator("#legend input").first.uncheck()
        assert page.locator("#plot polyline").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
    assert errors == []
