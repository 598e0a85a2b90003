"""ulcodec: a learned image codec on Unified Latents.

    codec = ulcodec.load()
    data = codec.encode("photo.png", quality=50)
    picture = codec.decode(data)

Shape letters used throughout: `B` batch, `C` channels, `H W` pixels, `h w` the latent grid (1/16), `N` positions of it.
"""

from typing import TYPE_CHECKING, Any

from ulcodec.errors import UlcError
from ulcodec.info import info

if TYPE_CHECKING:
    from ulcodec.codec import Codec, load, load_for

__all__ = ["Codec", "UlcError", "__version__", "info", "load", "load_for"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name in ("Codec", "load", "load_for"):
        from ulcodec import codec

        return getattr(codec, name)
    raise AttributeError(f"module 'ulcodec' has no attribute {name!r}")
