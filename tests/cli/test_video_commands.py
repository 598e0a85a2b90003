"""Videos and animations on the command line."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from command_line import Run, assert_refused, file_names
from PIL import Image

import ulcodec
from ulcodec.codec import clip_encoder, group_coding
from ulcodec.codec.clip_encoder import WrittenPart
from ulcodec.codec.image import Codec
from ulcodec.io.video_source import open_video
from ulcodec.io.video_target import open_target
from ulcodec.metrics import psnr_db
from ulcodec.metrics.video import plane_psnr, to_yuv420

BT601 = 6
RATE, N_FRAMES, WIDTH, HEIGHT = 25, 9, 64, 48


def moving(number: int) -> np.ndarray:
    """A frame of smooth colours that move: uint8 [48, 64, 3]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin((columns + 3 * number) / 9), np.cos(rows / 7), np.sin((rows + columns - 2 * number) / 11)]
    return np.stack([128 + 90 * wave for wave in waves], axis=2).round().astype(np.uint8)


def write_video(path: Path, *, audio: bool = False, n_frames: int = N_FRAMES) -> Path:
    """Write frames to a video, with a sine as FLAC if asked for."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1" if path.suffix == ".mkv" else "libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound: Any = container.add_stream("flac", rate=8000, layout="mono") if audio else None
        container.start_encoding()
        for number in range(n_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving(number), format="rgb24")))
        container.mux(stream.encode(None))
        if sound is not None:
            samples = (8000 * np.sin(np.arange(8000 * n_frames // RATE) / 5)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mkv", audio=True)


@pytest.fixture
def sequence(clip: Path, tiny_model_dir: Path, run: Run) -> Path:
    assert run("encode", clip, "-q", 90, "--model", tiny_model_dir).code == 0
    return clip.with_suffix(".ulc")


def frames_of(path: Path) -> list[np.ndarray]:
    with open_video(path) as source:
        return [frame.pixels for frame in source]


def test_encode_reports_and_info_describes(clip: Path, tiny_model_dir: Path, run: Run) -> None:
    finished = run("encode", clip, "--model", tiny_model_dir)
    target = clip.with_suffix(".ulc")
    assert finished.code == 0
    assert finished.stderr == ""
    assert finished.stdout.startswith(f"{target}: 64x48, 9 frames, 0.36 s, {target.stat().st_size} bytes, ")
    info = run("info", target, "--json").json
    assert (info["n_frames"], info["frame_rate"], info["chroma"], info["complete"]) == (9, "25", "YUV420", True)
    assert info["media_bytes"] > 0
    assert "duration s" in run("info", target).stdout
    assert run("verify", target).stdout == f"{target}: ok\n"
    assert file_names(clip.parent) == {"clip.mkv", "clip.ulc"}
    report = run("encode", clip, "--model", tiny_model_dir, "--force", "--json").json
    assert (report["n_frames"], report["output_bytes"]) == (9, target.stat().st_size)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov", ".y4m"])
def test_decode_to_videos(sequence: Path, tiny_codec: Codec, tiny_model_dir: Path, run: Run, suffix: str) -> None:
    target = sequence.with_name("out" + suffix)
    finished = run("decode", sequence, "-o", target, "--model", tiny_model_dir)
    assert finished.code == 0, finished.stderr
    assert finished.stdout.startswith(f"{target}: 64x48, 9 frames, ")
    expected = [frame.pixels for frame in tiny_codec.decode_video(sequence)]
    decoded = frames_of(target)
    assert len(decoded) == N_FRAMES
    luma_db = [plane_psnr(to_yuv420(a, BT601), to_yuv420(b, BT601)).y for a, b in zip(expected, decoded, strict=True)]
    assert min(luma_db) > 33
    with av.open(str(target)) as container:
        keeps_audio = suffix in (".mp4", ".mkv")  # the others cannot hold FLAC
        assert len(container.streams.audio) == keeps_audio
    assert ("audio" in finished.stderr) != keeps_audio


def test_decode_beside_the_source_by_default(sequence: Path, tiny_model_dir: Path, run: Run) -> None:
    assert run("decode", sequence, "--model", tiny_model_dir).code == 0
    assert sequence.with_suffix(".mp4").exists()
    assert_refused(run("decode", sequence, "--model", tiny_model_dir), "exists already")
    assert run("decode", sequence, "--format", "mkv", "--force", "--model", tiny_model_dir).code == 0
    assert len(frames_of(sequence.with_suffix(".mkv"))) == N_FRAMES


def test_encoder_and_crf(sequence: Path, tiny_model_dir: Path, run: Run) -> None:
    sizes = []
    for crf in (5, 40):
        target = sequence.with_name(f"{crf}.mp4")
        command = ["decode", sequence, "-o", target, "--encoder", "libx264", "--crf", crf, "--model", tiny_model_dir]
        assert run(*command).code == 0
        sizes.append(target.stat().st_size)
    assert sizes[0] > 2 * sizes[1]
    refused = run("decode", sequence, "-o", sequence.with_name("a.mp4"), "--encoder", "none", "--model", tiny_model_dir)
    assert_refused(refused, "none")
    assert not sequence.with_name("a.mp4").exists()


def test_numbered_pictures_and_single_frames(
    sequence: Path, tiny_codec: Codec, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    expected = [frame.pixels for frame in tiny_codec.decode_video(sequence)]
    pattern = tmp_path / "frames" / "%03d.png"
    assert run("decode", sequence, "-o", pattern, "--model", tiny_model_dir).code == 0
    assert file_names(tmp_path / "frames") == {f"{number:03d}.png" for number in range(N_FRAMES)}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "frames" / "004.png")), expected[4])
    assert_refused(run("decode", sequence, "-o", pattern, "--model", tiny_model_dir), "000.png", "exists already")
    for options, index in ((["--frame", 3], 3), (["--time", "0.28"], 7), (["--time", "0:0:0.04"], 1)):
        target = tmp_path / f"{index}.png"
        assert run("decode", sequence, "-o", target, *options, "--model", tiny_model_dir).stdout == f"{target}: 64x48\n"
        np.testing.assert_array_equal(np.asarray(Image.open(target)), expected[index])
    assert run("decode", sequence, "--frame", 0, "--model", tiny_model_dir).code == 0
    assert Image.open(sequence.with_suffix(".png")).size == (WIDTH, HEIGHT)
    assert_refused(
        run("decode", sequence, "-o", tmp_path / "9.png", "--frame", 9, "--model", tiny_model_dir), "frame 9"
    )


def test_part_of_a_clip(clip: Path, tiny_model_dir: Path, run: Run) -> None:
    finished = run("encode", clip, "--start", "0.08", "--duration", "0:00.12", "--model", tiny_model_dir, "--json")
    assert finished.json["n_frames"] == 3
    assert_refused(run("encode", clip, "--start", "99", "--model", tiny_model_dir, "--force"))


def test_target_bitrate(clip: Path, tiny_model_dir: Path, run: Run) -> None:
    rates = []
    for rate in ("40k", "0.4M"):
        report = run("encode", clip, "--target-bitrate", rate, "--force", "--json", "--model", tiny_model_dir).json
        rates.append(report["kbit_per_s"])
    assert rates[0] != rates[1]
    for wrong in ("fast", "0", "-5", "1e99"):
        finished = run("encode", clip, "--target-bitrate", wrong, "--force", "--model", tiny_model_dir)
        assert finished.code == 2
        assert "bitrate" in finished.stderr


def test_options_for_the_other_kind_are_refused(
    clip: Path, sequence: Path, photo: Path, coded: Path, tiny_model_dir: Path, run: Run
) -> None:
    model = ["--model", tiny_model_dir, "--force"]
    assert_refused(run("encode", clip, "--target-psnr", 30, *model), "--target-psnr", "for pictures")
    assert_refused(run("encode", photo, "--target-bitrate", "1M", *model), "--target-bitrate", "for videos")
    for option in (["--crop", "0,0,8,8"], ["--thumbnail"], ["--fraction", 0.5], ["--realism", 1]):
        assert_refused(run("decode", sequence, *option, *model), option[0], "for pictures")
    for option in (["--frame", 0], ["--time", 0], ["--crf", 20], ["--encoder", "libx264"]):
        assert_refused(run("decode", coded, "-o", photo, *option, *model), option[0], "for videos")
    assert_refused(run("encode", photo, "--start", 1, *model), "for videos")
    assert_refused(run("encode", clip, "--alpha-quality", 5, *model), "for pictures")
    for option in (["--depth", 16], ["--frame", 0, "--crf", 9], ["-o", sequence.with_name("a.y4m"), "--crf", 9]):
        assert_refused(run("decode", sequence, *option, *model), "for pictures" if "--depth" in option else "--crf")
    for option in (["--duration", 0], ["--resume", "-o", "-"]):
        finished = run("encode", clip, *option, *model)
        assert (finished.code, option[0] in finished.stderr) == (2, True)
    finished = run("decode", sequence, "--frame", 0, "--time", 0, *model)
    assert (finished.code, "exclude each other" in finished.stderr) == (2, True)
    assert_refused(run("truncate", sequence, "--fraction", 0.5, "-o", sequence.with_name("b.ulc")), "sequence")


def test_animations(tmp_path: Path, tiny_model_dir: Path, run: Run) -> None:
    frames = [Image.fromarray(moving(number)) for number in range(3)]
    for suffix in (".gif", ".png", ".webp"):
        source, target = tmp_path / f"clip{suffix}", tmp_path / f"clip{suffix}.ulc"
        frames[0].save(source, save_all=True, append_images=frames[1:], duration=[40, 120, 500])
        finished = run("encode", source, "-o", target, "--model", tiny_model_dir)
        assert (finished.code, finished.stderr) == (0, "")
        times = [frame.time_s for frame in ulcodec.load(tiny_model_dir).decode_video(target)]
        assert [float(second) for second in times] == [0, 0.04, 0.16]
        assert run("info", target, "--json").json["duration_s"] == pytest.approx(0.66)
    still = tmp_path / "still.gif"
    frames[0].save(still)
    assert run("encode", still, "--model", tiny_model_dir).code == 0
    assert run("info", tmp_path / "still.ulc", "--json").json["version"] == 1


def test_compare(clip: Path, sequence: Path, tiny_model_dir: Path, run: Run) -> None:
    values = run("compare", clip, sequence, "--model", tiny_model_dir, "--json").json
    assert (values["n_frames"], values["file_bytes"]) == (9, sequence.stat().st_size)
    originals = frames_of(clip)
    decoded = [frame.pixels for frame in ulcodec.load(tiny_model_dir).decode_video(sequence)]
    assert values["psnr_db"] == pytest.approx(np.mean(list(map(psnr_db, originals, decoded))))
    assert values["yuv_psnr_db"] > values["psnr_db"]
    other = write_video(clip.with_name("short.mkv"), n_frames=4)
    assert_refused(
        run("compare", other, sequence, "--model", tiny_model_dir), "clip.ulc has more frames than", "which has 4"
    )
    finished = run("compare", clip, sequence, "-o", clip.with_name("a.png"), "--model", tiny_model_dir)
    assert (finished.code, "--output" in finished.stderr) == (2, True)
    assert "inf" in run("compare", clip, clip).stdout


def test_a_folder_of_pictures_and_videos(clip: Path, photo: Path, tiny_model_dir: Path, run: Run) -> None:
    folder = clip.parent
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42 and nothing else")
    finished = run("encode", folder, "-o", folder / "out/", "--model", tiny_model_dir, "--json")
    assert finished.code == 1
    assert {"clip.ulc", "photo.ulc"} <= file_names(folder / "out")
    [line] = finished.stderr.splitlines()
    assert line.startswith(f"ulcodec: error: {folder / 'broken.mp4'}: ")
    summary = finished.json
    assert (summary["n_done"], summary["n_failed"]) == (2, 1)
    again = run("encode", folder, "-o", folder / "out/", "--model", tiny_model_dir, "--json")
    assert again.json["n_up_to_date"] == 2
    decoded = run("decode", folder / "out", "-o", folder / "back/", "--model", tiny_model_dir)
    assert decoded.code == 0, decoded.stderr
    assert {"clip.mp4", "photo.png"} <= file_names(folder / "back")


# Unfinished and damaged files


def test_resume_goes_on_and_gives_the_same_file(sequence: Path, clip: Path, tiny_model_dir: Path, run: Run) -> None:
    whole, part = sequence.read_bytes(), sequence.with_name("clip.ulc.part")
    sequence.unlink()
    part.write_bytes(whole[: len(whole) // 2])
    command = ["encode", clip, "-q", 90, "--model", tiny_model_dir]
    assert_refused(run(*command), "clip.ulc.part", "--resume")
    assert run(*command, "--resume").code == 0
    resumed = ulcodec.load(tiny_model_dir).decode_video(sequence)
    assert [frame.index for frame in resumed] == list(range(N_FRAMES))
    assert resumed.media().read() == ulcodec.load(tiny_model_dir).decode_video(whole).media().read()
    assert not part.exists()


def test_resume_refuses_a_changed_source(sequence: Path, clip: Path, tiny_model_dir: Path, run: Run) -> None:
    part = sequence.with_name("clip.ulc.part")
    sequence.rename(part)
    os.utime(part, (1, 1))
    command = ["encode", clip, "-q", 90, "--model", tiny_model_dir]
    assert_refused(run(*command, "--resume"), "has changed since")
    assert run(*command, "--force").code == 0
    assert not part.exists()
    assert sequence.exists()


def test_a_killed_run_leaves_frames_that_play(tmp_path: Path, tiny_model_dir: Path, run: Run) -> None:
    clip = write_video(tmp_path / "clip.mkv", n_frames=300)
    command = [
        sys.executable,
        "-m",
        "ulcodec_cli",
        "encode",
        str(clip),
        "--model",
        str(tiny_model_dir),
        "--effort",
        "4",
    ]
    part = tmp_path / "clip.ulc.part"
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while process.poll() is None and (not part.exists() or part.stat().st_size < 10_000):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert file_names(tmp_path) == {"clip.mkv", "clip.ulc.part"}
    finished = run("decode", part, "-o", tmp_path / "out.mkv", "--model", tiny_model_dir)
    assert finished.code == 0
    assert "warning" in finished.stderr
    assert "incomplete" in finished.stderr
    n_frames = len(frames_of(tmp_path / "out.mkv"))
    with open(part, "rb") as file:
        assert WrittenPart.read(file).builder.n_frames == n_frames > 0
    assert run("verify", part).code == 1
    assert run("info", part, "--json").json["complete"] is False


def test_an_error_in_the_middle_leaves_the_frames_before_it(
    clip: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_encoder, "LARGEST_GROUP", 2)
    groups = count()
    encode = group_coding.encode_residual

    def fail_later(*arguments: Any, **options: Any) -> Any:
        if next(groups) == 6:
            raise MemoryError
        return encode(*arguments, **options)

    monkeypatch.setattr(group_coding, "encode_residual", fail_later)
    target, part = clip.with_suffix(".ulc"), clip.with_name("clip.ulc.part")
    target.write_bytes(b"an older file")
    finished = run("encode", clip, "--model", tiny_model_dir, "--force")
    assert finished.code == 2
    assert target.read_bytes() == b"an older file"
    notice, error = finished.stderr.splitlines()
    assert notice == f"ulcodec: {part} holds the first 6 frames; --resume goes on"
    assert error == "ulcodec: error: out of memory"
    assert run("encode", clip, "--model", tiny_model_dir, "--force", "--resume").code == 0
    assert run("info", target, "--json").json["n_frames"] == N_FRAMES


def test_nothing_is_left_of_a_source_that_is_no_video(tmp_path: Path, tiny_model_dir: Path, run: Run) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video at all" * 50)
    assert_refused(run("encode", tmp_path / "clip.mp4", "--model", tiny_model_dir), "video")
    assert file_names(tmp_path) == {"clip.mp4"}


def test_recover(clip: Path, sequence: Path, tiny_model_dir: Path, run: Run) -> None:
    assert run("encode", clip, "-q", 90, "--force", "--gop", 1, "--model", tiny_model_dir).code == 0
    data = bytearray(sequence.read_bytes())
    middle = data.index(b"ULCI", len(data) // 2)
    data[middle + 12] ^= 1
    sequence.write_bytes(data)
    target = sequence.with_name("out.mkv")
    assert_refused(run("decode", sequence, "-o", target, "--model", tiny_model_dir), "damaged")
    assert not target.exists()
    finished = run("decode", sequence, "-o", target, "--recover", "--model", tiny_model_dir)
    assert finished.code == 0
    assert "damaged" in finished.stderr
    assert len(frames_of(target)) == N_FRAMES - 1
    finished = run("verify", sequence)
    assert (finished.code, "ChecksumError" in finished.stderr) == (1, True)


# Standard streams


def test_standard_streams(clip: Path, tiny_model_dir: Path) -> None:
    def command(arguments: list[str], data: bytes) -> bytes:
        full = [sys.executable, "-m", "ulcodec_cli", *arguments, "--model", str(tiny_model_dir)]
        return subprocess.run(full, input=data, stdout=subprocess.PIPE, check=True).stdout

    y4m = io.BytesIO()
    with open_video(clip) as source, open_target(y4m, source.format, container="yuv4mpegpipe") as target:
        for number, frame in enumerate(source):
            target.write(frame.pixels, frame.time, source.format.nominal_time(number + 1) - frame.time)
    coded = command(["encode", "-", "-q", "80"], y4m.getvalue())
    assert ulcodec.info(coded)["n_frames"] == N_FRAMES
    decoded = command(["decode", "-"], coded)
    assert decoded.startswith(b"YUV4MPEG2 W64 H48 F25:1")
    with open_video(decoded) as source:
        assert sum(1 for _ in source) == N_FRAMES
    png = command(["decode", "-", "--frame", "2"], coded)
    assert Image.open(io.BytesIO(png)).size == (WIDTH, HEIGHT)


def test_a_sequence_on_stdin_keeps_its_audio(sequence: Path, tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "ulcodec_cli", "decode", "-", "-o", "-", "--model", str(tiny_model_dir)]
    data = sequence.read_bytes()
    finished = subprocess.run([*command, "--format", "mkv"], input=data, capture_output=True, check=True)
    with av.open(io.BytesIO(finished.stdout)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    assert finished.stderr == b""
    finished = subprocess.run(command, input=data, capture_output=True, check=True)
    assert b"audio and subtitles are left out" in finished.stderr


def test_input_that_comes_slowly_is_recognised(sequence: Path, tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "ulcodec_cli", "decode", "-", "--model", str(tiny_model_dir)]
    data = sequence.read_bytes()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data[:2])
        process.stdin.flush()
        time.sleep(0.5)
        process.stdin.write(data[2:])
        process.stdin.close()
        assert process.stdout.read().startswith(b"YUV4MPEG2")


def test_files_in_the_way_of_the_unfinished_output_are_kept(clip: Path, tiny_model_dir: Path, run: Run) -> None:
    part = clip.with_name("clip.ulc.part")
    for options in ([], ["--resume"], ["--force"]):
        part.write_text("a download of another program")
        assert_refused(run("encode", clip, *options, "--model", tiny_model_dir), "in the way", "clip.ulc.part")
        assert part.read_text() == "a download of another program"
    part.unlink()
    part.symlink_to(clip)
    assert_refused(run("encode", clip, "--force", "--model", tiny_model_dir), "in the way")
    part.unlink()
    part.write_bytes(b"")  # of a run that was killed at once
    assert run("encode", clip, "--resume", "--model", tiny_model_dir).code == 0


def test_two_runs_do_not_write_one_file(clip: Path, sequence: Path, tiny_model_dir: Path, run: Run) -> None:
    fcntl = pytest.importorskip("fcntl", reason="needs the locks of Unix")
    part = clip.with_name("clip.ulc.part")
    data = sequence.read_bytes()[:500]
    part.write_bytes(data)
    with open(part, "r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for option in ("--resume", "--force"):
            finished = run("encode", clip, option, "--force", "--model", tiny_model_dir)
            assert_refused(finished, "another run is writing it", "clip.ulc.part")
    assert part.read_bytes() == data


def test_resume_refuses_other_options(clip: Path, sequence: Path, tiny_model_dir: Path, run: Run) -> None:
    part, data = clip.with_name("clip.ulc.part"), sequence.read_bytes()[:-100]
    part.write_bytes(data)
    command = ["encode", clip, "--force", "--resume", "--model", tiny_model_dir]
    assert_refused(run(*command, "-q", 50), "clip.ulc.part", "at quality 80 or 90, not 50")
    assert_refused(run(*command, "-q", 90, "--gop", 7), "another GOP")
    assert part.read_bytes() == data


def test_a_full_disk_leaves_frames_and_names_the_file(clip: Path, tiny_model_dir: Path) -> None:
    script = "import resource\nfrom ulcodec_cli.main import app\n"
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (800, 800))\napp()"
    command = [sys.executable, "-c", script, "encode", str(clip), "--model", str(tiny_model_dir), "-q", "90"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2
    lines = finished.stderr.splitlines()
    assert lines[-1].startswith(f"ulcodec: error: {clip}".replace("clip.mkv", "clip.ulc.part: "))
    assert len(lines) <= 2
    for name in file_names(clip.parent) - {"clip.mkv"}:
        assert name == "clip.ulc.part"
        assert "--resume goes on" in lines[0]


def test_percent_signs_in_names(clip: Path, tiny_model_dir: Path, run: Run) -> None:
    source = clip.rename(clip.with_name("100%d.mkv"))
    assert run("encode", source, "--model", tiny_model_dir).code == 0
    assert run("decode", source.with_suffix(".ulc"), "--model", tiny_model_dir).code == 0
    assert file_names(clip.parent) == {"100%d.mkv", "100%d.ulc", "100%d.mp4"}


def test_recovered_pictures_keep_their_numbers(
    clip: Path, sequence: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    assert run("encode", clip, "-q", 90, "--force", "--gop", 1, "--model", tiny_model_dir).code == 0
    data = bytearray(sequence.read_bytes())
    data[data.index(b"ULCI", data.index(b"ULCI") + 4) + 12] ^= 1
    sequence.write_bytes(data)
    command = ["decode", sequence, "--recover", "-o", tmp_path / "n" / "%d.png", "--model", tiny_model_dir]
    assert "at byte" in run(*command).stderr
    assert file_names(tmp_path / "n") == {f"{number}.png" for number in range(N_FRAMES) if number != 1}


def test_json_errors(clip: Path, tiny_model_dir: Path, run: Run) -> None:
    finished = run("encode", clip, "--target-psnr", 30, "--json", "--model", tiny_model_dir)
    assert "for pictures" in json.loads(finished.stdout)["error"]
