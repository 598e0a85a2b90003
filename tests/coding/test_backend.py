"""constriction is the range coder of `docs/format.md`, with a coder in plain Python integers as the oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_range_coder import TOTAL, ReferenceEncoder
from symbol_examples import frequency_rows, int32

from ulcodec.coding.backend import categorical, stream_coder


@given(st.lists(st.tuples(frequency_rows(), st.integers(0, 6)), max_size=60))
@settings(max_examples=300, deadline=None)
def test_constriction_is_the_range_coder_of_the_format(draws: list[tuple[list[int], int]]) -> None:
    """State, words and integer frequencies must be exact: they pin the version of constriction."""
    encoder, reference = stream_coder().queue.RangeEncoder(), ReferenceEncoder()
    draws_in_range = [(number % len(frequencies), frequencies) for frequencies, number in draws]
    for entry, frequencies in draws_in_range:
        encoder.encode(int32([entry]), categorical(np.array(frequencies)))
        reference.encode(entry, frequencies)
    assert encoder.pos() == (reference.n_words, (reference.low % 2**64, reference.width))
    words = encoder.get_compressed()
    assert words.astype(">u4").tobytes() == reference.whole_words()
    decoder = stream_coder().queue.RangeDecoder(words)
    assert [int(decoder.decode(categorical(np.array(f)))) for _, f in draws_in_range] == [
        entry for entry, _ in draws_in_range
    ]


@pytest.mark.parametrize("entry", [0, 1])
def test_constriction_carries_through_many_words(entry: int) -> None:
    """An interval around the middle narrows for hundreds of bytes before its side is known."""
    middle, half = [TOTAL // 2 - 1, 2, TOTAL // 2 - 1], [TOTAL // 2, TOTAL // 2]
    reference, encoder = ReferenceEncoder(), stream_coder().queue.RangeEncoder()
    for choice, row in [(1, middle)] * 200 + [(entry, half)] * 3:
        reference.encode(choice, row)
        encoder.encode(int32([choice]), categorical(np.array(row)))
    assert encoder.get_compressed().astype(">u4").tobytes() == reference.whole_words()
    assert encoder.pos()[1] == (reference.low % 2**64, reference.width)
