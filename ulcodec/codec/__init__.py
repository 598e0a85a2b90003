"""The codec: pictures and clips to `.ulc` bytes and back.

`image` is the map: encoding and decoding side by side, stage by stage. It calls `inputs` (what a caller passes),
`pixels` (pictures and tensors), `tiling` (the networks over tiles), `ulcodec.coding` (the entropy coder) and `extras`
(metadata and alpha). `video` does the same for clips, with `clips` (frames to encode) and `bitrate`. Both code with a
`loaded` model. Built on them: `rate_control` (target size or quality), `refinement` (better latents), `realism`
(sampled detail), `evaluation`, `generate` (new pictures and clips).

Import the public names from this package: `load`, `load_for`, `Codec`, `encode_batch` and the others in `__all__`.
"""

from ulcodec.codec.clip_encoder import WrittenPart
from ulcodec.codec.image import Codec, Encoding, Recovery, decode_batch, encode_batch
from ulcodec.codec.loading import load, load_for
from ulcodec.codec.rate_control import encode_to_quality, encode_to_size
from ulcodec.codec.realism import Realism
from ulcodec.codec.video import Video, VideoFrame

__all__ = [
    "Codec",
    "Encoding",
    "Realism",
    "Recovery",
    "Video",
    "VideoFrame",
    "WrittenPart",
    "decode_batch",
    "encode_batch",
    "encode_to_quality",
    "encode_to_size",
    "load",
    "load_for",
]
