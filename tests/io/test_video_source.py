"""Reading of clips: containers, animations, times, colours, copied streams, parts, and damage."""

import os
import threading
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from streams import Pipe

from ulcodec.errors import ImageError
from ulcodec.format.container import Layout
from ulcodec.format.sequence import Chroma
from ulcodec.io.clip_kinds import HEAD_BYTES, is_animation, is_video
from ulcodec.io.video_source import SourceFrame, open_video

HEIGHT, WIDTH, N_FRAMES, RATE = 32, 48, 8, 25
RNG = np.random.default_rng(0)


def frames_of(height: int = HEIGHT, width: int = WIDTH, n_frames: int = N_FRAMES) -> NDArray[np.uint8]:
    """Smooth frames [N, H, W, 3] that differ."""
    t, y, x = np.mgrid[:n_frames, :height, :width]
    wave = [np.sin(x / 9 + t / 2), np.cos(y / 7 + t / 3), np.sin((x + y) / 11 - t / 4)]
    return np.stack([128 + 100 * part for part in wave], axis=-1).astype(np.uint8)


FRAMES = frames_of()


def add_audio(container: Any, codec: str, n_seconds: float = N_FRAMES / RATE) -> Callable[[], None]:
    """Add a stream of a sine; the function that is returned writes it."""
    stream = container.add_stream(codec, rate=48000)
    stream.layout = "mono"

    def write() -> None:
        samples = (8000 * np.sin(np.arange(int(n_seconds * 48000)) / 20)).astype(np.int16)
        container.start_encoding()
        size = stream.codec_context.frame_size or 1024
        for start in range(0, len(samples), size):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            resampled = av.AudioResampler(stream.format, "mono", 48000).resample(frame)
            container.mux([packet for part in resampled for packet in stream.encode(part)])
        container.mux(stream.encode())

    return write


def make_clip(
    file: Any,
    codec: str = "ffv1",
    pixel_format: str = "yuv420p",
    frames: NDArray[np.integer] = FRAMES,
    times: list[int] | None = None,
    time_base: Fraction | None = None,
    audio: str | None = None,
    audio_s: float = N_FRAMES / RATE,
    rotation: int = 0,
    container: str | None = None,
    options: dict[str, str] | None = None,
    **settings: Any,
) -> Any:
    """Write frames with PyAV, at 25 a second unless `times` in `time_base` are given, and return the file."""
    time_base = time_base or Fraction(1, RATE)
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=RATE, options=options or {}, time_base=time_base)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        write_audio = add_audio(output, audio, audio_s) if audio else None
        source_format = {3: "rgb24" if frames.dtype == np.uint8 else "rgb48le"}.get(frames.shape[-1], pixel_format)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, source_format)
            frame = frame if pixel_format == source_format else frame.reformat(format=pixel_format)
            frame.pts, frame.time_base = times[number] if times else number, time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if write_audio:
            write_audio()
    return file


def read(source: Any, **part: Any) -> tuple[list[SourceFrame], Any, bytes]:
    """All frames of a clip, its source, and its media."""
    with open_video(source, **part) as clip:
        media = b""
        frames = []
        for frame in clip:
            frames.append(frame)
            media += clip.take_media()
        media += clip.take_media()
    return frames, clip, media


def packets_of(source: Any, kind: str) -> list[tuple[int | None, bytes]]:
    """Times in milliseconds and bytes of the packets of the first stream of a kind."""
    with av.open(source) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        packets = [packet for packet in container.demux(stream) if packet.size]
        return [(round(packet.pts * packet.time_base * 1000), bytes(packet)) for packet in packets]


