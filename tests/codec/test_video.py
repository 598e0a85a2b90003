"""Clips to sequences and back: `Codec.encode_video`, `Codec.decode_video`."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from streams import Pipe

import ulcodec
from ulcodec.codec.bitrate import ConstantQuality, TargetBitrate
from ulcodec.codec.clip_encoder import LARGEST_GROUP, ClipEncoder, WrittenPart
from ulcodec.codec.clips import ListedClip
from ulcodec.codec.image import Codec
from ulcodec.errors import (
    ArithmeticMismatchError,
    ChecksumError,
    FormatError,
    ImageError,
    LimitError,
    TruncatedError,
    UnknownModelError,
    UnsupportedVersionError,
)
from ulcodec.format.sequence import FrameRecord, IndexBuilder
from ulcodec.format.sequence_reader import SequenceReader, ShownFrame
from ulcodec.io.picture import Picture
from ulcodec.metrics import psnr_db


@pytest.fixture(scope="module")
def frames(picture: np.ndarray) -> list[np.ndarray]:
    """Crops of a picture that moves by two pixels a frame: ten of uint8 [33, 46, 3]; frames 3 to 5 are equal."""
    positions = [0, 2, 4, 6, 6, 6, 8, 10, 12, 14]
    return [picture[20:53, x : x + 46].copy() for x in positions]


def encode(codec: Codec, frames: Any, **options: Any) -> bytes:
    """Encode a clip, by default with intra frames alone."""
    return b"".join(codec.encode_video(frames, **{"quality": 60, "frame_rate": 25, "gop": 1, **options}))


@pytest.fixture(scope="module")
def sequence(tiny_codec: Codec, frames: list[np.ndarray]) -> bytes:
    return encode(tiny_codec, frames)


@pytest.fixture(scope="module")
def decoded(tiny_codec: Codec, sequence: bytes) -> list[np.ndarray]:
    return [frame.pixels for frame in tiny_codec.decode_video(sequence)]


def shown_frames(data: bytes) -> list[ShownFrame]:
    return [part for part in SequenceReader(BytesIO(data)).read() if isinstance(part, ShownFrame)]


def record_ends(data: bytes) -> list[int]:
    """Offsets at which the header and the records of a sequence end."""
    reader = SequenceReader(BytesIO(data))
    return [
        reader.first_record,
        *(offset + record.size_bytes for offset, record in reader.records(reader.first_record)),
    ]


# Frames


def test_frames_are_those_of_pictures(tiny_codec: Codec, frames: list[np.ndarray], decoded: list[np.ndarray]) -> None:
    assert len(decoded) == len(frames)
    for original, pixels in zip(frames, decoded, strict=True):
        still = tiny_codec.decode_array(tiny_codec.encode(original, quality=60))
        assert psnr_db(pixels, still) > 45  # groups of frames are summed in another order


def test_a_frame_costs_less_than_a_picture(tiny_codec: Codec, frames: list[np.ndarray], sequence: bytes) -> None:
    still = tiny_codec.encode(frames[0], quality=60)
    first = shown_frames(sequence)[0].source.record
    assert len(first.to_bytes()) < len(still)


def test_latents_are_exact(tiny_codec: Codec, sequence: bytes) -> None:
    alone = list(tiny_codec.decode_video(sequence).latents())
    assert len(alone) == 10
    again = list(tiny_codec.decode_video(Pipe(sequence)).latents())
    for (a, _, quality), (b, _, _) in zip(alone, again, strict=True):
        assert quality == 60
        assert all(bool((x == y).all()) for x, y in zip(a, b, strict=True))


def test_equal_frames_are_stored_once(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    data = encode(tiny_codec, frames, gop=250)
    assert [frame.source.record.index for frame in shown_frames(data)] == [0, 1, 2, 3, 3, 3, 6, 7, 8, 9]


def test_one_array_may_hold_all_frames(tiny_codec: Codec, frames: list[np.ndarray], sequence: bytes) -> None:
    def source() -> Iterator[np.ndarray]:
        array = np.empty_like(frames[0])
        for pixels in frames:
            array[...] = pixels
            yield array

    assert encode(tiny_codec, source()) == sequence


def test_gop_limits_repetitions(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    data = encode(tiny_codec, [frames[0]] * 7, gop=3)
    assert [frame.source.record.index for frame in shown_frames(data)] == [0, 0, 0, 3, 3, 3, 6]
    assert SequenceReader(BytesIO(data)).header.gop == 3
    data = encode(tiny_codec, [frames[0]] * 3, gop=1)
    assert [frame.source.record.index for frame in shown_frames(data)] == [0, 1, 2]


def test_long_stills_are_coded_as_they_come(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    """Repetitions do not wait for the next new frame."""
    seen = []

    def source() -> Iterator[np.ndarray]:
        for number in range(3 * LARGEST_GROUP):
            seen.append(number)
            yield frames[0]

    pieces = tiny_codec.encode_video(source(), gop=1000)
    for _ in range(4):
        next(pieces)
    assert len(seen) < 2 * LARGEST_GROUP


def test_times_and_indices(tiny_codec: Codec, sequence: bytes, decoded: list[np.ndarray]) -> None:
    video = tiny_codec.decode_video(sequence)
    assert len(video) == video.n_frames == 10
    assert video.duration_s == Fraction(10, 25)
    assert [(frame.index, frame.time_s) for frame in video] == [(i, Fraction(i, 25)) for i in range(10)]
    for index in (0, 4, 9, -1, -10):
        np.testing.assert_array_equal(video[index].pixels, decoded[index])
    for time_s, index in ((-1.0, 0), (0.0, 0), (0.0399, 0), (0.04, 1), (Fraction(1, 5), 5), (0.39, 9), (7, 9)):
        assert video.at(time_s).index == index
    assert [frame.index for frame in video.frames(4, 7)] == [4, 5, 6]
    assert [frame.index for frame in video.frames(8)] == [8, 9]
    for index in (10, -11):
        with pytest.raises(IndexError):
            video[index]


def test_a_frame_is_decoded_without_the_others(
    tiny_codec: Codec, sequence: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, used = tiny_codec.decode_video(sequence), []
    decode = ulcodec.codec.video.decode_record_latents

    def noted(loaded: Any, clip: Any, records: Any) -> Any:
        used.extend(record.index for record in records)
        return decode(loaded, clip, records)

    monkeypatch.setattr("ulcodec.codec.video.decode_record_latents", noted)
    assert video[5].index == 5
    assert used == [5]
    assert video.at(0.36).index == 9
    assert used == [5, 9]


def test_frames_belong_to_the_caller(tiny_codec: Codec, sequence: bytes, decoded: list[np.ndarray]) -> None:
    video = tiny_codec.decode_video(sequence)
    for frame in (*video, video[4]):
        np.testing.assert_array_equal(frame.pixels, decoded[frame.index])
        frame.pixels[:] = 0


def test_pil_images(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    data = encode(tiny_codec, (Image.fromarray(pixels) for pixels in frames[:2]))
    image = next(iter(tiny_codec.decode_video(data))).to_pil()
    assert (image.mode, image.size) == ("RGB", (46, 33))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [False, True])
def test_depth_and_channels(tiny_codec: Codec, frames: list[np.ndarray], dtype: type, grey: bool) -> None:
    scaled = [pixels.astype(dtype) * (257 if dtype is np.uint16 else 1) for pixels in frames[:3]]
    originals = [pixels[:, :, 0] if grey else pixels for pixels in scaled]
    decoded = [frame.pixels for frame in tiny_codec.decode_video(encode(tiny_codec, originals))]
    for original, pixels in zip(originals, decoded, strict=True):
        assert (pixels.dtype, pixels.shape) == (original.dtype, original.shape)
    still = tiny_codec.decode_array(tiny_codec.encode(originals[0], quality=60))
    assert psnr_db(Picture(decoded[0]).pixels_8, Picture(still).pixels_8) > 45


def test_effort_refines_each_frame(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    refined = encode(tiny_codec, frames[:2], effort=3)
    decoded = [frame.pixels for frame in tiny_codec.decode_video(refined)]
    still = tiny_codec.decode_array(tiny_codec.encode(frames[1], quality=60, effort=3))
    assert refined != encode(tiny_codec, frames[:2])
    assert psnr_db(decoded[1], still) > 40


def test_a_pipe_plays_as_it_arrives(
    tiny_codec: Codec, sequence: bytes, decoded: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulcodec.codec.video.LARGEST_GROUP", 2)
    pipe = Pipe(sequence)
    video = tiny_codec.decode_video(pipe)
    assert video.n_frames is None
    iterator = iter(video)
    np.testing.assert_array_equal(next(iterator).pixels, decoded[0])
    assert len(pipe.data) > len(sequence) // 4
    assert 1 + len(list(iterator)) == len(decoded)
    assert video.n_frames == len(decoded)


# Unfinished and damaged files


def test_an_unfinished_file_plays_to_its_last_whole_frame(tiny_codec: Codec, sequence: bytes) -> None:
    ends = record_ends(sequence)
    for n_frames in (0, 1, 4, 10):
        for cut in {ends[n_frames], ends[n_frames + 1] - 1}:
            video, indices = tiny_codec.decode_video(sequence[:cut]), []
            assert video.n_frames is None
            with pytest.raises(TypeError):
                len(video)
            with pytest.raises(TruncatedError):
                indices.extend(frame.index for frame in video)
            iterator = iter(tiny_codec.decode_video(sequence[:cut]))
            assert [next(iterator).index for _ in range(n_frames)] == list(range(n_frames))
            with pytest.raises(TruncatedError):
                next(iterator)


def test_an_encoder_goes_on_behind_an_unfinished_file(
    tiny_codec: Codec, frames: list[np.ndarray], sequence: bytes
) -> None:
    for cut in (len(sequence) // 3, record_ends(sequence)[5], len(sequence) - 1, len(sequence)):
        written = WrittenPart.read(BytesIO(sequence[:cut]))
        rest = encode(tiny_codec, frames, written=written)
        assert sequence[: written.size_bytes] + rest == sequence
        assert written.size_bytes <= cut


def test_an_encoder_goes_on_before_frames_that_no_encoder_writes(sequence: bytes) -> None:
    ends = record_ends(sequence)
    forged = sequence[: ends[3]] + sequence[ends[1] : ends[2]] + sequence[ends[3] :]
    written = WrittenPart.read(BytesIO(forged))
    assert (written.size_bytes, written.builder.n_frames) == (ends[3], 3)
    assert written.last_intra is not None
    assert written.last_intra.index == 2


def test_an_encoder_does_not_go_on_with_another_clip(small: Codec, frames: list[np.ndarray]) -> None:
    sequence = encode(small, frames)
    for clip, options, message in (
        (frames, {"frame_rate": 30}, "another clip"),
        (frames[:2], {}, "the clip only 2"),
        (frames[5:] + frames[:5], {}, "is not that of this clip"),
        ([255 - pixels for pixels in frames], {}, "is not that of this clip"),
        (frames, {"quality": 61}, "at quality 60, not 61"),
    ):
        written = WrittenPart.read(BytesIO(sequence[: len(sequence) // 2]))
        with pytest.raises(ImageError, match=message):
            encode(small, clip, written=written, **options)


def test_damage_is_an_error_and_recovery_leaves_it_out(tiny_codec: Codec, sequence: bytes) -> None:
    ends = record_ends(sequence)
    damaged = bytearray(sequence)
    damaged[ends[4] - 10] ^= 4  # in frame 3
    iterator = iter(tiny_codec.decode_video(bytes(damaged)))
    assert [next(iterator).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ChecksumError):
        next(iterator)
    video = tiny_codec.decode_video(bytes(damaged), recover=True)
    for _ in range(2):
        assert [frame.index for frame in video] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    [error] = video.damage
    assert str(error) == f"the checksum of a record does not match: the file is damaged (at byte {ends[3]})"


def test_symbols_of_other_arithmetic_are_an_error(tiny_codec: Codec, sequence: bytes) -> None:
    sources = [frame.source.record for frame in shown_frames(sequence)]
    header = sequence[: record_ends(sequence)[0]]
    forged, builder = header, IndexBuilder()
    for source in sources[:3]:
        check = source.symbol_check ^ (source.index == 1)
        record = FrameRecord(source.index, (), 0, source.quality, source.payload, check)
        builder.add(record, len(forged))
        forged += record.to_bytes()
    forged += builder.to_bytes(0)
    with pytest.raises(ArithmeticMismatchError):
        list(tiny_codec.decode_video(forged))
    video = tiny_codec.decode_video(forged, recover=True)
    assert [frame.index for frame in video] == [0, 2]
    assert [type(error) for error in video.damage] == [ArithmeticMismatchError]
    with pytest.raises(IndexError):
        video[1]
    with pytest.raises(IndexError):
        video.at(0.05)


# Refusals


def test_sequences_are_no_pictures_and_pictures_no_sequences(
    tiny_codec: Codec, frames: list[np.ndarray], sequence: bytes
) -> None:
    with pytest.raises(UnsupportedVersionError, match="sequence"):
        tiny_codec.decode(sequence)
    with pytest.raises(UnsupportedVersionError, match="version 1"):
        tiny_codec.decode_video(tiny_codec.encode(frames[0]))


def test_limits_and_models(tiny_codec: Codec, sequence: bytes) -> None:
    with pytest.raises(LimitError):
        tiny_codec.decode_video(sequence, max_pixels=100)
    foreign = SequenceReader(BytesIO(sequence)).header
    other = type(foreign)(b"\0\1\2\3", foreign.clip, foreign.gop).to_bytes()
    with pytest.raises(UnknownModelError, match="00010203"):
        tiny_codec.decode_video(other + sequence[len(other) :])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"quality": 101}, "quality"), ({"gop": 0}, "gop"), ({"effort": 10}, "effort"),
     ({"target_bitrate": -1.0}, "bitrate"), ({"target_bitrate": float("nan")}, "bitrate"),
     ({"start_s": 1.0}, "start_s")],
)  # fmt: skip
def test_options_out_of_range(tiny_codec: Codec, frames: list[np.ndarray], options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_codec.encode_video(frames, **options)


def test_clips_that_cannot_be_coded(tiny_codec: Codec, frames: list[np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="at least one frame"):
        tiny_codec.encode_video([])
    for rate in (0, -1.0, 1e-6, float("nan"), 1e99, Fraction(1, 2**30)):
        with pytest.raises(ImageError, match="frame rate"):
            tiny_codec.encode_video(frames, frame_rate=rate)
    with pytest.raises(ImageError, match="one picture"):
        tiny_codec.encode_video(frames[0])
    with pytest.raises(ImageError, match=r"frame 1 is uint8 \[20, 46, 3\]"):
        encode(tiny_codec, [frames[0], frames[0][:20]])
    with pytest.raises(ImageError, match="frame 0 has an alpha channel"):
        encode(tiny_codec, [np.dstack([frames[0], frames[0][:, :, 0]])])
    with pytest.raises(ImageError, match="more than 50 pixels"):
        tiny_codec.encode_video(frames, max_pixels=50)
    with pytest.raises(FileNotFoundError):
        tiny_codec.encode_video(tmp_path / "missing.mp4")


# Media, and the rate


class SpokenClip(ListedClip):
    """A clip with a stream of media of which a part comes with every frame."""

    def __init__(self, frames: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
        super().__init__(frames, 25, 2**20)
        self.stream = bytes(range(256)) * (sum(sizes) // 256 + 1)
        self.ends, self.taken, self.n_read = list(accumulate(sizes)), 0, 0

    def __iter__(self) -> Iterator[Any]:
        for frame in super().__iter__():
            self.n_read += 1
            yield frame

    def take_media(self) -> bytes:
        start, self.taken = self.taken, self.ends[self.n_read - 1] if self.n_read else 0
        return self.stream[start : self.taken]


SIZES = [3000, 0, 9000, 10, 10, 10, 10, 5000, 0, 77]


def test_media_is_interleaved_and_returned(
    tiny_codec: Codec, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulcodec.codec.clip_encoder.LARGEST_GROUP", 2)
    clip = SpokenClip(frames, SIZES)
    data = b"".join(ClipEncoder(tiny_codec, clip, ConstantQuality(60)).pieces())
    video = tiny_codec.decode_video(data)
    assert tiny_codec.decode_video(data).media().read() == clip.stream[: sum(SIZES)]
    media, n_frames = video.media(), 0
    halves = media.read(5000)
    for _ in video:
        n_frames += 1
    assert (n_frames, halves + media.read()) == (10, clip.stream[: sum(SIZES)])
    tags = [type(part) for part in SequenceReader(BytesIO(data)).read()]
    assert bytes in tags[:8]
    for cut, n_media_bytes in ((len(data) // 2, 0), (len(data) - 100, 12000)):
        written = WrittenPart.read(BytesIO(data[:cut]))
        assert written.n_media_bytes >= n_media_bytes
        rest = ClipEncoder(tiny_codec, SpokenClip(frames, SIZES), ConstantQuality(60), written=written).pieces()
        gone_on = data[: written.size_bytes] + b"".join(rest)
        assert tiny_codec.decode_video(gone_on).media().read() == clip.stream[: sum(SIZES)]


class FakeGroup(NamedTuple):
    quality: int
    n_bytes: int


def fake_encoder(complexity: float) -> Any:
    """An encoder of a frame whose size grows with the quality by 4 % a unit, and with a complexity."""
    return lambda quality: FakeGroup(quality, round(complexity * 1.04**quality))


@pytest.mark.parametrize("complexities", [[200.0] * 400, [200.0] * 200 + [600.0] * 200, [50.0, 400.0] * 200])
def test_target_bitrate_is_reached(complexities: list[float]) -> None:
    rate, n_bytes = TargetBitrate(400_000), 0
    for complexity in complexities:
        group = rate.encode(fake_encoder(complexity), 1 / 25)
        assert 0 <= group.quality <= 100
        n_bytes += group.n_bytes
    assert 8 * n_bytes / (len(complexities) / 25) == pytest.approx(400_000, rel=0.03)


def test_target_bitrate_makes_up_for_idle_time() -> None:
    rate = TargetBitrate(400_000)
    first = rate.encode(fake_encoder(200.0), 1 / 25)
    rate.idle(2.0)
    later = rate.encode(fake_encoder(200.0), 1 / 25)
    assert later.quality > first.quality


def test_frame_rates_are_exact(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    for given, exact in (
        (30000 / 1001, Fraction(30000, 1001)),
        (Fraction(100000, 3001), Fraction(100000, 3001)),
        (50, 50),
    ):
        video = tiny_codec.decode_video(encode(tiny_codec, frames[:2], frame_rate=given))
        assert video[1].time_s == 1 / Fraction(exact)


def test_target_bitrate_of_a_clip(small: Codec, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ulcodec.codec.clip_encoder.LARGEST_GROUP", 2)
    for kbit_per_s in (60, 120):
        data = encode(small, frames * 4, target_bitrate=1000 * kbit_per_s)
        assert ulcodec.info(data)["kbit_per_s"] == pytest.approx(kbit_per_s, rel=0.2)


def test_info_of_a_sequence(tiny_codec: Codec, sequence: bytes, tmp_path: Path) -> None:
    (tmp_path / "clip.ulc").write_bytes(sequence)
    info = ulcodec.info(sequence)
    assert info == ulcodec.info(tmp_path / "clip.ulc")
    assert (info["width"], info["height"], info["n_frames"], info["n_intra"]) == (46, 33, 10, 10)
    assert (info["duration_s"], info["frame_rate"], info["quality"], info["complete"]) == (0.4, "25", 60, True)
    assert info["bits_per_pixel"] == pytest.approx(8 * len(sequence) / (46 * 33 * 10))
    assert ulcodec.info(sequence[:-1])["complete"] is False
    with pytest.raises(FormatError):
        ulcodec.info(sequence[:60] + b"?" + sequence[61:])
