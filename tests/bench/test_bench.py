"""`ulcodec bench`: measurements, the report, and the page in a browser."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.check import failures
from ulcodec.bench import peers, perceptual, speed
from ulcodec.bench import run as bench_run
from ulcodec.bench.peers import PEERS
from ulcodec.bench.pictures import Picture
from ulcodec.bench.run import level_of_size
from ulcodec.codec.image import Codec
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
    given = {"-o": out, "--model": model, "--codecs": "jpeg,webp", "--device": "cpu", "--rates": "0.5,2", "--viewer": 1,
             "--sizes": ""}  # fmt: skip
    arguments = [str(part) for option in given.items() for part in option]
    finished = CliRunner().invoke(app, ["bench", str(folder), "--quick", *arguments, *options])
    assert finished.exit_code == 0, finished.output
    return finished.stdout


@pytest.fixture(scope="module")
def report(folder: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report"
    shown = bench(folder, tiny_model_dir, out, "--sizes", "0.01,0.02")
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


def test_results_hold_means_and_comparisons(report: Path) -> None:
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


def test_bounds_stand_beside_the_files(report: Path, folder: Path, tiny_codec: Codec) -> None:
    results = json.loads((report / "results.json").read_text())
    rows = [row for row in rows_of(report) if row["codec"] == "ulcodec"]
    for row in rows:
        data = tiny_codec.encode(folder / row["picture"], quality=int(float(row["level"])))
        described = tiny_codec.describe(data)
        assert float(row["bound_bits"]) == pytest.approx(described["bound_bits"], rel=1e-4)
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


def test_speed_of_every_codec_and_size(report: Path) -> None:
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
    cost = {row["part"]: row["kmac_per_px"] * row["passes"] for row in results["complexity"]["parts"]}
    coding = {part: kmac for part, kmac in cost.items() if not part.startswith(("decoder", "denoiser"))}
    assert results["complexity"]["kmac_per_px"] == {
        "encode": pytest.approx(sum(coding.values()), abs=1e-3),
        "decode": pytest.approx(cost["hyper-decoder"] + cost["prior"] + cost["decoder trunk"], abs=1e-3),
    }


def test_sizes_that_take_too_long_are_left_out(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_task(task: speed.Task) -> dict[str, float]:
        if task.codec == "jpeg":
            raise BenchmarkError("no memory")
        Path(task.file).write_bytes(b"file")
        return {"wall_ms": 100.0}

    monkeypatch.setattr(speed, "run_task", run_task)
    monkeypatch.setattr(speed, "LONGEST_S", 0.3)
    codecs = [(PEERS["webp"], 50.0), (PEERS["jpeg"], 50.0)]
    rows = speed.measure_speed(codecs, Picture("a", picture), [0.1, 0.2, 0.4], "tiny", "cpu", 1, lambda: None)
    found = [(row["codec"], row.get("left_out")) for row in rows]
    assert found[0] == found[2] == ("webp", None)
    assert found[4] == ("webp", "would take 0.4 s")
    assert found[1] == ("jpeg", "no memory")
    assert found[3] == ("jpeg", "failed on a smaller picture")


def test_a_codec_that_fails_in_its_process(tmp_path: Path) -> None:
    np.save(tmp_path / "picture.npy", np.zeros((16, 16, 3), np.uint8))
    task = speed.Task("jpeg", "decode", 50, str(tmp_path / "picture.npy"), str(tmp_path / "none"), "tiny", "cpu", 1, 1)
    with pytest.raises(BenchmarkError, match="No such file"):
        speed.run_task(task)


def test_networks_that_are_absent_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    for module in ("lpip", "dists", "fid"):
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{module}", None)
    perceptual.network.cache_clear()
    found = perceptual.absent_networks()
    perceptual.network.cache_clear()
    assert set(found) == {"lpips", "dists", "fid"}
    assert all("torchmetrics" in reason for reason in found.values())


class StandInNetwork:
    """Mean distance of the inputs, as torchmetrics calls it."""

    def __init__(self, **options: object) -> None:
        self.sums = {True: 0.0, False: 0.0}

    def reset(self) -> None:
        self.__init__()

    def __call__(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert preds.shape == target.shape
        assert preds.dtype == torch.float32
        assert preds.max() <= 1
        return (preds - target).abs().mean()

    def update(self, patches: torch.Tensor, *, real: bool) -> None:
        assert patches.dtype == torch.uint8
        assert patches.shape[1:] == (3, 256, 256)
        self.sums[real] += float(patches.float().mean())

    def compute(self) -> torch.Tensor:
        return torch.tensor(abs(self.sums[True] - self.sums[False]))


def test_networks_reach_the_report(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchmetrics returns stands in rows and curves; the networks themselves need weights from elsewhere."""
    Image.effect_noise((400, 272), 40).convert("RGB").save(tmp_path / "noise.png")
    names = {"lpip": "LearnedPerceptualImagePatchSimilarity", "dists": "DeepImageStructureAndTextureSimilarity",
             "fid": "FrechetInceptionDistance"}  # fmt: skip
    for module in ("torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    for module, name in names.items():
        stand_in = ModuleType(module)
        setattr(stand_in, name, StandInNetwork)
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{module}", stand_in)
    perceptual.network.cache_clear()
    bench(tmp_path, tiny_model_dir, tmp_path / "report", "--perceptual", "--viewer", "0", "--codecs", "jpeg")
    perceptual.network.cache_clear()
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    pixels = np.asarray(Image.open(tmp_path / "noise.png"))
    for point in results["curves"]["jpeg"]:
        decoded = PEERS["jpeg"].decode(PEERS["jpeg"].encode(pixels, point["level"]), pixels.shape)
        difference = np.abs(decoded / 255 - pixels / 255).mean()
        assert point["lpips"] == point["dists"] == pytest.approx(difference, abs=1e-5)
        patches = [p[:256, :256].mean() for p in (pixels, decoded)]
        assert point["fid"] == pytest.approx(abs(patches[0] - patches[1]), abs=1e-3)


def test_patches_are_those_of_hific() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 600, 3), dtype=np.uint8)
    patches = perceptual.hific_patches(pixels).numpy().transpose(0, 2, 3, 1)
    corners = [(0, 0), (0, 256), (256, 0), (256, 256), (128, 128), (384, 128)]
    assert len(patches) == len(corners)
    for patch, (top, left) in zip(patches, corners, strict=True):
        assert np.array_equal(patch, pixels[top : top + 256, left : left + 256])


