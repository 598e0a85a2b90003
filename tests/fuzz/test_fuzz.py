"""Short runs of the fuzzers, and single bit flips."""

import random
from io import BytesIO

import pytest
from fuzz_decode import count_undetected_flips, fuzz, sound_files
from fuzz_sequences import fuzz_sequences, sound_sequences
from mutations import mutate, seal
from sequence_mutations import mutate_sequence, put_together, take_apart

from ulcodec.codec.image import Codec
from ulcodec.errors import FormatError
from ulcodec.format.container import Container
from ulcodec.format.sequence_reader import SequenceReader


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


def test_mutated_sequences_raise_only_documented_errors(tiny_codec: Codec) -> None:
    result = fuzz_sequences(tiny_codec, 60, seed=1)
    assert sum(result.outcomes.values()) == 60
    assert {"ChecksumError", "CorruptDataError", "TruncatedError"} <= set(result.outcomes)


def test_sequences_are_taken_apart_and_put_together(tiny_codec: Codec) -> None:
    for data in sound_sequences(tiny_codec):
        parts = take_apart(data)
        assert parts is not None
        assert put_together(parts) == data


def test_mutations_of_sequences_pass_the_checksums(tiny_codec: Codec) -> None:
    """Some mutated files are sound, and most of the others fail for what their records say."""
    files, outcomes = sound_sequences(tiny_codec), []
    for number in range(400):
        data = mutate_sequence(files, random.Random(number))
        try:
            list(SequenceReader(BytesIO(data)).read())
            outcomes.append("sound" if data not in files else "unchanged")
        except FormatError as error:
            outcomes.append(type(error).__name__)
    assert outcomes.count("sound") > 20
    assert outcomes.count("CorruptDataError") > 100