def psnr_db(a: NDArray[np.integer], b: NDArray[np.integer], peak: float = 255) -> float:
    return float(10 * np.log10(peak**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


@pytest.mark.parametrize(
    ("name", "codec", "least_db"),
    [
        ("clip.mp4", "libx264", 30),
        ("clip.mov", "libx264", 30),
        ("clip.mkv", "ffv1", 35),
        ("clip.webm", "libvpx-vp9", 30),
        ("clip.ts", "mpeg2video", 24),
        ("clip.avi", "ffv1", 35),
        ("clip.y4m", "rawvideo", 35),
    ],
)
def test_containers(name: str, codec: str, least_db: float, tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / name), codec)
    for source in (path, Path(path), Path(path).read_bytes()):
        frames, clip, media = read(source)
        assert len(frames) == N_FRAMES
        assert min(psnr_db(frame.pixels, truth) for frame, truth in zip(frames, FRAMES, strict=True)) > least_db
        seconds = [clip.format.seconds(frame.time - frames[0].time) for frame in frames]
        assert seconds == pytest.approx([number / RATE for number in range(N_FRAMES)], abs=1e-3)
        assert clip.format.seconds(clip.end) == pytest.approx(clip.format.seconds(clip.format.start) + 0.32, abs=1e-3)
        assert (clip.format.width, clip.format.height, clip.format.frame_rate) == (WIDTH, HEIGHT, RATE)
        assert (clip.format.chroma, clip.format.matrix, clip.format.full_range) == (Chroma.YUV420, 6, False)
        assert clip.format.start == frames[0].time
        assert clip.n_frames in range(N_FRAMES - 1, N_FRAMES + 2)
        assert media == b""


def test_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    data = Path(make_clip(str(tmp_path / "a.y4m"), "rawvideo")).read_bytes()
    n_sent = len(data) // N_FRAMES * 3
    reading, writing = os.pipe()
    has_read = threading.Event()

    def send() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(data[:n_sent])
            file.flush()
            assert has_read.wait(10)
            file.write(data[n_sent:])

    sender = threading.Thread(target=send)
    sender.start()
    with os.fdopen(reading, "rb") as file, open_video(file) as clip:
        assert [next(clip).time, next(clip).time] == [0, 1]
        has_read.set()
        assert len(list(clip)) == N_FRAMES - 2
    sender.join()


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("a.y4m", "rawvideo"), ("a.ts", "mpeg2video")])
def test_pipes_and_files_have_equal_frames(name: str, codec: str, tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / name), codec, gop_size=4)
    for part in ({}, {"start_s": 0.2, "duration_s": 0.08}):
        from_file, _, _ = read(path, **part)
        from_pipe, _, _ = read(Pipe(Path(path).read_bytes()), **part)
        assert [frame.time for frame in from_pipe] == [frame.time for frame in from_file]
        for ours, theirs in zip(from_pipe, from_file, strict=True):
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)


def save_animation(name: str, durations: list[int], **options: Any) -> bytes:
    buffer = BytesIO()
    first, *others = [Image.fromarray(frame) for frame in FRAMES[: len(durations)]]
    first.save(buffer, name, save_all=True, append_images=others, duration=durations, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100})]
)
def test_animations(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = save_animation(name, [40, 40, 200, 40, 70], **options)
    (tmp_path / "a").write_bytes(data)
    assert is_animation(data)
    for source in (data, Pipe(data), tmp_path / "a"):
        frames, clip, media = read(source)
        assert [frame.time for frame in frames] == [0, 40, 80, 280, 320]
        assert (clip.end, clip.n_frames, media) == (390, 5, b"")
        assert clip.format.time_base == Fraction(1, 1000)
        assert clip.format.frame_rate == RATE
        assert (clip.format.matrix, clip.format.transfer, clip.format.full_range) == (0, 13, True)
        for frame, truth in zip(frames, FRAMES[:5], strict=True):
            assert psnr_db(frame.pixels, truth) > (100 if name in ("PNG", "WEBP") else 25)
    frames, clip, _ = read(data, start_s=0.08, duration_s=0.22)
    assert ([frame.time for frame in frames], clip.end) == ([0, 200], 220)


def test_animation_without_durations_has_ten_frames_a_second() -> None:
    frames, clip, _ = read(save_animation("GIF", [0, 0, 0]))
    assert [frame.time for frame in frames] == [0, 100, 200]
    assert clip.format.frame_rate == 10


def test_picture_before_a_png_animation_is_not_a_frame() -> None:
    frames, _, _ = read(save_animation("PNG", [40, 40], default_image=True))
    assert len(frames) == 1 or not np.array_equal(frames[0].pixels, FRAMES[0])


def test_transparency_is_shown_on_white() -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, :10] = 51
    pictures = [Image.fromarray(np.concatenate([frame, alpha], axis=2)) for frame in FRAMES[:3]]
    buffer = BytesIO()
    pictures[0].save(buffer, "WEBP", save_all=True, append_images=pictures[1:], lossless=True, exact=True)
    with pytest.warns(UserWarning, match="transparency is left out") as caught:
        frames, _, _ = read(buffer.getvalue())
    assert len(caught) == 1
    for frame, truth in zip(frames, FRAMES, strict=False):
        np.testing.assert_array_equal(frame.pixels[:, 10:], truth[:, 10:])
        np.testing.assert_allclose(frame.pixels[:, :10], 0.2 * truth[:, :10] + 0.8 * 255, atol=1)


