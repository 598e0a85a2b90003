"""Other codecs: each installed one codes a picture, and its quality rises with its level."""

import sys

import numpy as np
import pytest

from ulcodec.bench import peers
from ulcodec.bench.peers import PEERS, AbsentError, Peer
from ulcodec.errors import BenchmarkError
from ulcodec.metrics import psnr_db


def installed_peer(key: str) -> Peer:
    """Return a codec, or skip the test if its library is absent."""
    try:
        PEERS[key].library()
    except AbsentError as error:
        pytest.skip(str(error))
    return PEERS[key]


@pytest.mark.parametrize("key", PEERS)
@pytest.mark.parametrize("shape", [(80, 96, 3), (77, 95, 3), (79, 96)], ids=["even", "odd", "grey"])
def test_quality_and_size_rise_with_the_level(key: str, shape: tuple[int, ...], picture: np.ndarray) -> None:
    peer = installed_peer(key)
    pixels = np.ascontiguousarray(picture[: shape[0], : shape[1]])
    pixels = pixels if len(shape) == 3 else pixels[:, :, 1]
    small_file, large_file = (peer.encode(pixels, level) for level in (peer.levels[0], peer.levels[-1]))
    assert len(small_file) < len(large_file)
    worse, better = (peer.decode(data, shape) for data in (small_file, large_file))
    assert worse.shape == better.shape == pixels.shape
    assert psnr_db(pixels, worse) < psnr_db(pixels, better)
    assert psnr_db(pixels, better) > 32


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(AbsentError, match="imagecodecs is not installed"):
        PEERS["jpegxl"].library()


def test_failure_of_a_codec_is_an_error(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ffmpeg", lambda: "false")
    with pytest.raises(BenchmarkError, match="ffmpeg"):
        PEERS["hevc"].encode(picture, 30)
