"""`ulcodec bench` on clips: report, continued runs, others from an earlier report, failures, refused options."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_files import bench_clips, invoke
from typer.testing import CliRunner

from ulcodec.bench import clip_peers, clip_run, peers
from ulcodec.bench.clip_peers import ANCHOR
from ulcodec.bench.clip_report import MEASURES, curve_of, mean_points
from ulcodec.bench.peers import AbsentError
from ulcodec.codec.image import Codec
from ulcodec.io.video_source import open_video
from ulcodec_cli.main import app

KEYS = ["ulcodec", "ulcodec-intra", "x264-medium", "x265-medium"]


def results_of(report: Path) -> dict:
    return json.loads((report / "results.json").read_text())


def rows_of(report: Path) -> list[dict[str, str]]:
    with open(report / "measurements.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_report_has_all_codecs_clips_and_measures(clip_report: Path) -> None:
    results = results_of(clip_report)
    assert [codec["key"] for codec in results["codecs"]] == KEYS
    a, b = results["clips"]
    assert (a["name"], a["width"], a["height"], a["n_frames"], a["frame_rate"], a["changes"]) == (
        *("a.mkv", 80, 64, 4, 25, ""),
    )
    assert (b["width"], b["height"], b["n_frames"]) == (66, 64, 3)
    assert b["changes"] == "converted to 8-bit 4:2:0, cropped to even sides"
    for clip in (a, b):
        for curve in results["points"][clip["name"]].values():
            for point in curve:
                n_px = clip["width"] * clip["height"] * clip["n_frames"]
                assert point["bpp"] == pytest.approx(8 * point["file_bytes"] / n_px, abs=1e-5)
                seconds = clip["n_frames"] / clip["frame_rate"]
                assert point["kbps"] == pytest.approx(8 * point["file_bytes"] / seconds / 1000, abs=1e-3)
                assert min(point["encode_fps"], point["decode_fps"]) > 0
                assert 0 <= point["vmaf"] <= 100
                assert point["ms_ssim"] is None, "the clips are too small"
    assert results["left_out"] == []
    assert results["vmaf_model"] == "vmaf_v0.6.1"
    assert len(rows_of(clip_report)) == sum(map(len, results["points"]["a.mkv"].values())) * 2


def test_rates_are_those_of_whole_files(clip_report: Path, clips_dir: Path, tiny_codec: Codec, tmp_path: Path) -> None:
    """The first frames of a clip in 8-bit 4:2:0 reach ulcodec as they are."""
    points = results_of(clip_report)["points"]["a.mkv"]["ulcodec"]
    data = b"".join(tiny_codec.encode_video(clips_dir / "a.mkv", quality=points[0]["level"], duration_s=4 / 25))
    assert points[0]["file_bytes"] == len(data)


def test_bd_rates_refer_to_the_anchor_and_to_ulcodec(clip_report: Path) -> None:
    results = results_of(clip_report)
    assert results["anchor"] == ANCHOR
    rates = results["bd_rate_percent"]
    assert set(rates) == {"a.mkv", "b.mkv", "mean"}
    assert set(rates["mean"]) == set(MEASURES)
    assert rates["a.mkv"]["yuv_psnr_db"][ANCHOR] == 0
    of_clips = [rates[clip]["yuv_psnr_db"]["x265-medium"] for clip in ("a.mkv", "b.mkv")]
    assert rates["mean"]["yuv_psnr_db"]["x265-medium"] == pytest.approx(np.mean(of_clips), abs=1e-4)
    assert rates["mean"]["ms_ssim"][ANCHOR] is None
    assert set(results["own_against_percent"]) == {"ulcodec", "ulcodec-intra"}
    assert "ulcodec" not in results["own_against_percent"]["ulcodec"]["mean"]["psnr_db"]
    tables = (clip_report / "tables.md").read_text()
    assert "a.mkv (4 frames), b.mkv (3 frames)" in tables
    assert "-c:v libx264 -preset medium" in tables


def test_film_shows_the_original_and_all_codecs(clip_report: Path, clips_dir: Path) -> None:
    [film] = results_of(clip_report)["films"]
    assert [version["codec"] for version in film["versions"]] == [key for key in KEYS if key != "ulcodec-intra"]
    assert (film["clip"], film["width"], film["height"], film["n_columns"]) == ("a.mkv", 80, 64, 2)
    with open_video(clip_report / film["file"]) as video:
        pictures = [frame.pixels for frame in video]
    with open_video(clips_dir / "a.mkv") as video:
        original = [frame.pixels for frame in video][: film["n_frames"]]
    assert len(pictures) == film["n_frames"] == 4
    for shown, expected in zip(pictures, original, strict=True):
        assert np.abs(shown[:64, :80].astype(int) - expected).mean() < 5
    page = (clip_report / "index.html").read_text()
    assert '"films"' in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_stopped_run_continues(
    clip_report: Path, clips_dir: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (clip_report / "measurements.jsonl").read_text().splitlines()
    (tmp_path / "measurements.jsonl").write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:30])
    jobs = []
    measure = clip_run.measure
    monkeypatch.setattr(clip_run, "measure", lambda job: jobs.append(job) or measure(job))
    for _ in range(2):
        bench_clips([clips_dir], tiny_model_dir, tmp_path, "--limit", "2", "--frames", "4", "--viewer", "0")
        assert len(jobs) == 2
    sizes, expected = ([row["file_bytes"] for row in rows_of(path)] for path in (tmp_path, clip_report))
    assert sizes == expected


def test_others_are_taken_from_an_earlier_report(
    clip_report: Path, clips_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    earlier = clip_report / "results.json"
    options = ["--frames", "4", "--viewer", "0", "--codecs", "", "--others-from", str(earlier)]
    bench_clips([clips_dir], tiny_model_dir, tmp_path / "new", "--limit", "2", *options)
    before, now = results_of(clip_report), results_of(tmp_path / "new")
    assert {row["codec"] for row in rows_of(tmp_path / "new")} == {"ulcodec", "ulcodec-intra"}
    assert [codec["key"] for codec in now["codecs"]] == KEYS
    assert now["codecs"][2]["measured"] == before["run"]["date"]
    assert now["points"]["b.mkv"]["x265-medium"] == before["points"]["b.mkv"]["x265-medium"]
    means, expected = (report["bd_rate_percent"]["mean"]["psnr_db"]["x265-medium"] for report in (now, before))
    assert means == pytest.approx(expected, abs=1e-2)
    other = invoke([clips_dir], tiny_model_dir, tmp_path / "other", "--limit", "1", *options)
    assert (other.exit_code, "is about other clips" in other.stderr) == (2, True)
    del before["points"]["b.mkv"]["x265-medium"][0]["encode_fps"]
    damaged = tmp_path / "damaged.json"
    damaged.write_text(json.dumps(before))
    lacking = invoke([clips_dir], tiny_model_dir, tmp_path / "lacking", "--limit", "2", *options[:-1], str(damaged))
    assert (lacking.exit_code, "lacks figures" in lacking.stderr) == (2, True)
    assert not (tmp_path / "other").exists()
    wrong = invoke([clips_dir], tiny_model_dir, tmp_path, *options[:-1], str(clip_report / "index.html"))
    assert (wrong.exit_code, "not a results.json of ulcodec bench on clips" in wrong.stderr) == (2, True)


def test_exact_planes_count_100_decibels() -> None:
    black, grey = np.full((24, 16), 16, np.uint8), np.full((24, 16), 20, np.uint8)
    rgb = np.zeros((16, 16, 3), np.uint8)
    exact = clip_run.frame_measures(black, black, rgb, rgb)
    assert exact == {"yuv_psnr_db": 100, "y_psnr_db": 100, "psnr_db": 100}
    brighter = np.concatenate([grey[:16], black[16:]])
    measures = clip_run.frame_measures(black, brighter, rgb, rgb + np.uint8(4))
    assert measures["yuv_psnr_db"] == pytest.approx((6 * 36.09 + 200) / 8, abs=0.01)


def test_other_codecs_go_on_when_one_fails(
    clips_dir: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg")
    broken = replace(clip_peers.CLIP_PEERS["x265-medium"], options=("-preset", "none"))
    monkeypatch.setitem(clip_peers.CLIP_PEERS, "x265-medium", broken)
    finished = bench_clips([clips_dir / "a.mkv"], tiny_model_dir, tmp_path, "--frames", "2")
    results = results_of(tmp_path)
    assert results["points"]["a.mkv"]["x265-medium"] == []
    assert len(results["points"]["a.mkv"]["x264-medium"]) == 3
    assert results["bd_rate_percent"]["mean"]["yuv_psnr_db"]["x265-medium"] is None
    lines = [line for line in finished.stderr.splitlines() if line.startswith("left out: x265-medium at level ")]
    assert len(lines) == len(results["left_out"]) == 3
    assert "x265-medium" not in {version["codec"] for version in results["films"][0]["versions"]}
    assert all('"x265-medium"' not in line for line in (tmp_path / "measurements.jsonl").read_text().splitlines())


def test_missing_ffmpeg_is_named(
    clips_dir: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise AbsentError("imageio-ffmpeg is not installed")

    monkeypatch.setattr(peers, "ffmpeg", missing)
    peers.ffmpeg_encoders.cache_clear()
    clip_peers.absent_vmaf.cache_clear()
    try:
        finished = bench_clips([clips_dir / "b.mkv"], tiny_model_dir, tmp_path, "--frames", "1")
    finally:
        clip_peers.absent_vmaf.cache_clear()
    results = results_of(tmp_path)
    assert set(results["absent"]) == {"H.264 (x264 medium)", "HEVC (x265 medium)", "VMAF"}
    assert "absent: VMAF (imageio-ffmpeg is not installed)" in finished.stderr
    assert [codec["key"] for codec in results["codecs"]] == KEYS[:2]
    assert (results["anchor"], results["bd_rate_percent"], results["vmaf_model"]) == (None, {}, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--anchors", "none.json"], "--anchors does not apply to clips"),
        (["--jobs", "2"], "--jobs does not apply to clips"),
        (["--sizes", "0.1"], "--sizes does not apply to clips"),
        (["--perceptual"], "--perceptual does not apply to clips"),
        (["--codecs", "jpeg"], "unknown codecs for clips: jpeg"),
        (["--frames", "0"], "Invalid value"),
        (["--gop", "0"], "Invalid value"),
        (["--rates", "x"], "expected numbers with commas"),
    ],
)
def test_other_options_are_refused(clips_dir: Path, tmp_path: Path, options: list[str], message: str) -> None:
    finished = CliRunner().invoke(app, ["bench", str(clips_dir), "-o", str(tmp_path / "report"), *options])
    assert (finished.exit_code, message in finished.stderr) == (2, True), finished.stderr
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("option", ["--frames", "--gop"])
def test_options_of_clips_are_refused_for_pictures(pictures_dir: Path, tmp_path: Path, option: str) -> None:
    finished = CliRunner().invoke(app, ["bench", str(pictures_dir), "-o", str(tmp_path / "report"), option, "3"])
    assert (finished.exit_code, f"{option} does not apply to pictures" in finished.stderr) == (2, True)


def test_unusable_sources_are_errors_of_one_line(clips_dir: Path, pictures_dir: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.mkv"
    junk.write_bytes(b"junk")
    for sources, message in (
        ([tmp_path / "none"], "none: No such file or directory"),
        ([clips_dir, pictures_dir], "expected only videos or only pictures, got a.mkv and a.png"),
        ([clips_dir / "README.md"], "expected videos, or one folder of pictures"),
        ([pictures_dir, pictures_dir], "expected videos, or one folder of pictures"),
        ([junk], "junk.mkv: "),
    ):
        finished = CliRunner().invoke(app, ["bench", *map(str, sources), "-o", str(tmp_path / "report")])
        assert (finished.exit_code, message in finished.stderr) == (2, True), finished.stderr
    assert not (tmp_path / "report").exists()


def test_means_are_of_levels_that_all_clips_have() -> None:
    point = {**dict.fromkeys(("file_bytes", "kbps", "y_psnr_db", "psnr_db", "ms_ssim", "vmaf"), 1.0), "decode_fps": 8.0}
    curves = [
        [{**point, "level": 30, "bpp": 0.2, "yuv_psnr_db": 30.0, "encode_fps": 2.0}],
        [
            {**point, "level": 40, "bpp": 0.1, "yuv_psnr_db": 20.0, "encode_fps": 1.0},
            {**point, "level": 30, "bpp": 0.4, "yuv_psnr_db": 34.0, "encode_fps": 6.0},
        ],
    ]
    [mean] = mean_points(curves)
    assert (mean["level"], mean["yuv_psnr_db"], mean["encode_fps"]) == (30, 32, 3)
    assert mean["bpp"] == pytest.approx(0.3)
    assert mean_points([[], curves[1]]) == []


def test_curves_take_ms_ssim_in_decibels() -> None:
    points = [{"bpp": bpp, "ms_ssim": value} for bpp, value in ((0.1, 0.9), (0.2, 0.99), (0.3, 1.0), (0.4, None))]
    assert curve_of(points, "ms_ssim").quality == pytest.approx([10, 20])