def test_transparent_video_is_shown_on_white(tmp_path: Path) -> None:
    alpha = np.full((2, HEIGHT, WIDTH, 1), 51, np.uint8)
    path = make_clip(str(tmp_path / "a.mkv"), "ffv1", "bgra", np.concatenate([FRAMES[:2, :, :, ::-1], alpha], axis=3))
    with pytest.warns(UserWarning, match="transparency is left out"):
        frames, clip, _ = read(path)
    np.testing.assert_allclose(frames[0].pixels, 0.2 * FRAMES[0] + 0.8 * 255, atol=1)
    assert clip.format.matrix == 0


def test_pictures_and_videos_are_told_apart(tmp_path: Path) -> None:
    still = BytesIO()
    Image.fromarray(FRAMES[0]).save(still, "PNG")
    assert not is_animation(still.getvalue())
    assert not is_animation(b"GIF89a, or perhaps not")
    assert not is_video(still.getvalue()[:HEAD_BYTES], "a.png")
    for name, codec in (("a.mkv", "ffv1"), ("a.mp4", "libx264"), ("a.avi", "ffv1"), ("a.y4m", "rawvideo")):
        head = Path(make_clip(str(tmp_path / name), codec)).read_bytes()[:HEAD_BYTES]
        assert is_video(head, "no-suffix")
    assert is_video(b"", "a.MP4")
    assert is_video(b"G" + bytes(63), "a.ts")
    assert not is_video(b"export const a = 1;", "a.ts")
    assert not is_video(b"\0\0\0\x1cftypheic", "a.heic")
    assert not is_video(save_animation("AVIF", [40, 40])[:HEAD_BYTES], "a.avif")
    assert not is_video(b"RIFF\0\0\0\0WEBPVP8 ", "a.webp")


def test_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    times = [0, 40, 50, 200, 201, 500, 777, 1000]
    for name, codec in (("a.mkv", "ffv1"), ("a.mp4", "libx264")):
        frames, clip, _ = read(make_clip(str(tmp_path / name), codec, times=times, time_base=Fraction(1, 1000)))
        assert [clip.format.seconds(frame.time) * 1000 for frame in frames] == times


def test_times_rise(tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / "a.mkv"), times=[0, 40, 40, 40, 160, 200, 240, 280], time_base=Fraction(1, 1000))
    frames, _, _ = read(path)
    assert [frame.time for frame in frames] == [0, 40, 41, 42, 160, 200, 240, 280]


def test_time_zero_is_that_of_the_container(tmp_path: Path) -> None:
    times = [10000 + 40 * number for number in range(N_FRAMES)]
    path = make_clip(str(tmp_path / "a.mkv"), times=times, time_base=Fraction(1, 1000))
    frames, clip, _ = read(path)
    assert (frames[0].time, frames[-1].time, clip.end) == (0, 280, 320)


