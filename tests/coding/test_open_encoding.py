"""A latent that is coded up to its last pass."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.coding import latents
from ulcodec.coding.latents import OpenEncoding, decode_latent, encode_latent
from ulcodec.model.config import TINY, spread_reveal
from ulcodec.model.schedule import channel_passes
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import save_model

QUALITY = 40


Analysed = tuple[np.ndarray, np.ndarray]
"""A latent [h, w, C] and its hyper-latent."""


@pytest.fixture(scope="module")
def analysed(tiny_codec: Codec) -> Analysed:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 203, 3), dtype=np.uint8)
    return tiny_codec.analyse(pixels, QUALITY)


def last_pass_mask(codec: Codec, y: np.ndarray) -> np.ndarray:
    """Which elements of a latent are in the last pass, by the definition of the schedule."""
    config = codec.coder.prior.config
    passes = channel_passes(config)
    rows, columns = (np.arange(side) for side in y.shape[:2])
    of_position = passes[:, rows[:, None] % 2, columns[None] % 4].transpose(1, 2, 0)
    mask: np.ndarray = of_position == config.reveal_passes[-1]
    return mask


@pytest.mark.parametrize("thrift", [1.0, 1.3])
@pytest.mark.parametrize("chunk", [300, latents.ELEMENTS_PER_CHUNK])
@pytest.mark.parametrize("tile", [3, 96])
def test_finishing_gives_the_whole_file_each_time(
    tiny_codec: Codec, analysed: Analysed, monkeypatch: pytest.MonkeyPatch, thrift: float, chunk: int, tile: int
) -> None:
    """Also in several tiles of the prior, and in several chunks."""
    whole = encode_latent(tiny_codec.coder, *analysed, QUALITY, thrift)
    monkeypatch.setattr(latents, "ELEMENTS_PER_CHUNK", chunk)
    monkeypatch.setattr(tiny_codec.coder.prior, "tile", tile)
    encoding = OpenEncoding(tiny_codec.coder, *analysed, QUALITY, thrift)
    for _ in range(2):
        coded = encoding.finish(analysed[0])
        assert (coded.segments, coded.symbol_check) == (whole.segments, whole.symbol_check)
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(coded.latent, whole.latent, strict=True))


def test_another_last_pass_is_coded_as_in_a_whole_file(tiny_codec: Codec, analysed: Analysed) -> None:
    y, hyper = analysed
    other = y + np.random.default_rng(1).normal(0, 1.5, y.shape).astype(np.float32)
    encoding = OpenEncoding(tiny_codec.coder, y, hyper, QUALITY)
    mixed, mask = encoding.with_last_pass(y, other), last_pass_mask(tiny_codec, y)
    assert np.array_equal(mixed, np.where(mask, other, y))
    before, coded = encoding.finish(y), encoding.finish(mixed)
    whole = encode_latent(tiny_codec.coder, mixed, hyper, QUALITY)
    assert (coded.segments, coded.symbol_check) == (whole.segments, whole.symbol_check)
    assert coded.segments[:3] == before.segments[:3]
    assert coded.segments[3] != before.segments[3]
    decoded = decode_latent(tiny_codec.coder, coded.segments, coded.symbol_check, QUALITY, y.shape[:2])
    assert np.array_equal(decoded.y_16, coded.latent.y_16)


def test_elements_under_narrow_tables_stay(tiny_codec: Codec, analysed: Analysed) -> None:
    y, hyper = analysed
    encoding = OpenEncoding(tiny_codec.coder, y, hyper, QUALITY)
    tables = encoding.parameters.table_index
    first = int(np.median(tables)) + 1
    changed = encoding.elements.gather((encoding.with_last_pass(y, y + 1, first) != y)[None])
    assert np.array_equal(changed, tables >= first)
    assert 0 < changed.mean() < 1


def test_a_schedule_of_one_pass(tmp_path: Path) -> None:
    """The last pass is then the first: its segment holds the hyper-latent, too."""
    model = UnifiedLatentModel(replace(TINY, reveal=spread_reveal("11111111"), prior_blocks=(1,)))
    save_model(tmp_path / "one", "one", model, {})
    codec = ulcodec.load(tmp_path / "one", device="cpu")
    y, hyper = codec.analyse(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8), QUALITY)
    encoding, whole = OpenEncoding(codec.coder, y, hyper, QUALITY), encode_latent(codec.coder, y, hyper, QUALITY)
    for _ in range(2):
        coded = encoding.finish(y)
        assert (coded.segments, coded.symbol_check) == (whole.segments, whole.symbol_check)
    assert coded.segments[1:] == (b"", b"", b"")
