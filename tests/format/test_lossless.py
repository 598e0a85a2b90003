"""Lossless samples."""

import numpy as np
import pytest

from ulcodec.errors import FormatError
from ulcodec.format import lossless
from ulcodec.format.lossless import decode_lossless, encode_lossless


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (40, 33), (1, 60)])
def test_lossless_samples_round_trip_and_damage_is_refused(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossless, "TILE_PX", 16)
    alpha = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = encode_lossless(alpha)
    np.testing.assert_array_equal(decode_lossless(data, shape, "alpha"), alpha)
    for damaged in (data[:-1], data + b"x", data[: len(data) // 2], b""):
        with pytest.raises(FormatError):
            decode_lossless(damaged, shape, "alpha")
    with pytest.raises(FormatError):
        decode_lossless(data, (shape[0], shape[1] + 1), "alpha")