def test_video_may_begin_after_the_audio(tmp_path: Path) -> None:
    times = [300 + 40 * number for number in range(N_FRAMES)]
    path = make_clip(str(tmp_path / "a.mkv"), times=times, time_base=Fraction(1, 1000), audio="flac")
    frames, clip, media = read(path)
    assert [frame.time for frame in frames] == times
    assert clip.format.start == 300
    assert packets_of(BytesIO(media), "audio") == packets_of(path, "audio")


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotation_is_applied(angle: int, tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / "a.mp4"), "libx264rgb", "rgb24", rotation=angle, options={"crf": "0"})
    with av.open(path) as container:
        assert next(container.decode(video=0)).rotation % 360 == angle
    frames, clip, _ = read(path)
    for frame, truth in zip(frames, FRAMES, strict=True):
        np.testing.assert_array_equal(frame.pixels, np.rot90(truth, angle // 90))
    assert (clip.format.height, clip.format.width) == frames[0].pixels.shape[:2]


def test_quarter_turn_inverts_the_aspect(tmp_path: Path) -> None:
    settings = {"rotation": 90, "sample_aspect_ratio": Fraction(4, 3)}
    _, clip, _ = read(make_clip(str(tmp_path / "a.mp4"), "libx264", **settings))
    assert clip.format.sample_aspect == Fraction(3, 4)


@pytest.mark.parametrize(("height", "width"), [(31, 47), (1, 1), (3, 5)])
def test_odd_sizes(height: int, width: int, tmp_path: Path) -> None:
    truth = frames_of(height, width)
    frames, _, _ = read(make_clip(str(tmp_path / "a.mkv"), frames=truth, options={"slices": "1"}))
    assert frames[0].pixels.shape == (height, width, 3)
    assert psnr_db(frames[0].pixels, truth[0]) > 30


@pytest.mark.parametrize(
    ("pixel_format", "depth", "chroma"),
    [("yuv420p10le", 10, Chroma.YUV420), ("yuv422p12le", 12, Chroma.YUV422), ("yuv444p16le", 16, Chroma.YUV444)],
)
@pytest.mark.parametrize("color_range", [1, 2])
def test_deep_samples_have_the_full_range(
    pixel_format: str, depth: int, chroma: Chroma, color_range: int, tmp_path: Path
) -> None:
    step, peak = 1 << (depth - 8), (1 << depth) - 1
    low, high = (16 * step, 235 * step) if color_range == 1 else (0, peak)
    levels = np.linspace(low, high, 5).round().astype(int)
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream: Any = output.add_stream("ffv1", rate=RATE, width=WIDTH, height=HEIGHT)
        stream.pix_fmt, stream.codec_context.color_range = pixel_format, color_range
        for level in levels:
            frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
            for number, plane in enumerate(frame.planes):
                value = level if number == 0 else 128 * step
                plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    frames, clip, _ = read(tmp_path / "a.mkv")
    assert (clip.format.bit_depth, clip.format.chroma, clip.format.full_range) == (depth, chroma, color_range == 2)
    for frame, level in zip(frames, levels, strict=True):
        assert frame.pixels.dtype == np.uint16
        np.testing.assert_allclose(frame.pixels, (level - low) / (high - low) * 65535, atol=8)


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_grey(depth: int, color_range: int, tmp_path: Path) -> None:
    peak = (1 << depth) - 1
    samples = RNG.integers(0, peak + 1, (3, HEIGHT, WIDTH)).astype(np.uint8 if depth == 8 else np.uint16)
    pixel_format = "gray" if depth == 8 else f"gray{depth}le"
    path = make_clip(str(tmp_path / "a.mkv"), "ffv1", pixel_format, samples, color_range=color_range)
    frames, clip, _ = read(path)
    assert (clip.format.layout, clip.format.bit_depth) == (Layout.GREY, depth)
    assert clip.format.full_range == (color_range != 1)
    expected = samples / peak
    if color_range == 1:
        expected = ((samples - 16.0 * 2 ** (depth - 8)) / (219 * 2 ** (depth - 8))).clip(0, 1)
    for frame, truth in zip(frames, expected, strict=True):
        assert frame.pixels.shape == (HEIGHT, WIDTH)
        top = np.iinfo(frame.pixels.dtype).max
        np.testing.assert_allclose(frame.pixels / top, truth, atol=0.51 / peak)


@pytest.mark.parametrize(("codec", "pixel_format"), [("libx264rgb", "rgb24"), ("ffv1", "bgr0"), ("qtrle", "rgb24")])
def test_rgb_is_exact(codec: str, pixel_format: str, tmp_path: Path) -> None:
    options = {"crf": "0"} if codec == "libx264rgb" else {}
    path = make_clip(str(tmp_path / "a.mov"), codec, pixel_format, options=options) if codec == "qtrle" else None
    path = path or make_clip(str(tmp_path / "a.mkv"), codec, pixel_format, options=options)
    frames, clip, _ = read(path)
    for frame, truth in zip(frames, FRAMES, strict=True):
        np.testing.assert_array_equal(frame.pixels, truth)
    assert (clip.format.matrix, clip.format.chroma, clip.format.full_range) == (0, Chroma.YUV444, True)


def test_deep_rgb_has_the_full_range(tmp_path: Path) -> None:
    samples = RNG.integers(0, 1024, (2, HEIGHT, WIDTH, 3)).astype(np.uint16)
    path = make_clip(str(tmp_path / "a.mkv"), "ffv1", "gbrp10le", samples << 6)
    frames, clip, _ = read(path)
    np.testing.assert_allclose(frames[0].pixels, samples[0] / 1023 * 65535, atol=1)
    assert clip.format.bit_depth == 10


def test_colour_tags_are_kept(tmp_path: Path) -> None:
    tags = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}
    _, clip, _ = read(make_clip(str(tmp_path / "a.mkv"), "ffv1", "yuv420p10le", **tags))
    format = clip.format
    assert (format.primaries, format.transfer, format.matrix, format.full_range) == (9, 16, 9, False)


@pytest.mark.parametrize(
    ("height", "primaries", "matrix"), [(HEIGHT, 2, 6), (HEIGHT, 5, 5), (720, 2, 1), (HEIGHT, 1, 6)]
)
def test_usual_matrix_of_untagged_video(height: int, primaries: int, matrix: int, tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / "a.mkv"), frames=frames_of(height, 16, 1), color_primaries=primaries)
    _, clip, _ = read(path)
    assert (clip.format.matrix, clip.format.primaries) == (matrix, primaries)


