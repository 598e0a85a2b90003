"""Runs of a codec's float prior on the latents that its files restore."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ulcodec.codec.image import Codec
from ulcodec.codec.pixels import grid_of, quality_tensor, unflattened
from ulcodec.coding.latents import DecodedLatent, encode_latent, hyper_grid
from ulcodec.model.likelihood import estimate_restored, predict_all_passes
from ulcodec.model.reveal import pass_map
from ulcodec.progress import tracked


def encoded(codec: Codec, pixels: NDArray[np.uint8], quality: int) -> DecodedLatent:
    """Encode a picture, and return the latent that its file restores."""
    return encode_latent(codec.coder, *codec.analyse(pixels, quality), quality).latent


def recorded_inputs(
    codec: Codec, layers: Iterable[str], pictures: Sequence[NDArray[np.uint8]], qualities: Sequence[int]
) -> Iterator[dict[str, Tensor]]:
    """Run the float prior on the files of pictures uint8 [H, W, 3], and yield the inputs of layers, by their names.

    Each dictionary holds those of the layers that `run_layers` has run since the one before, float32 [1, C, h, w].
    """
    inputs: dict[str, Tensor] = {}

    def record(name: str) -> RemovableHandle:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs[name] = arguments[0].float()

        return codec.model.get_submodule(name).register_forward_pre_hook(hook)

    handles = [record(name) for name in layers]
    try:
        for pixels in tracked(pictures):
            for quality in qualities:
                for _ in run_layers(codec, encoded(codec, pixels, quality), quality, grid_of(*pixels.shape[:2])):
                    yield inputs
                    inputs.clear()
    finally:
        for handle in handles:
            handle.remove()


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
