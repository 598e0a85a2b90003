"""Latents to segments and back: encoder and decoder restore the same integers."""

import dataclasses
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

import ulcodec
from ulcodec.codec.image import Codec, latent_grid
from ulcodec.coding import latents as latent_coding
from ulcodec.coding.latents import decode_latent, encode_latent, encode_latents, simulate_coding, symbols_of
from ulcodec.errors import CorruptDataError, ModelError
from ulcodec.format.container import Container
from ulcodec.io.pictures import load_image
from ulcodec.model.config import TINY, spread_reveal
from ulcodec.model.reveal import pass_map
from ulcodec.model.schedule import PassElements
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import save_model


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Return a function that sets torch's number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Record the elements that encoder and decoder restore, in the order of coding."""
    results: list[np.ndarray] = []
    restore = latent_coding.restore

    def record(*arguments: object) -> np.ndarray:
        result = restore(*arguments)
        results.append(result.ravel())
        return result

    monkeypatch.setattr(latent_coding, "restore", record)
    return results


def assert_same_in_encoder_and_decoder(restored: list[np.ndarray]) -> None:
    """Compare the hyper-latent and four passes of the encoder with those of the decoder."""
    assert len(restored) == 10
    assert all(np.array_equal(a, b) for a, b in zip(restored[:5], restored[5:], strict=True))


def test_simulation_restores_what_a_file_does(tiny_codec: Codec, picture: np.ndarray) -> None:
    """And knows the table of each element."""
    [y, hyper], coder = tiny_codec.analyse(picture, 60), tiny_codec.coder
    batch = np.stack((y, y[::-1])), np.stack((hyper, hyper[::-1]))
    simulated = simulate_coding(coder, *batch, 60)
    for y_16, tables, coded in zip(*simulated, encode_latents(coder, *batch, 60), strict=True):
        assert np.array_equal(y_16, coded.latent.y_16.reshape(y.shape))
        symbols = symbols_of(coder, coded.latent, 60, (y.shape[0], y.shape[1]))
        next(symbols)  # the hyper-latent
        for number, (_, expected) in enumerate(symbols, start=1):
            assert np.array_equal(PassElements(TINY, number).gather(tables[None]).ravel(), expected)


@pytest.mark.parametrize("quality", [0, 41, 100])
def test_decoder_restores_the_integers_of_the_encoder(
    tiny_codec: Codec, picture: np.ndarray, quality: int, restored: list[np.ndarray]
) -> None:
    y, hyper = tiny_codec.analyse(picture, quality)
    coded = encode_latent(tiny_codec.coder, y, hyper, quality)
    decoded = decode_latent(tiny_codec.coder, coded.segments, coded.symbol_check, quality, (y.shape[0], y.shape[1]))
    assert_same_in_encoder_and_decoder(restored)
    assert all(np.array_equal(one, other) for one, other in zip(coded.latent, decoded, strict=True))
    assert sum(elements.size for elements in restored[1:5]) == decoded.y_16.size == y.size
    error = np.abs(decoded.y_16.reshape(y.shape) / 16 - y)
    assert (error <= 0.5 + 1e-6).mean() > 0.9, "only elements that are not coded are further away"


def test_encoder_may_overwrite_its_latent(tiny_codec: Codec, picture: np.ndarray) -> None:
    y, hyper = tiny_codec.analyse(picture, 41)
    original = y.copy()
    plain = encode_latent(tiny_codec.coder, y, hyper, 41)
    assert np.array_equal(y, original)
    coded = encode_latent(tiny_codec.coder, y, hyper, 41, overwrite_y=True)
    assert (coded.segments, coded.symbol_check) == (plain.segments, plain.symbol_check)
    assert all(np.array_equal(one, other) for one, other in zip(coded.latent, plain.latent, strict=True))
    assert np.shares_memory(coded.latent.y_16, y), "the result uses the memory of y"


def test_latents_do_not_depend_on_the_thread_count(
    tiny_codec: Codec, picture: np.ndarray, set_threads: Callable[[int], None]
) -> None:
    data, decoded = tiny_codec.encode(picture, quality=70), []
    for n_threads in (1, 2):
        set_threads(n_threads)
        decoded.append(tiny_codec.decode_latents(Container.from_bytes(data)))
    for one, other in zip(*decoded, strict=True):
        assert np.array_equal(one, other)


def test_symbols_beyond_the_tables_are_escaped(tiny_codec: Codec, restored: list[np.ndarray]) -> None:
    """Symbols beyond the range of the format are clamped."""
    magnitudes = 10.0 ** np.minimum(np.arange(12), 7).reshape(3, 4, 1)
    y = (np.random.default_rng(0).normal(size=(3, 4, 32)) * magnitudes).astype(np.float32)
    hyper = np.full((1, 1, 8), -4e5, np.float32)
    coded = encode_latent(tiny_codec.coder, y, hyper, 100)
    decoded = decode_latent(tiny_codec.coder, coded.segments, coded.symbol_check, 100, (3, 4))
    assert_same_in_encoder_and_decoder(restored)
    assert np.abs(decoded.hyper_16 / 16 + 4e5).max() <= 0.5
    assert np.abs(decoded.y_16).max() / 16 == pytest.approx(latent_coding.LARGEST_CODED_SYMBOL, rel=0.01)


def test_cut_segment_gives_exact_elements_or_means() -> None:
    """Elements of complete passes are exact; those of the cut pass are exact or have the prior's mean."""
    small = ulcodec.load(device="cpu")
    photograph = load_image((files("skimage.data") / "coffee.png").read_bytes()).pixels[:192, :256]
    container = Container.from_bytes(small.encode(photograph, quality=60))
    whole = small.decode_latents(container).y_16
    passes = pass_map(small.model.config, latent_grid(container)).flatten(1).T.numpy()
    for n, share in ((1, 0.5), (2, 0.1), (3, 0.9)):
        prefix = container.segments[n][: int(share * len(container.segments[n]))]
        cut = dataclasses.replace(container, segments=(*container.segments[:n], prefix), symbol_check=None)
        y_16 = small.decode_latents(Container.from_bytes(cut.to_bytes())).y_16
        assert np.array_equal(y_16[passes <= n], whole[passes <= n])
        in_cut_pass = passes == n + 1
        means = small.decode_latents(container.truncated(n)).y_16[in_cut_pass]
        is_exact = y_16[in_cut_pass] == whole[in_cut_pass]
        assert np.array_equal(y_16[in_cut_pass][~is_exact], means[~is_exact])
        differs_from_mean = whole[in_cut_pass] != means
        assert 0.8 * share < is_exact[differs_from_mean].mean() < 1
    damaged = dataclasses.replace(container, segments=(container.segments[0][:-9] + b"\0", b""), symbol_check=None)
    with pytest.raises(CorruptDataError):
        small.decode_latents(damaged)


def test_missing_segment_is_refused(tiny_codec: Codec, picture: np.ndarray) -> None:
    segments = Container.from_bytes(tiny_codec.encode(picture, quality=70)).segments
    with pytest.raises(CorruptDataError, match="expected 4 segments, got 3"):
        decode_latent(tiny_codec.coder, segments[:3], 0, 70, (5, 6))


def test_more_reveal_passes_than_segments_are_refused(tmp_path: Path) -> None:
    model = UnifiedLatentModel(dataclasses.replace(TINY, reveal=spread_reveal("12345555"), prior_blocks=(1,) * 5))
    with pytest.raises(ModelError, match="a file holds 4 reveal passes, and the model has 5"):
        save_model(tmp_path / "five", "five", model, {})
    assert not (tmp_path / "five").exists()