def test_unsupported_matrix_is_refused(tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / "a.mkv"), "ffv1", "yuv444p", colorspace=8)
    with pytest.raises(ImageError, match="code point 8"):
        open_video(path)


def test_full_range_of_jpeg_formats(tmp_path: Path) -> None:
    frames, clip, _ = read(make_clip(str(tmp_path / "a.mkv"), "mjpeg", "yuvj444p", options={"qscale": "1"}))
    assert clip.format.full_range
    assert psnr_db(frames[0].pixels, FRAMES[0]) > 25


@pytest.mark.parametrize("codec", ["aac", "flac", "pcm_s16le"])
def test_audio_is_copied(codec: str, tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / "a.mkv"), audio=codec)
    _, clip, media = read(path)
    assert packets_of(BytesIO(media), "audio") == packets_of(path, "audio")
    assert clip.take_media() == b""
    _, _, again = read(path)
    assert again == media
    _, _, piped = read(Pipe(Path(path).read_bytes()))
    assert piped == media


@pytest.mark.parametrize(("name", "video", "audio"), [("a.mp4", "libx264", "aac"), ("a.webm", "libvpx-vp9", "libopus")])
def test_delay_of_an_audio_encoder_is_kept(name: str, video: str, audio: str, tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / name), video, audio=audio)
    frames, _, media = read(path)
    copied = packets_of(BytesIO(media), "audio")
    assert copied == packets_of(path, "audio")
    assert copied[0][0] < 0
    assert frames[0].time == 0


def test_audio_of_a_transport_stream_is_copied(tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / "a.ts"), "mpeg2video", audio="aac")
    frames, clip, media = read(path)
    headers = [data[:7] for _, data in packets_of(path, "audio")]
    assert all(header[0] == 0xFF for header in headers)
    assert [data for _, data in packets_of(BytesIO(media), "audio")] == [
        data[7:] for _, data in packets_of(path, "audio")
    ]
    with av.open(path) as container:
        video, audio = container.streams.video[0].start_time, container.streams.audio[0].start_time
    assert frames[0].time == clip.format.start == video - audio
    with av.open(BytesIO(media)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) >= N_FRAMES / RATE * 48000


