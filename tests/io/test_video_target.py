"""Writing of clips: containers, colours, times, copied streams, and files that are whole or absent."""

import os
import stat
import warnings
from fractions import Fraction
from io import BytesIO, RawIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ulcodec.errors import ImageError
from ulcodec.format.container import Layout
from ulcodec.format.sequence import Chroma, ClipFormat
from ulcodec.io.video_source import open_video
from ulcodec.io.video_target import open_target

HEIGHT, WIDTH, N_FRAMES = 32, 48, 8
MS = Fraction(1, 1000)


def frames_of(height: int = HEIGHT, width: int = WIDTH, n_frames: int = N_FRAMES) -> NDArray[np.uint8]:
    """Smooth frames [N, H, W, 3] of weak colours that differ."""
    t, y, x = np.mgrid[:n_frames, :height, :width]
    wave = [np.sin(x / 9 + t / 2), np.cos(y / 7 + t / 3), np.sin((x + y) / 11 - t / 4)]
    grey = 128 + 60 * wave[0] * wave[1]
    return np.stack([grey + 30 * part for part in wave], axis=-1).astype(np.uint8)


FRAMES = frames_of()


def clip_format(height: int = HEIGHT, width: int = WIDTH, **fields: Any) -> ClipFormat:
    """A format of 25 frames a second in YUV 4:2:0 of BT.601, unless `fields` say otherwise."""
    yuv = {"chroma": Chroma.YUV420, "full_range": False, "matrix": 6, "primaries": 6, "transfer": 6}
    rate = {"time_base": Fraction(1, 25), "frame_rate": Fraction(25)}
    return ClipFormat(width=width, height=height, **{**rate, **yuv, **fields})


RGB = {"chroma": Chroma.YUV444, "full_range": True, "matrix": 0, "primaries": 1, "transfer": 13}
GREY = {"layout": Layout.GREY, "chroma": Chroma.YUV444, "matrix": 2}


def write(
    path: Any, format: ClipFormat, frames: NDArray[np.integer] = FRAMES, times: list[int] | None = None, **options: Any
) -> Any:
    """Write frames at `times` in ticks, by default at every tick, each until the next one; return the path."""
    times = times or list(range(len(frames) + 1))
    with open_target(path, format, **options) as target:
        for pixels, time, following in zip(frames, times[:-1], times[1:], strict=True):
            target.write(pixels, time, following - time)
    return path


def read(source: Any) -> tuple[NDArray[np.integer], list[Fraction], ClipFormat, Fraction]:
    """Frames, their times in seconds, format, and end in seconds."""
    with open_video(source) as clip:
        frames = list(clip)
    seconds = [clip.format.seconds(frame.time) for frame in frames]
    return np.stack([frame.pixels for frame in frames]), seconds, clip.format, clip.format.seconds(clip.end or 0)


