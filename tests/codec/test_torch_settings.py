"""Global settings of torch change no file and no picture, and the codec does not change them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

import ulcodec
from ulcodec.codec.image import Codec


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        assert torch.get_default_dtype() == dtype
        torch.set_default_dtype(before)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        assert torch.get_float32_matmul_precision() == name
        torch.set_float32_matmul_precision(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        assert torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "nothing": nullcontext,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "bfloat16 inside float32 products": lambda: matmul_precision("medium"),
    "deterministic": deterministic,
    "another default device": lambda: torch.device("meta"),
}


@pytest.fixture(scope="module")
def expected(tiny_codec: Codec, picture: np.ndarray) -> dict[int, tuple[bytes, np.ndarray]]:
    files = {effort: tiny_codec.encode(picture, quality=60, effort=effort) for effort in (1, 2)}
    return {effort: (data, tiny_codec.decode_array(data)) for effort, data in files.items()}


@pytest.mark.parametrize("effort", [1, 2])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_change_no_file_and_no_picture(
    setting: str, effort: int, tiny_codec: Codec, tiny_model_dir: Path, picture: np.ndarray,
    expected: dict[int, tuple[bytes, np.ndarray]],
) -> None:  # fmt: skip
    data, pixels = expected[effort]
    with SETTINGS[setting]():
        loaded = ulcodec.load(tiny_model_dir, device="cpu")
        for codec in (tiny_codec, loaded):
            assert codec.encode(picture, quality=60, effort=effort) == data
            np.testing.assert_array_equal(codec.decode_array(data), pixels)
    assert loaded.encode(picture, quality=60, effort=effort) == data
    np.testing.assert_array_equal(loaded.decode_array(data), pixels)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_change_no_thumbnail_and_no_bound(setting: str, tiny_codec: Codec, picture: np.ndarray) -> None:
    data = tiny_codec.encode(picture, quality=60)
    thumbnail, description = tiny_codec.thumbnail(data).pixels, tiny_codec.describe(data)
    with SETTINGS[setting]():
        np.testing.assert_array_equal(tiny_codec.thumbnail(data).pixels, thumbnail)
        assert tiny_codec.describe(data) == description