def add_subtitles(file: Any, codec: str, video: str = "ffv1") -> Any:
    """Write a clip with two subtitles."""
    with av.open(file, "w") as output:
        stream: Any = output.add_stream(video, rate=RATE, width=WIDTH, height=HEIGHT)
        subtitles: Any = output.add_mux_stream(codec)
        subtitles.metadata["language"] = "deu"
        output.start_encoding()
        for number, pixels in enumerate(FRAMES):
            if number in (1, 4):
                text = f"line {number}".encode()
                packet: Any = av.Packet(len(text).to_bytes(2, "big") + text if codec == "mov_text" else text)
                packet.stream, packet.time_base = subtitles, Fraction(1, RATE)
                packet.pts = packet.dts = number
                packet.duration = 2
                output.mux(packet)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file


def test_subtitles_are_copied(tmp_path: Path) -> None:
    path = add_subtitles(str(tmp_path / "a.mkv"), "subrip")
    _, _, media = read(path)
    assert packets_of(BytesIO(media), "subtitle") == [(40, b"line 1"), (160, b"line 4")]
    with av.open(BytesIO(media)) as container:
        assert container.streams.subtitles[0].language in ("ger", "deu")
    _, _, media = read(path, start_s=0.1)
    assert packets_of(BytesIO(media), "subtitle") == [(60, b"line 4")]


def test_stream_that_matroska_cannot_hold_is_left_out(tmp_path: Path) -> None:
    path = add_subtitles(str(tmp_path / "a.mp4"), "mov_text", "libx264")
    with pytest.warns(UserWarning, match=r"subtitle stream 1 \(mov_text\) is left out") as caught:
        frames, _, media = read(path)
    assert (len(caught), len(frames), media) == (1, N_FRAMES, b"")


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.mp4", "libx264"), ("a.ts", "mpeg2video")])
@pytest.mark.parametrize(("start_s", "duration_s"), [(0.5, 0.2), (0.5, None), (0.0, 0.1), (0.93, 5.0)])
def test_parts(name: str, codec: str, start_s: float, duration_s: float | None, tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / name), codec, frames=frames_of(n_frames=25), audio="aac", audio_s=1, gop_size=6)
    everything, clip, _ = read(path)
    start, tick = round(start_s / clip.format.time_base), clip.format.time_base
    end = start + round((duration_s or 100) / tick)
    expected = [frame for frame in everything if start <= frame.time < end]
    frames, part, media = read(path, start_s=start_s, duration_s=duration_s)
    assert [frame.time for frame in frames] == [frame.time - start for frame in expected]
    for ours, theirs in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert part.format.start == frames[0].time
    assert part.end <= end - start
    times_ms = [time for time, _ in packets_of(BytesIO(media), "audio")] if media else []
    assert all(time >= (0 if start_s else -22) and time < (duration_s or 100) * 1000 for time in times_ms)


def test_empty_part_and_invalid_part(tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / "a.mkv"))
    with pytest.raises(ImageError, match="no frames"):
        open_video(path, start_s=10)
    for part in ({"start_s": -1}, {"duration_s": 0}):
        with pytest.raises(ValueError, match="start_s must be"):
            open_video(path, **part)


def test_frames_of_another_size_are_scaled(tmp_path: Path) -> None:
    first = make_clip(str(tmp_path / "a.ts"), "mpeg2video", frames=FRAMES[:4])
    second = make_clip(str(tmp_path / "b.ts"), "mpeg2video", frames=frames_of(16, 32), times=list(range(4, 12)))
    data = Path(first).read_bytes() + Path(second).read_bytes()
    with pytest.warns(UserWarning, match="scaled to that of the first") as caught:
        frames, _, _ = read(data)
    assert len(caught) == 1
    assert len(frames) > 6
    assert all(frame.pixels.shape == (HEIGHT, WIDTH, 3) for frame in frames)


def test_interlaced_video_is_warned_of(tmp_path: Path) -> None:
    interlaced = 1 << 29 | 1 << 18
    path = make_clip(str(tmp_path / "a.mkv"), "mpeg2video", flags=interlaced)
    with pytest.warns(UserWarning, match="interlaced") as caught:
        assert len(read(path)[0]) == N_FRAMES
    assert len(caught) == 1


