"""Checks and properties of motion fields."""

import numpy as np
import pytest
from fields import random_field

from ulcodec.motion.field import MAX_VECTOR, MotionField, Use, grid_of


def test_cells_are_vectors_plus_deltas() -> None:
    field = random_field(2, (3, 4), 50, seed=0)
    for reference, row, column in np.ndindex(2, 6, 8):
        block = (reference, row // 2, column // 2)
        expected = field.vectors[block] + field.deltas[(*block, row % 2, column % 2)]
        np.testing.assert_array_equal(field.cells[reference, row, column], expected)


def test_used_follows_uses() -> None:
    field = random_field(2, (3, 4), 50, seed=0)
    np.testing.assert_array_equal(field.used, [field.uses != Use.SECOND, field.uses != Use.FIRST])
    assert MotionField.zero(1, (2, 2)).used.all()


def test_zero_uses_all_references() -> None:
    assert (MotionField.zero(1, (2, 3)).uses == Use.FIRST).all()
    assert (MotionField.zero(2, (2, 3)).uses == Use.BOTH).all()
    assert MotionField.zero(2, (2, 3)).cells.shape == (2, 4, 6, 2)


def test_grid_covers_the_picture() -> None:
    assert [grid_of(1, 16), grid_of(17, 33)] == [(1, 1), (2, 3)]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("uses", np.zeros((2, 3), np.int32), "uint8"),
        ("vectors", np.zeros((2, 2, 3, 2), np.int64), "int32"),
        ("uses", np.zeros((2, 4), np.uint8), "grid"),
        ("deltas", np.zeros((2, 2, 3, 2, 2), np.int32), "grid"),
        ("vectors", np.zeros((3, 2, 3, 2), np.int32), "references"),
        ("uses", np.full((2, 3), 3, np.uint8), "use"),
        ("vectors", np.full((2, 2, 3, 2), MAX_VECTOR + 1, np.int32), "component 8193"),
        ("deltas", np.full((2, 2, 3, 2, 2, 2), -MAX_VECTOR - 1, np.int32), "component 8193"),
        ("vectors", np.full((2, 2, 3, 2), -(2**31), np.int32), "component"),
    ],
)
def test_illegal_fields_are_refused(name: str, value: np.ndarray, message: str) -> None:
    field = MotionField.zero(2, (2, 3))
    arrays = {"uses": field.uses, "vectors": field.vectors, "deltas": field.deltas}
    with pytest.raises(ValueError, match=message):
        MotionField(**{**arrays, name: value})


def test_one_reference_is_always_the_first() -> None:
    field = MotionField.zero(1, (2, 3))
    for use in (Use.BOTH, Use.SECOND):
        with pytest.raises(ValueError, match="illegal use for 1 references"):
            MotionField(np.full((2, 3), use, np.uint8), field.vectors, field.deltas)


def test_vector_and_delta_count_together() -> None:
    vectors = np.full((1, 1, 1, 2), MAX_VECTOR, np.int32)
    deltas = np.zeros((1, 1, 1, 2, 2, 2), np.int32)
    deltas[0, 0, 0, 1, 0, 1] = 1
    with pytest.raises(ValueError, match="component 8193"):
        MotionField(np.full((1, 1), Use.FIRST, np.uint8), vectors, deltas)
    MotionField(np.full((1, 1), Use.FIRST, np.uint8), vectors, -deltas)