def test_others_from_an_earlier_report(report: Path, folder: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    bench(folder, tiny_model_dir, tmp_path / "new", "--codecs", "jpeg", "--others-from", str(report / "results.json"))
    earlier, new = (json.loads((path / "results.json").read_text()) for path in (report, tmp_path / "new"))
    assert {row["codec"] for row in rows_of(tmp_path / "new")} == {"ulcodec", "jpeg"}
    assert [codec["key"] for codec in new["codecs"]] == ["ulcodec", "jpeg", "webp"]
    assert new["codecs"][2] == {"measured": earlier["run"]["date"], **earlier["codecs"][2]}
    assert new["curves"]["webp"] == earlier["curves"]["webp"]
    assert new["bd_rates"] == earlier["bd_rates"]
    assert f"Measured {earlier['run']['date']}: WebP, method 6." in (tmp_path / "new" / "tables.md").read_text()
    options = ["bench", str(folder), "--limit", "1", "--codecs", "jpeg", "--model", str(tiny_model_dir), "--quick"]
    options += ["--viewer", "0", "--sizes", "", "-o", str(tmp_path / "one")]
    for others, message in (
        (report / "results.json", "is of 2 pictures"),
        (report / "index.html", "not a results.json"),
    ):
        refused = CliRunner().invoke(app, [*options, "--others-from", str(others)])
        assert (refused.exit_code, message in refused.stderr) == (2, True)


def test_stopped_run_goes_on(
    report: Path, folder: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (report / "measurements.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    del first["lpips"]  # as of a version that did not know it
    kept = [json.dumps(first), *lines[1:-3]]
    (tmp_path / "measurements.jsonl").write_text("\n".join(kept) + "\n" + lines[-3][:40])
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
    """On JPEG's curve: that of a model with seeded weights need not rise."""
    results = json.loads((report / "results.json").read_text())
    results["curves"]["ulcodec"] = results["curves"]["jpeg"]
    assert failures(results, results) == []
    larger, slower = (json.loads(json.dumps(results)) for _ in range(2))
    for point in larger["curves"]["ulcodec"]:
        point["bpp"] *= 1.02
    assert "BD-rate" in failures(larger, results)[0]
    assert failures(results, larger) == []
    slower["speed"][0]["decode_cpu_ms"] *= 2
    [found] = failures(slower, results)
    assert found == "decode_cpu_ms, beside webp's: 2.00 times what it was"


def test_level_of_size(picture: np.ndarray) -> None:
    peer = PEERS["jpeg"]
    for level in (1, 40, 99):
        n_bytes = len(peer.encode(picture, level))
        assert len(peer.encode(picture, level_of_size(peer, picture, n_bytes))) == n_bytes


def test_level_of_size_starts_from_known_sizes(picture: np.ndarray) -> None:
    tried = []
    sizes = {level: 100.0 * level**2 for level in range(1, 101)}
    peer = replace(PEERS["jpeg"], levels=(1, 20, 40, 60, 100))
    counting = replace(peer, encode=lambda pixels, level: tried.append(level) or b"." * int(sizes[int(level)]))
    known = {float(level): int(sizes[level]) for level in peer.levels}
    assert level_of_size(counting, picture, int(sizes[47]), known) == 47
    assert len(tried) <= 5
    assert all(40 < level < 60 for level in tried)


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
