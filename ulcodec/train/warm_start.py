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
"""Share of the next DCT coefficients that the networks of `small` could not predict (docs/lab-notes/weights.md)."""


def load_initial_weights(model: nn.Module, directory: Path, config: dict[str, Any]) -> None:
    """Load the weights of a model directory of the same configuration, or of a smaller codec (see `is_smaller`).

    Blocks that the smaller codec lacks are added at the end of their network with zero output, so that both codecs
    start equal (Net2DeeperNet, Chen et al. 2016, arXiv 1511.05641). Raises TrainingError for any other configuration.
    """
    stored_config = read_document(directory, "config").get("model")
    grows = (
        isinstance(model, UnifiedLatentModel) and isinstance(stored_config, dict) and is_smaller(stored_config, config)
    )
    if stored_config != config and not grows:
        raise TrainingError(f"{directory} holds another model configuration")
    weights = read_tensors(directory, "weights")
    if grows:
        for name, fresh in model.state_dict().items():
            if name in weights:
                weights[name] = enlarged(name, weights[name], fresh)
            else:
                weights[name] = torch.zeros_like(fresh) if ".expand." in name else fresh
    load_weights(model, weights)


def enlarged(name: str, stored: Tensor, fresh: Tensor) -> Tensor:
    """Enlarge a smaller codec's weight to the shape of `fresh`, the initial value of the larger codec.

    New latent channels start as the next DCT coefficients, which only the linear transforms code and restore; all other
    networks ignore them at first. The prior gives each the average spread of the channels, times its own gain. New
    quality anchors continue the line through the last two.
    """
    result = fresh.clone()
    if name.endswith(".values") and len(fresh) > len(stored):
        new_anchors = torch.arange(1, len(fresh) - len(stored) + 1)[:, None]
        stored = torch.cat((stored, stored[-1] + new_anchors * (stored[-1] - stored[-2])))
    elif name.startswith("prior.scale_head."):
        result[:] = stored.float().mean(0)
    elif name == "encoder.linear.weight":
        result *= INNOVATION
    elif stored.ndim == 4 and name != "decoder.trunk.linear.weight":
        result[:, stored.shape[1] :] = 0
    result[tuple(slice(size) for size in stored.shape)] = stored
    return result


def is_smaller(stored: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a stored codec differs from a configuration only by its name and by what it has less of.

    That may be blocks, latent channels, the negative slope, and quality anchors at the top with their Lagrangians.
    """
    stored = {"negative_slope": 0.0, **stored}  # older models have no slope: they are ReLU
    differ = ("name", "lagrangian_high", *EXTENSIBLE)
    return (
        stored.keys() == config.keys()
        and all(stored[key] == value for key, value in config.items() if key not in differ)
        and all(stored[key] <= config[key] for key in EXTENSIBLE)
        and math.isclose(lagrangian_ratio(stored), lagrangian_ratio(config), rel_tol=1e-9)
    )


def lagrangian_ratio(config: dict[str, Any]) -> float:
    """Logarithm of the ratio between the Lagrangians of neighbouring quality anchors."""
    low, high = float(config["lagrangian_low"]), float(config["lagrangian_high"])
    return math.log(high / low) / (int(config["n_quality_anchors"]) - 1)


def load_denoiser(denoiser: Denoiser, name: str) -> None:
    """Load the weights of another model's denoiser. Raises TrainingError if they do not fit."""
    prefix = f"{DENOISER}."
    weights = open_model(name).weights
    denoiser_weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    try:
        load_weights(denoiser, denoiser_weights)
    except ModelError as error:
        raise TrainingError(f"{name}: its denoiser is of another configuration") from error
