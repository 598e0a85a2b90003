"""Start a training run from the weights of another model, which may be smaller."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.errors import ModelError, TrainingError
from ulcodec.model.decoder import Denoiser
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import DENOISER, open_model
from ulcodec.store.networks import load_weights
from ulcodec.store.tensor_files import read_document, read_tensors

DEPTHS = ("encoder_blocks_8", "encoder_blocks_16", "decoder_blocks_16", "decoder_blocks_8", "prior_blocks")

EXTENSIBLE = (*DEPTHS, "latent_channels", "n_quality_anchors", "negative_slope")
"""Fields of a codec's configuration that may grow when a run starts from another model."""

INNOVATION = 0.6
"""How much of the DCT coefficients that come next the networks of `small` did not guess (docs/lab-notes.md)."""


def load_initial_weights(model: nn.Module, directory: Path, config: dict[str, Any]) -> None:
    """Start from a model directory of the same configuration, or of a smaller codec (see `is_smaller`).

    Blocks that it lacks come last in their network and start at nothing, so that the deeper codec begins as the other
    (Net2DeeperNet, Chen et al. 2016, arXiv 1511.05641). Raises TrainingError for any other configuration.
    """
    found = read_document(directory, "config").get("model")
    grows = isinstance(model, UnifiedLatentModel) and isinstance(found, dict) and is_smaller(found, config)
    if found != config and not grows:
        raise TrainingError(f"{directory} holds another model configuration")
    weights = read_tensors(directory, "weights")
    if grows:
        for name, fresh in model.state_dict().items():
            if name in weights:
                weights[name] = grown(name, weights[name], fresh)
            else:
                weights[name] = torch.zeros_like(fresh) if ".expand." in name else fresh
    load_weights(model, weights)


def grown(name: str, stored: Tensor, fresh: Tensor) -> Tensor:
    """A smaller codec's weight in a larger one's shape, `fresh` being the value that the larger one starts with.

    Further latent channels start as the DCT coefficients that come next, coded and restored by the linear transforms
    alone: no other network hears of them yet, and the prior gives each the average channel's spread beside its own
    gain. Further quality anchors continue the line through the last two.
    """
    result = fresh.clone()
    if name.endswith(".values") and len(fresh) > len(stored):
        further = torch.arange(1, len(fresh) - len(stored) + 1)[:, None]
        stored = torch.cat((stored, stored[-1] + further * (stored[-1] - stored[-2])))
    elif name.startswith("prior.scale_head."):
        result[:] = stored.float().mean(0)
    elif name == "encoder.linear.weight":
        result *= INNOVATION
    elif stored.ndim == 4 and name != "decoder.trunk.linear.weight":
        result[:, stored.shape[1] :] = 0
    result[tuple(slice(size) for size in stored.shape)] = stored
    return result


def is_smaller(found: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether the second codec's configuration is the first's but for its name and what it has more of.

    That may be blocks, latent channels, the negative slope, and anchors of quality above the last, with the Lagrangians
    to go with them.
    """
    found = {"negative_slope": 0.0, **found}  # models from before there was one are ReLU
    differ = ("name", "lagrangian_high", *EXTENSIBLE)
    return (
        found.keys() == config.keys()
        and all(found[key] == value for key, value in config.items() if key not in differ)
        and all(found[key] <= config[key] for key in EXTENSIBLE)
        and math.isclose(lagrangian_ratio(found), lagrangian_ratio(config), rel_tol=1e-9)
    )


def lagrangian_ratio(config: dict[str, Any]) -> float:
    """Of each quality anchor to the one before, as a logarithm."""
    low, high = float(config["lagrangian_low"]), float(config["lagrangian_high"])
    return math.log(high / low) / (int(config["n_quality_anchors"]) - 1)


def load_denoiser(denoiser: Denoiser, name: str) -> None:
    """Take the weights of another model's denoiser. Raises TrainingError if they do not fit."""
    prefix = f"{DENOISER}."
    weights = open_model(name).weights
    found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    try:
        load_weights(denoiser, found)
    except ModelError as error:
        raise TrainingError(f"{name}: its denoiser is of another configuration") from error
