"""Bytes of motion fields: round trip, golden bytes, damage, and the order of the blocks."""

import numpy as np
import pytest
from fields import pattern_field, random_field, smooth_field

from ulcodec.coding.range_coder import TOTAL
from ulcodec.coding.symbols import SymbolEncoder
from ulcodec.errors import CorruptDataError
from ulcodec.motion import coding
from ulcodec.motion.coding import SPLIT_TABLES, TABLES, USE_TABLES, coding_steps, decode_field, encode_field
from ulcodec.motion.field import MAX_VECTOR, MotionField, Use

GRIDS = [(height, width) for height in range(1, 8) for width in range(1, 14)]

GOLDEN = {
    1: bytes.fromhex(
        "2f79101fe9419b4834f8c81783cf3ad5f1334bd8b7df874096da41e41a97ffea4be1d8e1e0569fe9cef09c78acfc368a3924092d"
        "474d7d9bf8d97bb6220bd25f5d8e7bf9f8b2d40e7556d562954e1846577c6df1cbb39780f0234fa085368f1e9b0a5a38bacba13a"
        "30ccda33b6d49267b49dda89d7bccf45314d6d12a48dffd436a6c15b59e83e1bdca7e0f1df958c43b32a406f93c25f93137e142c"
        "0ecdb42247"
    ),
    2: bytes.fromhex(
        "2db90fc1ac7e4912539e47dbd900f4340d8c08c389d5299b0a26f553878a524da8e1634626a4462ae3bedf7c58ad2cc0b46c7799"
        "7c0927a4357d8269c606a39f11854f456e57896e3a7e9b765f68ff8a2cb6d6bfdb853e75757403298b1026a13c113acd62e88e1d"
        "35f41fe7541de79a6e3349002aed2175be6e5e30cd02c76e637a1284cb6b2239d4499c5a6bcbba62385605f5f99e81f019c83dc6"
        "9c0188de367db1d1fdbb6695fe5372de4235f95da5ac4efbeea45230d993f5384e22e0d6141f0b1ee7394b6722d1f555c535fea3"
        "31deb70cf2c48d735e07eaf8bf915799f184"
    ),
}
"""Bytes of `pattern_field` by number of references. They must decode for ever: do not regenerate them."""


def assert_same_motion(decoded: MotionField, field: MotionField) -> None:
    """Compare all that is coded: vectors of references that a block does not use are not."""
    np.testing.assert_array_equal(decoded.uses, field.uses)
    np.testing.assert_array_equal(decoded.vectors[field.used], field.vectors[field.used])
    np.testing.assert_array_equal(decoded.deltas, np.where(field.used[..., None, None, None], field.deltas, 0))


@pytest.mark.parametrize("n_references", [1, 2])
@pytest.mark.parametrize("largest", [0, 2, 60, MAX_VECTOR])
def test_round_trip(n_references: int, largest: int) -> None:
    for number, grid in enumerate(GRIDS):
        field = random_field(n_references, grid, largest, seed=number)
        data = encode_field(field)
        decoded = decode_field(data, n_references, grid)
        assert_same_motion(decoded, field)
        assert encode_field(decoded) == data


def test_extreme_vectors() -> None:
    """Neighbours at opposite ends of the range give the largest differences."""
    vectors = np.where(np.indices((7, 13)).sum(0) % 2, MAX_VECTOR, -MAX_VECTOR)[None, ..., None].repeat(2, axis=3)
    deltas = np.zeros((1, 7, 13, 2, 2, 2), np.int32)
    deltas[..., 1, 1, :] = -2 * vectors
    field = MotionField(np.full((7, 13), Use.FIRST, np.uint8), vectors.astype(np.int32), deltas)
    assert_same_motion(decode_field(encode_field(field), 1, (7, 13)), field)


@pytest.mark.parametrize("n_references", [1, 2])
def test_golden_bytes(n_references: int) -> None:
    field = pattern_field(n_references, (5, 6))
    assert encode_field(field) == GOLDEN[n_references]
    assert_same_motion(decode_field(GOLDEN[n_references], n_references, (5, 6)), field)


def test_static_fields_cost_almost_nothing() -> None:
    for n_references in (1, 2):
        assert 8 * len(encode_field(MotionField.zero(n_references, (15, 26)))) < 0.5 * n_references * 15 * 26


def test_smooth_fields_cost_less_than_random_ones() -> None:
    smooth, random = smooth_field((15, 26)), random_field(1, (15, 26), 40, seed=0)
    assert len(encode_field(smooth)) < 0.4 * len(encode_field(random))


@pytest.mark.parametrize("n_references", [1, 2])
def test_damage_gives_corrupt_data_or_another_field(n_references: int) -> None:
    grid = (4, 5)
    data = encode_field(random_field(n_references, grid, 30, seed=1))
    rng = np.random.default_rng(0)
    damaged = [data[:length] for length in range(len(data))]
    for place in range(len(data)):
        damaged += [data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :] for bit in range(0, 8, 3)]
    damaged += [data + b"\x01", data + b"\x00", b"\xff" * 60, *(rng.bytes(length) for length in range(80))]
    n_corrupt = 0
    for broken in damaged:
        try:
            field = decode_field(broken, n_references, grid)
        except CorruptDataError:
            n_corrupt += 1
        else:
            assert encode_field(field) == broken
    assert n_corrupt > len(damaged) // 4


