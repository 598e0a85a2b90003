"""Decoding of cut and damaged files."""

import dataclasses

import numpy as np
import pytest

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.errors import ChecksumError, CorruptDataError, FormatError
from ulcodec.format.container import Container
from ulcodec.metrics import psnr_db


def damaged_at(coded: bytes, segment: int) -> bytes:
    """Flip one bit in the middle of a segment's payload."""
    payload = Container.from_bytes(coded).segments[segment]
    position = coded.index(payload) + len(payload) // 2
    return coded[:position] + bytes([coded[position] ^ 4]) + coded[position + 1 :]


def test_every_fraction_of_a_file_decodes(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    qualities = []
    for fraction in np.linspace(0, 1, 21):
        qualities.append(psnr_db(tiny_codec.decode_array(coded, fraction=fraction), picture))
    assert qualities[0] < qualities[10] < qualities[-1]
    container = Container.from_bytes(coded)
    for n in (1, 2, 3):
        cut = container.truncated(n).to_bytes()
        assert len(cut) < len(coded)
        decoded = tiny_codec.decode_array(coded, fraction=len(cut) / len(coded) + 1e-9)
        np.testing.assert_array_equal(tiny_codec.decode_array(cut), decoded)
        assert ulcodec.info(cut)["segment_bytes"] == [*(len(segment) for segment in container.segments[:n]), 0]


def test_recovery_decodes_the_segments_before_the_damage(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    whole = tiny_codec.recover(coded)
    assert (whole.n_segments, whole.damage) == (4, None)
    np.testing.assert_array_equal(whole.picture.pixels, tiny_codec.decode_array(coded))
    quality_db = []
    for segment in (1, 2, 3):
        recovered = tiny_codec.recover(damaged_at(coded, segment))
        assert recovered.n_segments == segment
        assert isinstance(recovered.damage, ChecksumError)
        quality_db.append(psnr_db(recovered.picture.pixels, picture))
    assert 10 < quality_db[0] < quality_db[1] < quality_db[2] < psnr_db(whole.picture.pixels, picture)
    with pytest.raises(ChecksumError):
        tiny_codec.recover(damaged_at(coded, 0))


def test_recovery_decodes_the_complete_segments_of_a_cut_file(
    tiny_codec: Codec, picture: np.ndarray, coded: bytes
) -> None:
    cut = tiny_codec.recover(coded[: coded.index(Container.from_bytes(coded).segments[2]) + 3])
    assert cut.n_segments == 2
    assert cut.picture.pixels.shape == picture.shape
    with pytest.raises(FormatError):
        tiny_codec.recover(coded[:20])


def test_recovery_stops_at_an_invalid_segment_with_right_checksums(tiny_codec: Codec, coded: bytes) -> None:
    container = Container.from_bytes(coded)
    first, second, _, last = container.segments
    forged = dataclasses.replace(container, segments=(first, second, b"\xff" * 40, last)).to_bytes()
    with pytest.raises(CorruptDataError):
        tiny_codec.decode(forged)
    recovered = tiny_codec.recover(forged)
    assert recovered.n_segments == 2
    assert isinstance(recovered.damage, CorruptDataError)
