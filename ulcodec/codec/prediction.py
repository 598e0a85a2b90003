"""Predicted frames: what encoder and decoder compute alike, `docs/format.md` section 3.

For a frame with references, motion compensation gives a predicted picture p. With the picture's networks E and D, the
latent that is coded is `d = E(x) - E(p)`, and the frame that is shown is `p + D(E(p) + d) - D(E(p))`. Where d is zero,
it is p itself. The networks run in float32, so that machines agree in nearly every sample.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.networks import Array
from ulcodec.codec.pixels import grid_of, in_bins, to_samples, to_unit_range
from ulcodec.codec.tiling import analyse, posterior_means, synthesise
from ulcodec.coding.latents import DecodedLatent, EncodedFrame, decode_frames, encode_frames
from ulcodec.format.container import Header
from ulcodec.format.sequence import ClipFormat, FrameRecord
from ulcodec.io.picture import Picture


def sample_depth(clip: ClipFormat) -> int:
    """Bits a sample of the frames that a decoder returns."""
    return 8 if clip.bit_depth == 8 else 16


def as_reference(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Round a decoded frame to 8 bits: what other frames are predicted from."""
    reference: NDArray[np.uint8] = Picture(samples).pixels_8
    return reference


def decode_intra(
    loaded: LoadedModel, clip: ClipFormat, latents: Sequence[DecodedLatent], quality: int, *, precise: bool
) -> list[NDArray[Any]]:
    """Decode latents of intra frames of one quality to samples. `precise`: compute in float32 everywhere."""
    header = Header(loaded.fingerprint_bytes, quality, clip.width, clip.height, clip.layout, sample_depth(clip))
    return synthesise(loaded.networks, latents, [header] * len(latents), precise=precise)


def decode_record_latents(loaded: LoadedModel, clip: ClipFormat, records: Sequence[FrameRecord]) -> list[DecodedLatent]:
    """Decode the latents of intra frames of one quality, or of one predicted frame. Raises as `decode_frames`."""
    payloads, checks = [record.payload or b"" for record in records], [record.symbol_check for record in records]
    coder = loaded.residual_coder if records[0].is_predicted else loaded.coder
    return decode_frames(coder, payloads, checks, records[0].quality, grid_of(clip.height, clip.width))


def latent_of_prediction(loaded: LoadedModel, prediction: NDArray[np.uint8], quality: int) -> Array:
    """Compute E(p) of a predicted picture uint8 [H, W, 3] or [H, W]: float32 [1, h, w, C] in bins."""
    return analyse(loaded.networks, [prediction], quality, precise=True)[0]


def encode_residual(
    loaded: LoadedModel, pixels: NDArray[Any], prediction: NDArray[np.uint8], quality: int, n_steps: int = 0
) -> tuple[EncodedFrame, Array]:
    """Encode what a predicted picture lacks of a frame; return it with E(p), see `latent_of_prediction`.

    `n_steps`: refinement steps of the latent.
    """
    y, _ = analyse(loaded.networks, [pixels, prediction], quality, precise=True)
    residual, y_prediction = y[:1] - y[1:], y[1:]
    hyper, thrift = loaded.networks.analyse_residual(residual, quality), 1.0
    if n_steps:
        from ulcodec.codec.refinement import Base, refine_residual

        [decoded] = posterior_means(loaded.networks, y_prediction, quality)
        height, width = pixels.shape[:2]
        base = Base(y_prediction[0], to_unit_range(prediction) - decoded[:height, :width])
        refined = refine_residual(loaded, pixels, base, residual[0], hyper[0], quality, n_steps)
        residual, thrift = refined.y[None], refined.thrift
    [coded] = encode_frames(loaded.residual_coder, residual, hyper, quality, thrift)
    return coded, y_prediction


def predicted_samples(clip: ClipFormat, prediction: NDArray[np.uint8]) -> NDArray[Any]:
    """A frame without a latent: the predicted picture itself, in the sample depth of the clip."""
    return prediction if sample_depth(clip) == 8 else Picture(prediction).pixels_16


def add_residual(
    loaded: LoadedModel,
    clip: ClipFormat,
    prediction: NDArray[np.uint8],
    y_prediction: Array,
    residual: DecodedLatent,
    quality: int,
) -> NDArray[Any]:
    """Decode a predicted frame that has a latent to samples; `y_prediction` is E(p)."""
    y = y_prediction + in_bins(residual.y_16, (y_prediction.shape[1], y_prediction.shape[2]))
    decoded, base = posterior_means(loaded.networks, np.concatenate((y, y_prediction)), quality)
    picture = to_unit_range(prediction) + (decoded - base)[: clip.height, : clip.width]
    return to_samples(picture, clip.layout, sample_depth(clip))
