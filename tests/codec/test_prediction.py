"""Predicted frames: what the encoder writes, and that the decoder shows what the encoder saw."""

from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import skimage

from ulcodec.codec.clip_encoder import LARGEST_GROUP, WrittenPart
from ulcodec.codec.gop import GROUP_FRAMES, SceneCuts, steps_of
from ulcodec.codec.group_coding import FIRST_OFFSETS, CodedPicture, GroupCoder, NewFrame, cost_bits
from ulcodec.codec.image import Codec
from ulcodec.codec.prediction import add_residual, as_reference, encode_residual
from ulcodec.codec.video import VideoFrame
from ulcodec.errors import ArithmeticMismatchError, ChecksumError, CorruptDataError, FormatError, ImageError
from ulcodec.format.container import Layout
from ulcodec.format.sequence import KEPT_ANCHORS, KEPT_BETWEEN, ClipFormat, FrameRecord, IndexBuilder
from ulcodec.format.sequence_reader import CodedFrame, Order, SequenceReader, parse_frame
from ulcodec.io.picture import Picture
from ulcodec.metrics import psnr_db

N_FRAMES = 20


@pytest.fixture(scope="module")
def frames(picture: np.ndarray) -> list[np.ndarray]:
    """A crop that moves over a picture by a pixel a frame: 20 frames uint8 [40, 50, 3]."""
    return [picture[20:60, x : x + 50].copy() for x in range(N_FRAMES)]


def encode(codec: Codec, frames: Any, **options: Any) -> bytes:
    return b"".join(codec.encode_video(frames, **{"quality": 70, "frame_rate": 25, **options}))


@pytest.fixture(scope="module")
def sequence(tiny_codec: Codec, frames: list[np.ndarray]) -> bytes:
    return encode(tiny_codec, frames)


@pytest.fixture(scope="module")
def decoded(tiny_codec: Codec, sequence: bytes) -> list[np.ndarray]:
    return [frame.pixels for frame in tiny_codec.decode_video(sequence)]


def records_of(data: bytes) -> list[tuple[int, FrameRecord]]:
    """Frames of a sequence in the order of the file, each with the offset of its record."""
    reader = SequenceReader(BytesIO(data))
    return [
        (offset, parse_frame(record)) for offset, record in reader.records(reader.first_record) if record.tag & 0x80
    ]


def file_of(data: bytes, records: list[FrameRecord]) -> bytes:
    """A sequence with the header of another one."""
    forged, builder = data[: SequenceReader(BytesIO(data)).first_record], IndexBuilder()
    for record in records:
        builder.add(record, len(forged))
        forged += record.to_bytes()
    return forged + builder.to_bytes(0)


# The hierarchy


@pytest.mark.parametrize("n_frames", range(GROUP_FRAMES + 1))
@pytest.mark.parametrize("ends_intra", [False, True])
def test_each_frame_of_a_group_is_coded_once_after_its_references(n_frames: int, ends_intra: bool) -> None:
    steps, coded, kept = list(steps_of(n_frames, ends_intra=ends_intra)), {0}, {0}
    for step in steps:
        assert step.place not in coded
        assert kept.issuperset(step.references)
        coded.add(step.place)
        kept |= {step.place} if step.is_kept else set()
    assert coded == set(range(n_frames + 1))
    referred = {reference for step in steps for reference in step.references}
    assert all(step.is_kept == (step.place in referred or step.level == 0) for step in steps)
    assert [step.place for step in steps if step.level == 0] == ([n_frames] if n_frames else [])


def test_a_reader_keeps_enough_frames_for_groups(sequence: bytes) -> None:
    """In a chain of groups, every reference is among the frames that a reader keeps."""
    anchors, between, start = [0], list[int](), 0
    for _ in range(4):
        for step in steps_of(GROUP_FRAMES, ends_intra=False):
            references = {start + reference for reference in step.references}
            assert references <= {*anchors[-KEPT_ANCHORS:], *between[-KEPT_BETWEEN:]}
            if step.is_kept:
                (between if len(references) == 2 else anchors).append(start + step.place)
        start += GROUP_FRAMES


