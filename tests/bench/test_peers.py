"""Other people's codecs: each one that is installed codes a picture and gets better with its level."""

import sys

import numpy as np
import pytest

from ulcodec.bench.peers import PEERS, AbsentError, Peer
from ulcodec.metrics import psnr_db


def installed(key: str) -> Peer:
    try:
        PEERS[key].library()
    except AbsentError as error:
        pytest.skip(str(error))
    return PEERS[key]


@pytest.mark.parametrize("key", PEERS)
@pytest.mark.parametrize("shape", [(80, 96, 3), (77, 95, 3), (79, 96)], ids=["even", "odd", "grey"])
def test_peer(key: str, shape: tuple[int, ...], picture: np.ndarray) -> None:
    peer = installed(key)
    pixels = np.ascontiguousarray(picture[: shape[0], : shape[1]])
    pixels = pixels if len(shape) == 3 else pixels[:, :, 1]
    low, high = (peer.encode(pixels, level) for level in (peer.levels[0], peer.levels[-1]))
    assert len(low) < len(high)
    worse, better = (peer.decode(data, shape) for data in (low, high))
    assert worse.shape == better.shape == pixels.shape
    assert psnr_db(pixels, worse) < psnr_db(pixels, better)
    assert psnr_db(pixels, better) > 32


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(AbsentError, match="imagecodecs is not installed"):
        PEERS["jpegxl"].library()
