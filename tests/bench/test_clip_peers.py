"""Video codecs of ffmpeg: each installed one codes a clip, and its quality rises with its level."""

from pathlib import Path

import numpy as np
import pytest
from clip_files import moving_frames, write_clip

from ulcodec.bench import peers
from ulcodec.bench.clip_peers import ANCHOR, CLIP_PEERS, absent_vmaf, decode_clip, encode_clip, vmaf
from ulcodec.bench.clips import Clip, frames_of, prepare_clip, split, write_frames
from ulcodec.bench.peers import AbsentError
from ulcodec.errors import BenchmarkError
from ulcodec.metrics.video import plane_psnr

pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg")


@pytest.fixture(scope="module")
def clip(picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    folder = tmp_path_factory.mktemp("clip")
    return prepare_clip(write_clip(folder / "clip.mkv", moving_frames(picture, 5, 80, 64)), folder, 5)


@pytest.mark.parametrize("key", CLIP_PEERS)
def test_quality_and_size_rise_with_the_level(key: str, clip: Clip, tmp_path: Path) -> None:
    peer = CLIP_PEERS[key]
    try:
        peer.library()
    except AbsentError as error:
        pytest.skip(str(error))
    sizes, qualities = [], []
    for level in (peer.levels[0], peer.levels[-1]):
        encoded = encode_clip(peer, clip, level, tmp_path)
        decoded, seconds = decode_clip(peer, clip, encoded.file)
        assert min(encoded.seconds, seconds) > 0
        sizes.append(encoded.n_bytes)
        pairs = zip(frames_of(clip).yuv, decoded, strict=True)
        qualities.append(min(plane_psnr(split(a), split(b)).yuv for a, b in pairs))
    assert sizes[0] < sizes[1]
    assert qualities[0] + 3 < qualities[1]
    assert qualities[1] > 30


def test_version_string_of_x264_does_not_count(clip: Clip, tmp_path: Path) -> None:
    data = encode_clip(CLIP_PEERS[ANCHOR], clip, 30, tmp_path).file.read_bytes()
    assert data.startswith(b"\0\0\0\1")
    assert b"x264" not in data


def test_commands_are_complete() -> None:
    assert CLIP_PEERS[ANCHOR].described() == (
        "ffmpeg -threads 1 -i CLIP.mkv -pix_fmt yuv420p -fps_mode passthrough -c:v libx264 -preset medium "
        "-bsf:v filter_units=remove_types=6 -crf LEVEL -threads 1 -f h264 CLIP.h264"
    )


def test_vmaf_falls_with_noise(clip: Clip, tmp_path: Path) -> None:
    if reason := absent_vmaf():
        pytest.skip(reason)
    noise = np.random.default_rng(0).integers(0, 60, (96, 80))
    noisy = [np.clip(frame + noise, 0, 255).astype(np.uint8) for frame in frames_of(clip).yuv]
    write_frames(tmp_path / "noisy.mkv", noisy, clip.frame_rate, clip.matrix)
    assert vmaf(clip.file, clip.file) > 90
    assert vmaf(clip.file, tmp_path / "noisy.mkv") < 80


def test_failures_are_errors_of_one_line(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "broken.h264"
    file.write_bytes(b"no stream")
    with pytest.raises(BenchmarkError, match=r"^ffmpeg .*$"):
        decode_clip(CLIP_PEERS[ANCHOR], clip, file)
    shorter = encode_clip(CLIP_PEERS[ANCHOR], clip, 30, tmp_path)
    with pytest.raises(BenchmarkError, match="the stream has 5 frames, expected 6"):
        decode_clip(CLIP_PEERS[ANCHOR], clip._replace(n_frames=6), shorter.file)
    monkeypatch.setattr(peers, "ffmpeg", lambda: "false")
    with pytest.raises(BenchmarkError, match=r"^ffmpeg .*: failed$"):
        encode_clip(CLIP_PEERS[ANCHOR], clip, 30, tmp_path)