def stream_of(path: Path) -> tuple[str, str]:
    """Codec and pixel format of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.codec_context.name, stream.codec_context.pix_fmt or ""


def psnr_db(a: NDArray[np.integer], b: NDArray[np.integer], peak: float = 255) -> float:
    return float(10 * np.log10(peak**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


@pytest.mark.parametrize(
    ("suffix", "codec", "least_db"),
    [(".mkv", "ffv1", 50), (".mp4", "h264", 36), (".mov", "h264", 36), (".webm", "vp9", 36), (".y4m", "rawvideo", 50)],
)
def test_containers(
    suffix: str, codec: str, least_db: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / f"a{suffix}", clip_format())
    assert stream_of(path) == (codec, "yuv420p")
    frames, seconds, format, end = read(path)
    assert seconds == [Fraction(number, 25) for number in range(N_FRAMES)]
    assert end == Fraction(N_FRAMES, 25)
    assert psnr_db(frames, FRAMES) > least_db
    assert (format.width, format.height, format.frame_rate) == (WIDTH, HEIGHT, 25)
    assert (format.chroma, format.full_range, format.matrix) == (Chroma.YUV420, False, 6)
    assert (format.primaries, format.transfer) == ((2, 2) if suffix == ".y4m" else (6, 6))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_variable_times_are_kept(suffix: str, tmp_path: Path) -> None:
    times = [20, 60, 70, 71, 300, 301, 900, 901, 1000]
    path = write(tmp_path / f"a{suffix}", clip_format(time_base=MS), times=times)
    with av.open(str(path)) as container:
        read_times = sorted(frame.pts * frame.time_base for frame in container.decode(video=0))
    assert read_times == [time * MS for time in times[:-1]]


@pytest.mark.parametrize("time_base", [Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 12800)])
def test_mp4_keeps_any_tick(time_base: Fraction, tmp_path: Path) -> None:
    times = [3, 4, 6, 10, 11, 17, 18, 30, 31]
    path = write(tmp_path / "a.mp4", clip_format(time_base=time_base, frame_rate=1 / time_base), times=times)
    with av.open(str(path)) as container:
        read_times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert read_times == [time * time_base for time in times[:-1]]


def test_end_of_the_last_frame(tmp_path: Path) -> None:
    times = [0, 40, 80, 120, 160, 200, 240, 280, 780]
    for suffix in (".mkv", ".mp4"):
        _, _, _, end = read(write(tmp_path / f"a{suffix}", clip_format(time_base=MS), times=times))
        assert end == pytest.approx(0.78, abs=1e-3)


def test_y4m_repeats_and_drops_frames_to_keep_the_time(tmp_path: Path) -> None:
    path = tmp_path / "a.y4m"
    with pytest.warns(UserWarning, match="follow too closely") as caught:
        write(path, clip_format(time_base=MS), FRAMES[:5], times=[0, 40, 45, 50, 160, 320])
    assert len(caught) == 1
    frames, seconds, _, _ = read(path)
    assert len(seconds) == 8
    sources = [int(np.argmin([np.abs(frame.astype(int) - truth).mean() for truth in FRAMES[:5]])) for frame in frames]
    assert sources == [0, 3, 3, 3, 4, 4, 4, 4]


def test_y4m_of_times_in_milliseconds_has_every_frame_once(tmp_path: Path) -> None:
    times = [round(1000 * number / 30) for number in range(N_FRAMES + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = write(tmp_path / "a.y4m", clip_format(time_base=MS, frame_rate=Fraction(30)), times=times)
    frames, seconds, _, _ = read(path)
    assert len(seconds) == N_FRAMES
    assert psnr_db(frames, FRAMES) > 50


@pytest.mark.parametrize("layout", ["420", "422", "444"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (31, 47)])
def test_planes_of_a_yuv_source_come_back(
    layout: str, full_range: bool, height: int, width: int, tmp_path: Path
) -> None:
    """YUV -> RGB -> YUV agrees within a small error in every plane."""
    chroma = {"420": Chroma.YUV420, "422": Chroma.YUV422, "444": Chroma.YUV444}[layout]
    format = clip_format(height, width, chroma=chroma, full_range=full_range)
    for suffix in (".y4m", ".mkv"):
        first = write(tmp_path / f"a{suffix}", format, frames_of(height, width))
        pixels, _, read_format, _ = read(first)
        assert (read_format.chroma, read_format.full_range) == (chroma, full_range)
        second = write(tmp_path / f"b{suffix}", read_format, pixels)
        with av.open(str(first)) as a, av.open(str(second)) as b:
            for ours, theirs in zip(a.decode(video=0), b.decode(video=0), strict=True):
                assert ours.format.name.startswith(f"yuv{'j' if 'yuvj' in ours.format.name else ''}{layout}p")
                for plane, other in zip(ours.planes, theirs.planes, strict=True):
                    rows = [np.frombuffer(memoryview(p), np.uint8).reshape(p.height, -1) for p in (plane, other)]
                    assert psnr_db(rows[0][:, : plane.width], rows[1][:, : plane.width]) > 45


@pytest.mark.parametrize("suffix", [".mkv", ".y4m"])
@pytest.mark.parametrize(("fields", "tolerance"), [({"bit_depth": 10}, 80), ({"bit_depth": 12}, 40)])
def test_deep_samples_come_back(suffix: str, fields: dict[str, Any], tolerance: float, tmp_path: Path) -> None:
    frames = FRAMES.astype(np.uint16) * 257
    format = clip_format(**fields, chroma=Chroma.YUV444)
    pixels, _, read_format, _ = read(write(tmp_path / f"a{suffix}", format, frames))
    assert pixels.dtype == np.uint16
    assert read_format.bit_depth == fields["bit_depth"]
    assert np.sqrt(np.mean((pixels.astype(float) - frames) ** 2)) < tolerance


def test_deep_samples_in_mp4(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", clip_format(bit_depth=10), FRAMES.astype(np.uint16) * 257)
    assert stream_of(path) == ("h264", "yuv420p10le")
    assert psnr_db(read(path)[0], FRAMES * 257.0, 65535) > 36


@pytest.mark.parametrize(("depth", "bits"), [(8, 8), (10, 10), (16, 16)])
def test_rgb_comes_back_exactly_from_matroska(depth: int, bits: int, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << bits, FRAMES.shape)
    frames = samples.astype(np.uint8) if depth == 8 else ((samples * 65535 + (1 << bits) // 2 - 1) // ((1 << bits) - 1))
    frames = frames if depth == 8 else frames.astype(np.uint16)
    pixels, _, format, _ = read(write(tmp_path / "a.mkv", clip_format(bit_depth=depth, **RGB), frames))
    np.testing.assert_allclose(pixels, frames, atol=1 if depth == 10 else 0)
    assert (format.matrix, format.bit_depth) == (0, depth)


def test_rgb_becomes_420_where_players_need_it(tmp_path: Path) -> None:
    for suffix in (".mp4", ".webm"):
        path = write(tmp_path / f"a{suffix}", clip_format(**RGB))
        assert stream_of(path)[1] == "yuv420p"
        pixels, _, format, _ = read(path)
        assert (format.matrix, format.full_range) == (6, False)
        assert psnr_db(pixels, FRAMES) > 34


@pytest.mark.parametrize("depth", [8, 12])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("suffix", [".mkv", ".y4m", ".mp4"])
def test_grey(depth: int, full_range: bool, suffix: str, tmp_path: Path) -> None:
    frames = FRAMES[..., 0] if depth == 8 else FRAMES[..., 0].astype(np.uint16) * 257
    peak = np.iinfo(frames.dtype).max
    path = write(tmp_path / f"a{suffix}", clip_format(bit_depth=depth, full_range=full_range, **GREY), frames)
    pixels, _, format, _ = read(path)
    assert format.full_range == full_range
    if suffix == ".mp4":
        assert psnr_db(pixels, np.repeat(frames[..., None], 3, axis=-1), peak) > 40
    else:
        assert format.layout is Layout.GREY
        np.testing.assert_allclose(pixels / peak, frames / peak, atol=1.01 / 255 / 2 ** (depth - 8))


@pytest.mark.parametrize(
    ("suffix", "pixel_format"), [(".mp4", "yuv444p"), (".mkv", "yuv420p"), (".webm", "yuv420p"), (".y4m", "yuv420p")]
)
def test_odd_sizes(suffix: str, pixel_format: str, tmp_path: Path) -> None:
    frames = frames_of(31, 47)
    path = write(tmp_path / f"a{suffix}", clip_format(31, 47), frames)
    assert stream_of(path)[1] == pixel_format
    pixels, _, _, _ = read(path)
    assert pixels.shape == frames.shape
    assert psnr_db(pixels, frames) > 32


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (4, 4)])
def test_tiny_sizes(height: int, width: int, tmp_path: Path) -> None:
    for suffix in (".mkv", ".y4m"):
        pixels, _, _, _ = read(write(tmp_path / f"a{suffix}", clip_format(height, width), frames_of(height, width)))
        assert pixels.shape == (N_FRAMES, height, width, 3)


def test_colour_tags_and_aspect_are_written(tmp_path: Path) -> None:
    tags = {"primaries": 9, "transfer": 16, "matrix": 9, "sample_aspect": Fraction(4, 3)}
    for suffix in (".mp4", ".mov"):
        for full_range in (False, True):
            path = write(tmp_path / f"a{suffix}", clip_format(**tags, full_range=full_range))
            _, _, format, _ = read(path)
            assert (format.primaries, format.transfer, format.matrix, format.full_range) == (9, 16, 9, full_range)
            assert format.sample_aspect == Fraction(4, 3)
    _, _, format, _ = read(write(tmp_path / "a.y4m", clip_format(**tags)))
    assert format.sample_aspect == Fraction(4, 3)
    _, _, format, _ = read(write(tmp_path / "a.mkv", clip_format(**tags), encoder="libx264"))
    assert (format.primaries, format.transfer, format.matrix) == (9, 16, 9)
    assert format.sample_aspect == Fraction(4, 3)
    with pytest.warns(UserWarning, match="pixels have the aspect 4/3"):
        write(tmp_path / "a.webm", clip_format(**tags))


def source_with_media(file: Path, audio: str, subtitles: bool = False) -> list[tuple[str, bytes]]:
    """Write a Matroska stream of audio, and two subtitles if asked for; return type and bytes of its packets."""
    with av.open(str(file), "w", format="matroska") as output:
        stream: Any = output.add_stream(audio, rate=48000, layout="mono")
        text: Any = output.add_mux_stream("subrip") if subtitles else None
        output.start_encoding()
        samples = (8000 * np.sin(np.arange(24000) / 20)).astype(np.int16)
        size = stream.codec_context.frame_size or 1024
        packets = []
        for start in range(0, len(samples), size):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            for part in av.AudioResampler(stream.format, "mono", 48000).resample(frame):
                packets += stream.encode(part)
        for number, packet in enumerate([*packets, *stream.encode()]):
            if subtitles and number in (1, 4):
                line: Any = av.Packet(f"line {number}".encode())
                line.stream, line.pts, line.dts, line.duration, line.time_base = text, 40 * number, 40 * number, 80, MS
                output.mux(line)
            output.mux(packet)
    return packets_of(file)


def packets_of(path: Any) -> list[tuple[str, bytes]]:
    """Type and bytes of all packets but those of the video, stream by stream."""
    with av.open(path if isinstance(path, BytesIO) else str(path)) as container:
        streams = [stream for stream in container.streams if stream.type in ("audio", "subtitle")]
        packets = [packet for packet in container.demux(streams) if packet.size] if streams else []
        return sorted((packet.stream.type, packet.pts * packet.time_base, bytes(packet)) for packet in packets)


@pytest.mark.parametrize(
    ("suffix", "audio"), [(".mkv", "aac"), (".mkv", "flac"), (".mp4", "aac"), (".mov", "aac"), (".webm", "libopus")]
)
def test_audio_is_copied(suffix: str, audio: str, tmp_path: Path) -> None:
    sent = source_with_media(tmp_path / "media", audio)
    path = tmp_path / f"a{suffix}"
    with open(tmp_path / "media", "rb") as media:
        write(path, clip_format(), media=media)
    arrived = packets_of(path)
    assert [packet[2] for packet in arrived] == [packet[2] for packet in sent]
    assert [float(packet[1]) for packet in arrived] == pytest.approx([float(packet[1]) for packet in sent], abs=1e-3)
    frames, seconds, _, _ = read(path)
    assert (len(frames), seconds[0]) == (N_FRAMES, 0)


def test_aac_in_mp4_has_exact_times(tmp_path: Path) -> None:
    source_with_media(tmp_path / "media", "aac")
    with open(tmp_path / "media", "rb") as media:
        write(tmp_path / "a.mp4", clip_format(), media=media)
    times = [packet[1] * 48000 for packet in packets_of(tmp_path / "a.mp4")]
    assert {after - before for before, after in pairwise(times)} == {1024}


def test_video_and_audio_go_round(tmp_path: Path) -> None:
    """Source -> target -> source: the media stay as they are, byte for byte."""
    sent = source_with_media(tmp_path / "media", "aac", subtitles=True)
    with open(tmp_path / "media", "rb") as media:
        write(tmp_path / "a.mkv", clip_format(), media=media)
    with open_video(tmp_path / "a.mkv") as clip:
        n_frames, copied = len(list(clip)), clip.take_media()
    assert n_frames == N_FRAMES
    assert packets_of(BytesIO(copied)) == sent
    write(tmp_path / "b.mkv", clip_format(), media=BytesIO(copied))
    assert packets_of(tmp_path / "b.mkv") == sent


def test_media_are_read_no_faster_than_the_video(tmp_path: Path) -> None:
    class Counting(RawIOBase):
        n_read = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            piece = data[self.n_read : self.n_read + min(len(buffer), 500)]
            buffer[: len(piece)] = piece
            self.n_read += len(piece)
            return len(piece)

    source_with_media(tmp_path / "media", "pcm_s16le")
    data, media = (tmp_path / "media").read_bytes(), Counting()
    with open_target(tmp_path / "a.mkv", clip_format(time_base=MS), media=media) as target:
        target.write(FRAMES[0], 0, 40)
        assert media.n_read < len(data) // 2
        target.write(FRAMES[1], 100, 40)
        assert media.n_read < len(data) // 2
    assert media.n_read == len(data)


def test_stream_that_the_container_cannot_hold_is_left_out(tmp_path: Path) -> None:
    source_with_media(tmp_path / "media", "aac", subtitles=True)
    for suffix, kinds in ((".mp4", {"audio"}), (".webm", set())):
        with open(tmp_path / "media", "rb") as media, pytest.warns(UserWarning, match="is left out") as caught:
            write(tmp_path / f"a{suffix}", clip_format(), media=media)
        assert len(caught) == 2 - len(kinds)
        assert {packet[0] for packet in packets_of(tmp_path / f"a{suffix}")} == kinds
    with pytest.warns(UserWarning, match=r"\.y4m file holds none"):
        write(tmp_path / "a.y4m", clip_format(), media=BytesIO(b""))


def test_media_without_packets(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "media"), "w", format="matroska") as output:
        output.add_stream("flac", rate=48000, layout="mono")
        output.start_encoding()
    for data in ((tmp_path / "media").read_bytes(), b""):
        write(tmp_path / "a.mkv", clip_format(), media=BytesIO(data))
        assert len(read(tmp_path / "a.mkv")[1]) == N_FRAMES


class Sink(RawIOBase):
    """A file that cannot seek."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


