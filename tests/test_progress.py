"""Progress reports of the library to an observer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ulcodec.codec import tiling
from ulcodec.codec.evaluation import integer_cost_percent, rate_distortion
from ulcodec.codec.generate import CodecDecoder, Sampler
from ulcodec.codec.image import Codec, decode_batch, encode_batch
from ulcodec.codec.rate_control import MAX_TRIES, encode_to_quality, encode_to_size
from ulcodec.codec.realism import Realism
from ulcodec.export.calibration import calibrate
from ulcodec.format.container import Container
from ulcodec.io.picture import Picture
from ulcodec.model.base_model import BaseModel, BaseModelConfig
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.progress import observed, share, tracked
from ulcodec.store.model_directory import save_model


class Recorder:
    """An observer that records fractions and notes."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.notes: list[str] = []

    def __call__(self, fraction: float, note: str) -> None:
        self.fractions.append(fraction)
        if note and note not in self.notes:
            self.notes.append(note)

    @property
    def increments(self) -> list[float]:
        """The increases between reports, without zeros."""
        return [after - before for before, after in pairwise(self.fractions) if after > before + 1e-9]


def record_progress(work: Callable[[], object]) -> Recorder:
    """Record the progress of work that succeeds, and check that it rises from 0 to 1."""
    recorder = Recorder()
    with observed(recorder):
        work()
    assert (recorder.fractions[0], recorder.fractions[-1]) == (0, 1)
    assert recorder.fractions == sorted(recorder.fractions)
    return recorder


# Shares and items


def test_items_and_shares_divide_the_enclosing_span() -> None:
    def work() -> None:
        with share(0.2):
            pass
        for item in tracked("ab", "item {} of {}"):
            for _ in tracked(range(2)) if item == "b" else ():
                pass

    recorder = record_progress(work)
    assert np.cumsum(recorder.increments) == pytest.approx([0.2, 0.6, 0.8, 1])
    assert recorder.notes == ["item 1 of 2", "item 2 of 2"]


def test_later_work_takes_the_rest_of_the_span() -> None:
    def work() -> None:
        with share(0.5, "half"):
            for item in tracked(range(4)):
                if item == 2:
                    break
            assert list(tracked(range(5))) == [0, 1, 2, 3, 4]
            assert list(tracked(())) == []
            assert list(tracked("no room")) == list("no room")
        with share(0.5):
            pass

    recorder = record_progress(work)
    assert recorder.increments == pytest.approx([0.125, 0.125, *[0.05] * 5, 0.25, 0.25])
    assert recorder.notes == ["half"]


def fail_halfway() -> None:
    with share(0.8):
        for item in tracked(range(4)):
            if item == 2:
                raise OSError("full")


def test_failed_work_keeps_its_progress() -> None:
    def work() -> None:
        with pytest.raises(OSError, match="full"):
            fail_halfway()
        with share(0.5):
            pass

    assert record_progress(work).increments == pytest.approx([0.2, 0.2, 0.3, 0.3])


def test_nothing_is_reported_after_a_failure() -> None:
    recorder = Recorder()
    with pytest.raises(OSError, match="full"), observed(recorder):
        fail_halfway()
    with share(1):
        pass
    assert recorder.fractions[-1] == pytest.approx(0.4)


def test_abandoned_iterator_may_be_closed_late() -> None:
    def work() -> None:
        with share(0.5):
            abandoned = iter(tracked(range(4)))
            next(abandoned)
        with share(0.5):
            del abandoned
            assert list(tracked(range(2))) == [0, 1]

    assert record_progress(work).increments == pytest.approx([0.5, 0.125, 0.125, 0.25])


# Codec and tools, with the tiny model


@pytest.fixture
def tiled(refined_codec: Codec, monkeypatch: pytest.MonkeyPatch) -> Codec:
    """The tiny codec with a refiner, a denoiser and small tiles, so that every loop has several tiles."""
    monkeypatch.setattr(tiling, "CODEC_TILE", 4)
    monkeypatch.setattr(refined_codec.coder.prior, "tile", 2)
    return replace(refined_codec, has_denoiser=True)


@pytest.fixture(scope="module")
def with_alpha(picture: np.ndarray) -> Picture:
    return Picture(picture, alpha=np.tile(np.arange(96, dtype=np.uint8) * 2, (80, 1)))


@pytest.fixture(scope="module")
def data(tiny_codec: Codec, picture: np.ndarray) -> bytes:
    return tiny_codec.encode(picture, quality=60)


@pytest.fixture(scope="module")
def alpha_data(tiny_codec: Codec, with_alpha: Picture) -> bytes:
    return tiny_codec.encode(with_alpha, quality=60, alpha_quality=50)


def damage_end(data: bytes) -> bytes:
    return data[:-20] + bytes(20)


def cut_after_two_segments(data: bytes) -> bytes:
    return Container.from_bytes(data).truncated(2).to_bytes()


Work = Callable[[Codec, np.ndarray, Picture, bytes, bytes], object]
"""A function of codec, picture, picture with alpha, file, and file with alpha."""

