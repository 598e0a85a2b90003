"""The codec: pictures to `.ulc` bytes and back.

`image` is the map: encoding and decoding side by side, stage by stage. The stages: `pixels` between pictures and
tensors, `tiling` the networks over tiles, `coding` (a package of its own) the entropy coder. Built on it: `batch`,
`rate_control` (target size or quality), `refinement` (better latents), `realism` (sampled detail), `evaluation`,
`generate` (new pictures). The public names can be imported from this package.
"""

from ulcodec.codec.batch import decode_batch, encode_batch
from ulcodec.codec.image import Codec, Encoding, Recovery, load
from ulcodec.codec.rate_control import encode_to_quality, encode_to_size
from ulcodec.codec.realism import Realism

__all__ = [
    "Codec",
    "Encoding",
    "Realism",
    "Recovery",
    "decode_batch",
    "encode_batch",
    "encode_to_quality",
    "encode_to_size",
    "load",
]