@pytest.mark.parametrize("container", ["yuv4mpegpipe", "matroska", "mp4", "webm"])
def test_file_objects(container: str) -> None:
    for file in (BytesIO(), Sink()):
        write(file, clip_format(), container=container)
        assert not file.closed
        data = bytes(file.getvalue() if isinstance(file, BytesIO) else file.data)
        assert len(read(data)[1]) == N_FRAMES


def test_encoder_and_crf(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", clip_format(64, 64), frames_of(64, 64), encoder="libx265")
    assert stream_of(path)[0] == "hevc"
    sizes = [write(tmp_path / "a.mp4", clip_format(), crf=crf).stat().st_size for crf in (10, 30)]
    assert sizes[0] > sizes[1]
    path = write(tmp_path / "a.mkv", clip_format(**RGB), encoder="libx264rgb", crf=0)
    np.testing.assert_array_equal(read(path)[0], FRAMES)


def test_svt_av1_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.webm", clip_format(64, 64), frames_of(64, 64), encoder="libsvtav1")
    assert psnr_db(read(path)[0], frames_of(64, 64)) > 34
    assert capfd.readouterr() == ("", "")
    assert "SVT_LOG" not in os.environ


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="needs Linux's scheduling policies")
def test_svt_av1_gets_no_real_time_priority(tmp_path: Path) -> None:
    """It asks for one if the process may have it, as root's may."""

    def policies() -> set[int]:
        return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}

    before = policies()
    with open_target(tmp_path / "a.webm", clip_format(64, 64), encoder="libsvtav1") as target:
        for number, frame in enumerate(frames_of(64, 64)):
            target.write(frame, number, 1)
        assert policies() == before
    assert os.sched_getscheduler(0) in before
    assert policies() == before


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.mp4", {"encoder": "nothing"}, "no encoder of videos is called 'nothing'"),
        ("a.mp4", {"encoder": "aac"}, "no encoder of videos is called 'aac'"),
        ("a.webm", {"encoder": "libx264"}, "does not support 'libx264'"),
        ("a.mp4", {"encoder": "libx265"}, "needs a width of 64 pixels, not 48"),
        ("a.mkv", {"crf": 20}, "'ffv1' has no CRF"),
        ("a.mp4", {"crf": -3}, "cannot be written"),
        ("a.jpg", {}, "'.jpg' is not that of a video"),
        ("a.mp4", {"container": "ogg"}, "'ogg' is not supported"),
    ],
)
def test_impossible_clips_are_refused(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=message):
        write(tmp_path / name, clip_format(), **options)
    assert list(tmp_path.iterdir()) == []


