"""The float prior's bound on the description length of a file."""

import torch

from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.tensors import latent_tensor, quality_tensor
from ulcodec.coding.latents import DecodedLatent, hyper_grid
from ulcodec.devices import coding_arithmetic
from ulcodec.model.likelihood import chain_bits


def bound_bits(loaded: LoadedModel, latent: DecodedLatent, quality: int, grid: tuple[int, int]) -> float:
    """The bound on the symbols of a latent, with continuous scales, in bits."""
    networks = loaded.torch_networks("the prior's bound")
    y, hyper = (
        latent_tensor(part, part_grid, networks.device)
        for part, part_grid in zip(latent, (grid, hyper_grid(grid)), strict=True)
    )
    with torch.inference_mode(), coding_arithmetic(networks.device, precise=True):
        return float(chain_bits(networks.model, y, hyper, quality_tensor(quality, networks.device)))
