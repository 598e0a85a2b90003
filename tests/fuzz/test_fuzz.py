"""A short run of the fuzzer, and single bit flips."""

import random

import pytest
from fuzz_decode import count_undetected_flips, fuzz, sound_files
from mutations import mutate, seal

from ulcodec.codec.image import Codec
from ulcodec.errors import FormatError
from ulcodec.format.container import Container


def test_mutated_files_raise_only_ulc_errors(tiny_codec: Codec) -> None:
    result = fuzz(tiny_codec, 300, seed=1)
    assert sum(result.outcomes.values()) == 300
    assert {"ChecksumError", "CorruptDataError", "TruncatedError"} <= set(result.outcomes)


def test_sealed_mutations_pass_the_checksums(tiny_codec: Codec) -> None:
    files = sound_files(tiny_codec)
    assert all(seal(data) == data for data in files)
    n_accepted = 0
    for number in range(200):
        try:
            Container.from_bytes(mutate(files, random.Random(number)))
            n_accepted += 1
        except FormatError:
            pass
    assert n_accepted > 20


def test_random_bit_flips_are_detected(tiny_codec: Codec) -> None:
    assert count_undetected_flips(sound_files(tiny_codec), 2000, seed=0) == 0


def test_every_bit_flip_of_the_longest_file_is_detected(tiny_codec: Codec) -> None:
    data = max(sound_files(tiny_codec), key=len)
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            Container.from_bytes(bytes(flipped))
