"""ulcodec as one of the measured codecs."""

from functools import cache

import ulcodec
from ulcodec.bench.peers import OURS, Peer
from ulcodec.codec.image import Codec
from ulcodec.codec.loading import load

LEVELS = tuple(range(0, 101, 10))


@cache
def our_codec(model: str, device: str) -> Codec:
    """Load a model, once per process."""
    return load(model, device=device)


def our_peer(model: str, device: str, effort: int | None = None) -> Peer:
    """A model as a peer whose levels are qualities."""
    codec = our_codec(model, device)
    effort = codec.default_effort if effort is None else effort
    suffix = "" if effort == 1 else f", effort {effort}"
    return Peer(
        OURS,
        f"ulcodec {codec.name}{suffix}",
        LEVELS,
        lambda pixels, level: codec.encode(pixels, quality=int(level), effort=effort),
        lambda data, shape: codec.decode_array(data),
        lambda: f"ulcodec {ulcodec.__version__}, model {codec.name} ({codec.fingerprint}){suffix}",
    )