def encoded(*groups: tuple[list[int], list[int]]) -> bytes:
    encoder = SymbolEncoder()
    for symbols, tables in groups:
        encoder.encode(np.array(symbols, np.int32), np.array(tables), TABLES)
    return encoder.finish()


NO_NEIGHBOUR_TABLE = 9
"""Table of the vector of the first block, which has no neighbours."""


@pytest.mark.parametrize("component", [MAX_VECTOR + 1, -MAX_VECTOR - 1, 2**20 - 1])
def test_vectors_out_of_range_are_corrupt(component: int) -> None:
    data = encoded(([component], [NO_NEIGHBOUR_TABLE]), ([0], [NO_NEIGHBOUR_TABLE]), ([0], [SPLIT_TABLES + 3]))
    with pytest.raises(CorruptDataError, match="beyond 8192"):
        decode_field(data, 1, (1, 1))


@pytest.mark.parametrize(("delta", "message"), [(0, "cells of one vector"), (MAX_VECTOR + 1, "beyond 8192")])
def test_illegal_splits_are_corrupt(delta: int, message: str) -> None:
    vector = [([0], [NO_NEIGHBOUR_TABLE])] * 2
    deltas = [([delta, 0, 0, 0], [coding.DELTA_TABLES] * 4)]
    first = coding.DELTA_TABLES + 9 * (delta > 0)
    deltas += [([0, 0, 0, 0], [first, *[coding.DELTA_TABLES] * 3])]
    with pytest.raises(CorruptDataError, match=message):
        decode_field(encoded(*vector, ([1], [SPLIT_TABLES + 3]), *deltas), 1, (1, 1))


@pytest.mark.parametrize("symbol", [-1, 3, 700])
def test_unknown_uses_are_corrupt(symbol: int) -> None:
    with pytest.raises(CorruptDataError, match="use"):
        decode_field(encoded(([symbol], [USE_TABLES + 2])), 2, (1, 1))


@pytest.mark.parametrize("symbol", [-1, 2])
def test_unknown_split_flags_are_corrupt(symbol: int) -> None:
    vector = [([0], [NO_NEIGHBOUR_TABLE])] * 2
    with pytest.raises(CorruptDataError, match="split flag"):
        decode_field(encoded(*vector, ([symbol], [SPLIT_TABLES + 3])), 1, (1, 1))


@pytest.mark.parametrize("grid", [*GRIDS, (1, 40), (33, 2), (16, 16), (17, 31)])
def test_steps_code_each_block_once_after_its_neighbours(grid: tuple[int, int]) -> None:
    known: set[int] = set()
    for number, step in enumerate(coding_steps(grid)):
        assert list(step.blocks) == sorted(step.blocks)
        for neighbours, exists in zip(step.neighbours.tolist(), step.exists.tolist(), strict=True):
            assert any(exists) == (number > 0)
            assert {block for block, is_there in zip(neighbours, exists, strict=True) if is_there} <= known
        assert not known.intersection(step.blocks.tolist())
        known.update(step.blocks.tolist())
    assert known == set(range(grid[0] * grid[1]))


def test_prediction_is_the_median_of_the_neighbours() -> None:
    known = coding.KnownField(1, (1, 6))
    known.vectors[0] = [[9, -9], [1, -4], [2, 0], [7, 7], [4, -7], [6, 6]]
    blocks = np.arange(5)
    neighbours = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]])
    step = coding.Step(blocks, neighbours, np.arange(4) < np.array([4, 3, 2, 1, 0])[:, None])
    prediction, spread = known.predict(step)
    np.testing.assert_array_equal(prediction[0], [[4, -2], [2, -4], [5, -7], [4, -7], [0, 0]])
    np.testing.assert_array_equal(spread[0], [[8, 16], [8, 9], [8, 5], [0, 0], [MAX_VECTOR, MAX_VECTOR]])


def test_tables_follow_their_definition() -> None:
    """Compare with plain Python integers, as the format states them."""
    shapes = (*coding.VECTOR_SHAPES, *coding.DELTA_SHAPES)
    assert len(shapes) == SPLIT_TABLES
    for row, (zero, escape, a, b) in zip(TABLES.frequencies, shapes, strict=False):
        weights = [2**40]
        for k in range(1, 255):
            weights.append(weights[-1] * (4 * k + a) // (4 * k + a + b))
        side = (2**24 - 2**14 * zero) // 2 - 2**7 * escape
        tail = [max(1, weight * side // sum(weights)) for weight in weights]
        expected = [*tail[::-1], TOTAL - 2**8 * escape - 2 * sum(tail), *tail, 2**8 * escape]
        assert row.tolist() == expected
        assert abs(expected[255] / 2**14 - zero) < 1