def test_structure_of_a_clip(sequence: bytes) -> None:
    records = [record for _, record in records_of(sequence)]
    kinds = [(record.index, record.references) for record in records]
    assert kinds[:4] == [(0, ()), (16, (0,)), (8, (0, 16)), (4, (0, 8))]
    assert kinds[17:] == [(19, (16,)), (17, (16, 19)), (18, (17, 19))]
    assert sorted(index for index, _ in kinds) == list(range(N_FRAMES))
    qualities = {record.index: record.quality for record in records if record.payload is not None}
    assert qualities[0] == qualities[16] == 70
    assert all(quality < 70 for index, quality in qualities.items() if index not in (0, 16, 19))


def test_intra_frames_come_at_least_every_gop(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    for gop in (2, 3, 8, 19, 20):
        intra = [record.index for _, record in records_of(encode(tiny_codec, frames, gop=gop)) if record.is_intra]
        assert intra == list(range(0, N_FRAMES, gop))


def test_a_scene_begins_with_an_intra_frame(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    other = [np.roll(255 - pixels[::-1], 7, axis=1) for pixels in frames]
    data = encode(tiny_codec, frames[:5] + other[:5] + frames[10:13])
    assert [record.index for _, record in records_of(data) if record.is_intra] == [0, 5, 10]
    for _, record in records_of(data):
        assert all(reference // 5 == record.index // 5 for reference in record.references)


def test_noise_and_fades_and_stills_are_no_cuts() -> None:
    rng, cuts = np.random.default_rng(0), SceneCuts()
    base = rng.integers(60, 200, (5, 6)).repeat(16, axis=0).repeat(16, axis=1)
    pictures = [base + rng.normal(0, 6, base.shape) for _ in range(4)] + [base * (1 - 0.04 * k) for k in range(4)]
    found = [cuts.is_cut(pixels.clip(0, 255).astype(np.uint8)) for pixels in (*pictures, pictures[-1])]
    assert found == [True] + [False] * 8


# What is shown


def test_decoder_shows_what_the_encoder_saw(tiny_codec: Codec, frames: list[np.ndarray], sequence: bytes) -> None:
    clip = SequenceReader(BytesIO(sequence)).clip
    planned = [NewFrame(index, 0, pixels, index == 0, index == 0) for index, pixels in enumerate(frames[:17])]
    group = GroupCoder(tiny_codec, clip, 70, 1).code_hierarchy(planned, None)
    assert group.records == [record for _, record in records_of(sequence)][:17]
    assert group.anchor is not None
    shown = tiny_codec.decode_video(sequence)[16].pixels
    np.testing.assert_array_equal(shown, group.anchor.pixels)


def test_prediction_is_smaller_than_intra_at_about_its_quality(
    tiny_codec: Codec, frames: list[np.ndarray], sequence: bytes, decoded: list[np.ndarray]
) -> None:
    intra = encode(tiny_codec, frames, gop=1)
    assert len(sequence) < len(intra) / 2
    first_db, *others_db = (psnr_db(a, b) for a, b in zip(frames, decoded, strict=True))
    assert np.mean(others_db) > first_db - 3


def test_a_still_clip_costs_nearly_nothing(small: Codec) -> None:
    """Frames that differ in noise alone have no latent and next to no motion."""
    rng, picture = np.random.default_rng(0), skimage.data.astronaut()[100:228, 100:228]
    noisy = [np.clip(picture + rng.normal(0, 1, picture.shape), 0, 255).astype(np.uint8) for _ in range(9)]
    records = [record for _, record in records_of(encode(small, noisy, quality=20))]
    assert all(len(record.to_bytes()) < 30 for record in records if not record.is_intra)


def test_first_frame_is_better_where_the_picture_stays(small: Codec) -> None:
    rng, picture = np.random.default_rng(0), skimage.data.astronaut()[100:228, 100:228]
    still = [np.clip(picture + rng.normal(0, 1, picture.shape), 0, 255).astype(np.uint8) for _ in range(9)]
    alone = [picture, np.rot90(picture).copy()]
    qualities = [[record.quality for _, record in records_of(encode(small, c, quality=30))] for c in (still, alone)]
    assert qualities[0][0] == 30 + FIRST_OFFSETS[-1]
    assert qualities[1] == [30, 30]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [False, True])
def test_depth_and_channels(tiny_codec: Codec, frames: list[np.ndarray], dtype: type, grey: bool) -> None:
    scaled = [pixels.astype(dtype) * (257 if dtype is np.uint16 else 1) for pixels in frames[:5]]
    originals = [pixels[:, :, 0].copy() if grey else pixels for pixels in scaled]
    decoded = [frame.pixels for frame in tiny_codec.decode_video(encode(tiny_codec, originals))]
    for original, pixels in zip(originals, decoded, strict=True):
        assert (pixels.dtype, pixels.shape) == (original.dtype, original.shape)
        assert psnr_db(as_reference(original), as_reference(pixels)) > 15


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (17, 16, 3), (40, 50)])
def test_sizes(tiny_codec: Codec, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    clip = [rng.integers(0, 256, shape, np.uint8) for _ in range(4)]
    assert [frame.pixels.shape for frame in tiny_codec.decode_video(encode(tiny_codec, clip))] == [shape] * 4


def test_repetitions_between_predicted_frames(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    clip = [frames[0], frames[0], frames[3], frames[3], frames[3], frames[6], frames[9], frames[9]]
    data = encode(tiny_codec, clip)
    repeated = {record.index: record.references for _, record in records_of(data) if record.is_repetition}
    assert repeated == {1: (0,), 3: (2,), 4: (2,), 7: (6,)}
    decoded = [frame.pixels for frame in tiny_codec.decode_video(data)]
    for index, references in repeated.items():
        np.testing.assert_array_equal(decoded[index], decoded[references[0]])


def test_repetitions_of_the_last_frame_of_a_group(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    still = [frames[2]] * (2 * LARGEST_GROUP)
    data = encode(tiny_codec, [frames[0], frames[1], *still, frames[3]])
    video = tiny_codec.decode_video(data)
    assert len(video) == 3 + len(still)
    assert len(list(video)) == len(video)
    assert sum(record.is_repetition for _, record in records_of(data)) == len(still) - 1


# Seeking


def test_any_frame_alone_is_that_of_the_whole(
    tiny_codec: Codec, sequence: bytes, decoded: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in reversed(range(N_FRAMES)):
        np.testing.assert_array_equal(tiny_codec.decode_video(sequence)[index].pixels, decoded[index])
    used = []

    def noted(self: Any, frame: CodedFrame) -> Any:
        used.append(frame.record.index)
        return decode(self, frame)

    decode = type(tiny_codec.decode_video(sequence))._decoded
    monkeypatch.setattr("ulcodec.codec.video.Video._decoded", noted)
    assert tiny_codec.decode_video(sequence)[6].index == 6
    assert sorted(used) == [0, 4, 6, 8, 16]


def test_seeking_begins_at_the_intra_frame_before(
    tiny_codec: Codec, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leading frames, which are shown before an intra frame and refer to it, are left out."""
    data = encode(tiny_codec, frames, gop=8)
    video = tiny_codec.decode_video(data)
    whole = [frame.pixels for frame in video]
    for start in (0, 7, 8, 9, 15, 16, 19):
        shown = list(video.frames(start))
        assert [frame.index for frame in shown] == list(range(start, N_FRAMES))
        for frame in shown:
            np.testing.assert_array_equal(frame.pixels, whole[frame.index])


def test_memory_holds_few_frames(tiny_codec: Codec, sequence: bytes) -> None:
    """A decoded frame lets go of its references."""
    video, alive = tiny_codec.decode_video(sequence), list[CodedFrame]()
    for shown in video._shown(0, None):
        video._samples(shown.source)
        alive.append(shown.source)
    assert all(not frame.references for frame in alive)


# Damage


def test_damaged_motion_and_latents_are_errors(tiny_codec: Codec, sequence: bytes) -> None:
    records = [record for _, record in records_of(sequence)]
    for place, record in enumerate(records):
        if not record.is_predicted or record.payload is None:
            continue
        check = FrameRecord(**{**vars(record), "symbol_check": record.symbol_check ^ 1})
        forged = file_of(sequence, [*records[:place], check, *records[place + 1 :]])
        with pytest.raises(ArithmeticMismatchError):
            list(tiny_codec.decode_video(forged))
        motion = FrameRecord(**{**vars(record), "motion": b"\xff" * 40})
        forged = file_of(sequence, [*records[:place], motion, *records[place + 1 :]])
        with pytest.raises(CorruptDataError):
            list(tiny_codec.decode_video(forged))
        break
    else:
        pytest.fail("no predicted frame has a latent")


def test_recovery_leaves_out_what_depends_on_damage(tiny_codec: Codec, frames: list[np.ndarray]) -> None:
    data = encode(tiny_codec, frames, gop=5)
    offsets, records = zip(*records_of(data), strict=True)
    place = next(place for place, record in enumerate(records) if record.index == 7)
    broken = FrameRecord(**{**vars(records[place]), "motion": b"\xff" * 40})
    forged = file_of(data, [*records[:place], broken, *records[place + 1 :]])
    damaged = bytearray(data)
    damaged[offsets[place] + 4] ^= 1
    for damaged_data, error in ((forged, CorruptDataError), (bytes(damaged), ChecksumError)):
        with pytest.raises(error):
            list(tiny_codec.decode_video(damaged_data))
        video = tiny_codec.decode_video(damaged_data, recover=True)
        assert [frame.index for frame in video] == [*range(6), *range(10, N_FRAMES)]
        assert [type(found) for found in video.damage] == [error]


def test_truncation_at_every_record(tiny_codec: Codec, sequence: bytes, decoded: list[np.ndarray]) -> None:
    offsets = [offset for offset, _ in records_of(sequence)]
    for cut in [*offsets, *(offset + 5 for offset in offsets)]:
        shown = list[VideoFrame]()
        with pytest.raises(FormatError):
            shown.extend(tiny_codec.decode_video(sequence[:cut]))
        assert [frame.index for frame in shown] == sorted(frame.index for frame in shown)
        for frame in shown:
            np.testing.assert_array_equal(frame.pixels, decoded[frame.index])


def test_long_chains_need_no_recursion(tiny_codec: Codec, sequence: bytes) -> None:
    """A frame at the end of a chain of a thousand references is decoded."""
    (_, first), (_, second) = records_of(sequence)[:2]
    chain = [FrameRecord(**{**vars(second), "index": index, "references": (index - 1,)}) for index in range(1, 1500)]
    for record in chain:
        assert record.payload is not None
    chain = [FrameRecord(record.index, record.references, motion=b"") for record in chain]
    assert tiny_codec.decode_video(file_of(sequence, [first, *chain]))[-1].index == 1499


# Going on


def test_an_encoder_goes_on_behind_an_unfinished_file(
    tiny_codec: Codec, frames: list[np.ndarray], sequence: bytes
) -> None:
    offsets = [offset for offset, _ in records_of(sequence)]
    for cut in (offsets[1], offsets[5], offsets[17], offsets[18], len(sequence)):
        written = WrittenPart.read(BytesIO(sequence[:cut]))
        n_written = written.builder.n_frames
        assert n_written in (1, 17, 20)
        whole = sequence[: written.size_bytes] + encode(tiny_codec, frames, written=written)
        video = tiny_codec.decode_video(whole)
        assert [frame.index for frame in video] == list(range(N_FRAMES))
        assert n_written == N_FRAMES or n_written in [r.index for _, r in records_of(whole) if r.is_intra]


@pytest.mark.parametrize(("quality", "other"), [(95, 80), (3, 4), (50, 75)])
def test_an_encoder_goes_on_at_the_quality_of_the_clip(
    tiny_codec: Codec, frames: list[np.ndarray], quality: int, other: int
) -> None:
    """The first frame may have a higher one."""
    data = encode(tiny_codec, frames, quality=quality)
    unfinished = data[: len(data) - 100]
    encode(tiny_codec, frames, quality=quality, written=WrittenPart.read(BytesIO(unfinished)))
    with pytest.raises(ImageError, match=f"encoded at quality .*, not {other}"):
        encode(tiny_codec, frames, quality=other, written=WrittenPart.read(BytesIO(unfinished)))


def test_order_and_written_part_agree_on_what_is_missing(sequence: bytes) -> None:
    clip = SequenceReader(BytesIO(sequence)).clip
    order, complete = Order(clip, 0, lenient=False), []
    for number, (_, record) in enumerate(records_of(sequence)):
        order.add(record)
        while order.is_ready:
            order.pop()
        if not order.seen:
            complete.append(number + 1)
    assert complete == [1, 17, 20]


def test_target_bitrate_of_groups(small: Codec, frames: list[np.ndarray]) -> None:
    large = [np.asarray(Picture(pixels).to_pil().resize((100, 80))) for pixels in frames[:17]]
    for rate in (12_000, 24_000):
        n_bits = 8 * len(encode(small, large, target_bitrate=rate))
        assert n_bits / (17 / 25) == pytest.approx(rate, rel=0.3)


# Effort


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_refinement_lowers_the_cost_of_a_residual(small: Codec, dtype: type, grey: bool) -> None:
    """The prediction is the frame itself, blurred. Its sides are not multiples of 16."""
    picture = skimage.data.coffee()[100:190, 200:343].astype(dtype)
    pixels = np.ascontiguousarray(picture[:, :, 0] if grey else picture) * dtype(257 if dtype is np.uint16 else 1)
    prediction = as_reference(
        np.stack([np.roll(pixels, shift, axis=1) for shift in range(-2, 3)]).mean(0).astype(dtype)
    )
    layout, bit_depth = Layout.GREY if grey else Layout.RGB, 8 * pixels.itemsize
    clip = ClipFormat(143, 90, Fraction(1, 25), Fraction(25), layout=layout, bit_depth=bit_depth)

    def cost(n_steps: int) -> float:
        coded, y_prediction = encode_residual(small, pixels, prediction, 50, n_steps)
        samples = add_residual(small, clip, prediction, y_prediction, coded.latent, 50)
        record = FrameRecord(1, (), 0, 50, coded.payload, coded.symbol_check)
        return cost_bits(record, samples, pixels, small.model.config.lagrangian(0.5))

    costs = [cost(n_steps) for n_steps in (0, 1, 5)]
    assert costs == sorted(costs, reverse=True)
    assert costs[2] < 0.99 * costs[0]


def test_effort_tries_motion_of_fewer_bits(tiny_codec: Codec, sequence: bytes) -> None:
    """Vectors between two pictures of noise are hardly worth their bits."""
    clip, rng = SequenceReader(BytesIO(sequence)).clip, np.random.default_rng(0)
    noise, other = rng.integers(96, 160, (2, 40, 50, 3), np.uint8)
    records = [
        GroupCoder(tiny_codec, clip, 30, effort).code_hierarchy([NewFrame(1, 0, other)], CodedPicture(0, noise)).records
        for effort in (1, 2)
    ]
    first, second = (len(record.motion) for [record] in records)
    assert second < first