def test_cover_is_not_the_video(tmp_path: Path) -> None:
    cover = BytesIO()
    Image.fromarray(FRAMES[0]).save(cover, "PNG")
    for has_video in (True, False):
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w", format="mp4") as output:
            picture: Any = output.add_stream("png", rate=1, width=WIDTH, height=HEIGHT)
            picture.pix_fmt = "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            write_audio = add_audio(output, "aac")
            stream: Any = output.add_stream("libx264", rate=RATE, width=16, height=16) if has_video else None
            output.mux(picture.encode(av.VideoFrame.from_ndarray(FRAMES[0], "rgb24")))
            for pixels in frames_of(16, 16) if has_video else ():
                output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            output.mux(stream.encode() if has_video else [])
            write_audio()
        if has_video:
            assert read(path)[1].format.width == 16
        else:
            with pytest.raises(ImageError, match="no video stream"):
                open_video(path)


@pytest.mark.parametrize("data", [b"", b"no video at all " * 100, RNG.bytes(5000)])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    for source in (data, Pipe(data), tmp_path / "a.txt"):
        with pytest.raises(ImageError, match="not a video that can be read"):
            open_video(source)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.mp4"):
        open_video(tmp_path / "nothing.mp4")
    with pytest.raises(IsADirectoryError):
        open_video(tmp_path)


def test_pipe_of_a_format_that_needs_seeking(tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / "a.mp4"), "libx264")
    with pytest.raises(ImageError, match="not from a pipe"):
        open_video(Pipe(Path(path).read_bytes()))


def test_audio_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        add_audio(output, "flac")()
    with pytest.raises(ImageError, match="no video stream"):
        open_video(tmp_path / "a.mkv")


def test_limit_of_pixels(tmp_path: Path) -> None:
    path = make_clip(str(tmp_path / "a.mkv"))
    for source in (path, save_animation("GIF", [40, 40])):
        with pytest.raises(ImageError, match="48x32 is more than 1535 pixels"):
            open_video(source, max_pixels=HEIGHT * WIDTH - 1)
        open_video(source, max_pixels=HEIGHT * WIDTH).close()


def test_damage_raises_image_error_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(make_clip(str(tmp_path / "a.mkv"), audio="flac")).read_bytes())
    with av.open(BytesIO(data)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][4]
        middle = packet.pos + packet.size // 2
    data[middle : middle + 50] = bytes(50)
    with pytest.raises(ImageError, match="damaged"):
        read(bytes(data))
    truncated = save_animation("PNG", [40] * 6)
    with pytest.raises(ImageError, match="cannot be read"):
        read(truncated[: len(truncated) // 2])
    assert capfd.readouterr() == ("", "")


def test_incomplete_file_is_warned_of(tmp_path: Path) -> None:
    data = Path(make_clip(str(tmp_path / "a.mkv"), times=list(range(0, 4000, 500)), time_base=Fraction(1, 1000)))
    data = data.read_bytes()
    with pytest.warns(UserWarning, match=r"incomplete or damaged: it ends after \d.\d of 3.5 s"):
        assert 0 < len(read(data[: len(data) // 2])[0]) < N_FRAMES


def test_leaving_early_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = make_clip(str(tmp_path / "a.mkv"), audio="aac")
    with open_video(path) as clip:
        next(clip)
    clip.close()
    with open(path, "rb") as file:
        with open_video(file) as clip:
            next(clip)
        assert not file.closed
    del clip
    assert capfd.readouterr() == ("", "")


def test_errors_of_the_file_are_passed_on() -> None:
    class Failing(Pipe):
        def readinto(self, buffer: Any) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        open_video(Failing(b""))


def test_frames_come_from_constant_memory(tmp_path: Path) -> None:
    """The source does not hold the frames that it yielded."""
    path = make_clip(str(tmp_path / "a.mkv"))
    with open_video(path) as clip:
        first, second = next(clip).pixels, next(clip).pixels
        assert not np.shares_memory(first, second)


def test_times_of_all_frames_rise_strictly(tmp_path: Path) -> None:
    for codec, name in (("mpeg4", "a.avi"), ("libx264", "a.h264")):
        frames, _, _ = read(make_clip(str(tmp_path / name), codec))
        assert len(frames) == N_FRAMES
        assert all(before.time < after.time for before, after in pairwise(frames))
