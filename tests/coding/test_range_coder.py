"""The range coder in plain Python writes the bytes of constriction, and reads them."""

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symbol_examples import frequency_rows

from ulcodec.coding import range_coder
from ulcodec.coding.range_coder import TOTAL
from ulcodec.coding.symbols import shortest_bytes

Draw = tuple[list[int], int]


def assert_same_coder(draws: list[Draw]) -> None:
    """Check that both coders have the same state and bytes, and that the one in Python decodes them."""
    libraries = (constriction.stream, range_coder)
    choices = [(number % len(row), np.array(row) - 1.0) for row, number in draws]
    encoders = [library.queue.RangeEncoder() for library in libraries]
    for encoder, library in zip(encoders, libraries, strict=True):
        for entry, weights in choices:
            encoder.encode(np.array([entry], dtype=np.int32), library.model.Categorical(weights, perfect=False))
    constriction_encoder, python_encoder = encoders
    assert python_encoder.pos() == constriction_encoder.pos()
    data = shortest_bytes(constriction_encoder)
    assert shortest_bytes(python_encoder) == data
    words = np.frombuffer(data + bytes(-len(data) % 4), dtype=">u4").astype(np.uint32)
    decoder = range_coder.queue.RangeDecoder(words)
    decoded = [int(decoder.decode(range_coder.model.Categorical(weights), 1)[0]) for _, weights in choices]
    assert decoded == [entry for entry, _ in choices]


@given(st.lists(st.tuples(frequency_rows(), st.integers(0, 6)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_state_bytes_and_entries_equal_those_of_constriction(draws: list[Draw]) -> None:
    assert_same_coder(draws)


@pytest.mark.parametrize("entry", [0, 1])
def test_carries_propagate_through_many_words(entry: int) -> None:
    middle, half = [TOTAL // 2 - 1, 2, TOTAL // 2 - 1], [TOTAL // 2, TOTAL // 2]
    assert_same_coder([(middle, 1)] * 200 + [(half, entry)] * 3)


def test_data_that_no_encoder_writes_is_an_assertion_error() -> None:
    words = np.full(4, 2**32 - 1, dtype=np.uint32)
    for library in (constriction.stream, range_coder):
        model = library.model.Categorical(np.array([TOTAL // 2, TOTAL // 2]) - 1.0, perfect=False)
        with pytest.raises(AssertionError):
            library.queue.RangeDecoder(words).decode(model, 1)