WORK: dict[str, tuple[float, Work]] = {
    "encode": (0.11, lambda c, p, a, d, e: c.encode(p, effort=1)),
    "encode with coded alpha": (0.11, lambda c, p, a, d, e: c.encode(a, alpha_quality=40)),
    "refiner": (0.11, lambda c, p, a, d, e: c.encode(p, effort=2)),
    "effort": (0.1, lambda c, p, a, d, e: c.encode(p, effort=3)),
    "decode": (0.13, lambda c, p, a, d, e: c.decode_array(d)),
    "decode with coded alpha": (0.13, lambda c, p, a, d, e: c.decode_array(e)),
    "crop": (0.51, lambda c, p, a, d, e: c.decode_picture(d, crop=(20, 10, 33, 40))),
    "fraction": (0.13, lambda c, p, a, d, e: c.decode_array(d, fraction=0.5)),
    "realism": (0.13, lambda c, p, a, d, e: c.decode_array(d, realism=Realism(1.0, n_steps=3))),
    "thumbnail": (0.51, lambda c, p, a, d, e: c.thumbnail(e)),
    "recover": (0.13, lambda c, p, a, d, e: c.recover(damage_end(d))),
    "bound": (0.51, lambda c, p, a, d, e: c.describe(d)),
    "batch": (0.21, lambda c, p, a, d, e: encode_batch(c, [p, p[:40, :33], p[::-1]])),
    "batch with effort": (0.1, lambda c, p, a, d, e: encode_batch(c, [p, p[:40]], effort=3)),
    "decode batch": (0.13, lambda c, p, a, d, e: decode_batch(c, [d, e, d])),
    "decode batch of cut files": (0.21, lambda c, p, a, d, e: decode_batch(c, [*[cut_after_two_segments(d)] * 2, d])),
    "size": (0.9, lambda c, p, a, d, e: encode_to_size(c, Picture(p), 700)),
    "psnr": (0.5, lambda c, p, a, d, e: encode_to_quality(c, Picture(p), "psnr_db", 8.0)),
    "evaluation": (0.1, lambda c, p, a, d, e: rate_distortion(c, [p, p[:40]], (10, 90))),
    "cost": (0.1, lambda c, p, a, d, e: integer_cost_percent(c, [p, p[:40]], 10)),
}
"""Work and a limit of its increments. Work without hooks reports only its end, and a search may end early."""


@pytest.mark.parametrize("name", WORK)
def test_progress_rises_from_0_to_1(
    tiled: Codec, picture: np.ndarray, with_alpha: Picture, data: bytes, alpha_data: bytes, name: str
) -> None:
    largest_increment, work = WORK[name]
    assert (
        max(record_progress(lambda: work(tiled, picture, with_alpha, data, alpha_data)).increments) < largest_increment
    )


def test_notes_count_tries_and_refinement_steps(tiled: Codec, picture: np.ndarray) -> None:
    recorder = record_progress(lambda: encode_to_size(tiled, Picture(picture), 700))
    assert recorder.notes == [f"try {i + 1} of at most {MAX_TRIES}" for i in range(len(recorder.notes))]
    assert 1 <= len(recorder.notes) <= MAX_TRIES
    recorder = record_progress(lambda: tiled.encode(picture, effort=3))
    assert recorder.notes == [f"refining: step {step} of 3" for step in (1, 2, 3)]


def test_calibration_reports_progress(tiny_model: UnifiedLatentModel, picture: np.ndarray, tmp_path: Path) -> None:
    save_model(tmp_path / "tiny", "tiny", tiny_model, {})
    assert max(record_progress(lambda: calibrate(tmp_path / "tiny", [picture[:32, :32]] * 4)).increments) < 0.16


def test_sampling_reports_progress(tiny_codec: Codec) -> None:
    channels = tiny_codec.model.config.latent_channels
    base = BaseModel(BaseModelConfig(latent_channels=channels, width=32, n_blocks=1, head_size=16)).eval()
    decoder = CodecDecoder(tiny_codec.model, 0.5, tiny_codec.device)
    sampler = Sampler(base.requires_grad_(False), base.draw_noisiest, 1, decoder, {}, tiny_codec.device)
    assert record_progress(lambda: list(sampler.sample(2, height=32, width=32, n_steps=4))).increments == pytest.approx(
        [1 / 8] * 8
    )


# Effects of the observer


def test_observer_changes_neither_bytes_nor_pixels(tiled: Codec, picture: np.ndarray, data: bytes) -> None:
    def results() -> Sequence[object]:
        return (
            tiled.encode(picture, quality=60, effort=1),
            tiled.encode(picture, effort=2),
            tiled.encode(picture, effort=3),
            tiled.decode_array(data).tobytes(),
            tiled.decode_array(data, realism=0.5).tobytes(),
            encode_to_size(tiled, Picture(picture), 700),
        )

    expected = results()
    with observed(Recorder()):
        assert results() == expected
    assert expected[0] == data


def test_observer_can_interrupt_the_work(tiled: Codec, picture: np.ndarray) -> None:
    def interrupt(fraction: float, note: str) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), observed(interrupt):
        tiled.encode(picture)
    record_progress(lambda: tiled.encode(picture))
