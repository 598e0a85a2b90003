"""Runs of a codec's float prior on the latents that its files restore."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.codec.image import Codec
from ulcodec.codec.pixels import quality_tensor, unflattened
from ulcodec.coding.latents import DecodedLatent, encode_latent, hyper_grid
from ulcodec.model.likelihood import estimate_restored, predict_all_passes
from ulcodec.model.reveal import pass_map


def encoded(codec: Codec, pixels: NDArray[np.uint8], quality: int) -> DecodedLatent:
    """Encode a picture, and return the latent that its file restores."""
    return encode_latent(codec.coder, *codec.analyse(pixels, quality), quality).latent


@torch.inference_mode()
def run_layers(codec: Codec, latent: DecodedLatent, quality: int, grid: tuple[int, int]) -> Iterator[None]:
    """Run every layer of the float prior on a file's latent, with all channels, so that hooks see the inputs.

    Yields after the hyper-decoder and after each reveal pass. A layer that all passes share runs in each of them.
    """
    q, y, prior = quality_tensor(quality, codec.device), unflattened(latent.y_16, grid), codec.model.prior
    passes, carried = pass_map(codec.model.config, grid, codec.device), None
    features = codec.model.hyper_decoder(unflattened(latent.hyper_16, hyper_grid(grid)), q, grid)
    yield
    for reveal_pass, network in zip(codec.model.config.reveal_passes, prior.networks, strict=True):
        known = (passes < reveal_pass).float()[None]
        estimate = estimate_restored(y * known, prior.log_gain.gain(q))
        _, carried = network(estimate, known, q, features, carried)
        yield


def exact_means(codec: Codec, latent: DecodedLatent, quality: int, grid: tuple[int, int]) -> Tensor:
    """Predict the means of a file's elements by the float prior: [1, C, h, w]."""
    q = quality_tensor(quality, codec.device)
    with torch.inference_mode():
        features = codec.model.hyper_decoder(unflattened(latent.hyper_16, hyper_grid(grid)), q, grid)
        return predict_all_passes(codec.model, unflattened(latent.y_16, grid), q, features).mean
