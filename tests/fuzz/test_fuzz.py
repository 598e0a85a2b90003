"""A short run of the fuzzer, and single bit flips."""

import random

import pytest
from fuzz_decode import fuzz, sound_files, undetected_flips
from mutations import mutated, sealed

from ulcodec.codec.image import Codec
from ulcodec.errors import FormatError
from ulcodec.format.container import Container


def test_mutated_files_raise_nothing_but_our_errors(tiny_codec: Codec) -> None:
    result = fuzz(tiny_codec, 300, seed=1)
    assert sum(result.outcomes.values()) == 300
    assert {"ChecksumError", "CorruptDataError", "TruncatedError"} <= set(result.outcomes)


def test_sealing_makes_damage_pass_the_checksums(tiny_codec: Codec) -> None:
    files = sound_files(tiny_codec)
    assert all(sealed(data) == data for data in files)
    opened = 0
    for number in range(200):
        try:
            Container.from_bytes(mutated(files, random.Random(number)))
            opened += 1
        except FormatError:
            pass
    assert opened > 20


def test_single_bit_flips_are_found(tiny_codec: Codec) -> None:
    assert undetected_flips(sound_files(tiny_codec), 2000, seed=0) == 0


def test_every_single_bit_flip_of_a_file_is_found(tiny_codec: Codec) -> None:
    data = max(sound_files(tiny_codec), key=len)
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            Container.from_bytes(bytes(flipped))