def test_pixels_of_another_format_are_refused(tmp_path: Path) -> None:
    for pixels in (FRAMES[0, 1:], FRAMES[0, ..., 0], FRAMES[0].astype(np.uint16)):
        with pytest.raises(ValueError, match="pixels must be uint8"):
            write(tmp_path / "a.mkv", clip_format(), pixels[None])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.y4m"])
def test_exception_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    target = open_target(path, clip_format())
    target.write(FRAMES[0], 0, 1)
    with pytest.raises(KeyboardInterrupt), target:
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not hasattr(os, "fchmod"), reason="needs modes of files as on Unix")
def test_replaced_file_passes_on_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(b"old")
    path.chmod(0o600)
    (tmp_path / "link.mkv").symlink_to(path)
    write(tmp_path / "link.mkv", clip_format())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (tmp_path / "link.mkv").is_symlink()
    assert len(read(path)[1]) == N_FRAMES


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.y4m"])
def test_full_disk_names_the_file(name: str, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path / name, clip_format(), np.concatenate([FRAMES] * 20))
    assert str(caught.value.filename) == str(tmp_path / name)


def test_unreadable_media_are_left_out(tmp_path: Path) -> None:
    source_with_media(tmp_path / "media", "flac")
    data = (tmp_path / "media").read_bytes()
    with pytest.warns(UserWarning, match="audio and subtitles cannot be read"):
        write(tmp_path / "a.mkv", clip_format(), media=BytesIO(b"no Matroska"))
    write(tmp_path / "b.mkv", clip_format(), media=BytesIO(data[: len(data) // 2]))
    for name in ("a.mkv", "b.mkv"):
        assert len(read(tmp_path / name)[1]) == N_FRAMES


def test_closing_twice(tmp_path: Path) -> None:
    with open_target(tmp_path / "a.mp4", clip_format()) as target:
        target.write(FRAMES[0], 0, 1)
        target.close()
    target.close()
    assert len(read(tmp_path / "a.mp4")[1]) == 1


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path / "nothing" / "a.mkv", clip_format())
    assert str(caught.value.filename) == str(tmp_path / "nothing" / "a.mkv")
