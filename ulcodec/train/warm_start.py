"""Start a training run from the weights of another model, which may be smaller."""

import math
import operator
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.errors import ModelError, TrainingError
from ulcodec.model.config import ModelConfig
from ulcodec.model.decoder import Denoiser
from ulcodec.model.prior import hidden_factors
from ulcodec.model.refiner import Refiner
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.store.installed import model_directory
from ulcodec.store.model_directory import DENOISER, StoredEntropyModel, StoredRefiner, open_model
from ulcodec.store.networks import load_weights
from ulcodec.store.tensor_files import read_document, read_tensors

DEPTHS = ("encoder_blocks_8", "encoder_blocks_16", "decoder_blocks_16", "decoder_blocks_8", "prior_blocks")

EXTENSIBLE = (*DEPTHS, "latent_channels", "n_quality_anchors", "negative_slope")
"""Fields of a codec's configuration that may grow when a run starts from another model."""

INNOVATION = 0.6
"""Share of the next DCT coefficients that the networks of `small` could not predict (docs/lab-notes/weights.md)."""


def load_initial_weights(model: nn.Module, name: str, config: dict[str, Any]) -> None:
    """Load the weights of a model of the same configuration, or of a smaller codec (see `is_smaller`).

    `name`: of an installed model, or a model directory. Raises ModelError if there is none, TrainingError for any other
    configuration.
    """
    directory = model_directory(name)
    stored_config = read_document(directory, "config").get("model")
    weights = read_tensors(directory, "weights")
    try:
        if isinstance(model, UnifiedLatentModel) and isinstance(stored_config, dict):
            weights = grown_weights(model, ModelConfig.from_json(stored_config), weights)
        elif stored_config != config:
            raise ModelError("it is of another kind")
    except ModelError as error:
        raise TrainingError(f"{name} holds another model configuration") from error
    load_weights(model, weights)


def grown_weights(model: UnifiedLatentModel, stored: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of a codec of the same configuration, or of a smaller one, to those of an untrained model.

    Blocks that the smaller codec lacks are added at the end of their network with zero output, so that both codecs
    start equal (Net2DeeperNet, Chen et al. 2016, arXiv 1511.05641). A prior that all passes share becomes one for each
    pass (see `pass_networks`). Raises ModelError for any other configuration.
    """
    config = model.config
    if stored == config:
        return weights
    if stored.shared_prior and not config.shared_prior:
        weights = pass_networks(weights, stored, config)
        depths = zip(stored.prior_blocks * len(config.prior_blocks), config.prior_blocks, strict=True)
        stored = replace(stored, shared_prior=False, prior_blocks=tuple(map(min, depths)))
    if not is_smaller(stored, config):
        raise ModelError("neither the same configuration nor a smaller one")
    grown = {}
    for name, fresh in model.state_dict().items():
        if name in weights:
            grown[name] = enlarged(name, weights[name], fresh)
        else:
            grown[name] = torch.zeros_like(fresh) if ".expand." in name else fresh
    return grown


def pass_networks(weights: dict[str, Tensor], stored: ModelConfig, config: ModelConfig) -> dict[str, Tensor]:
    """Give each reveal pass a copy of the network that all passes share.

    A pass of fewer blocks takes some of the network's, spread evenly from the first to the last. Their hidden units
    are halved, since they are clamped at a smaller limit there.
    """
    (n_stored,), factors = stored.prior_blocks, hidden_factors(0.5, 0.5)
    result = {name: weight for name, weight in weights.items() if not name.startswith("prior.")}
    for name, weight in weights.items():
        part = name.removeprefix("prior.")
        if part.startswith("log_gain."):
            result[name] = weight
        elif part != name and not part.startswith("blocks."):
            result |= {f"prior.{prefix}{part}": weight for prefix in config.prior_networks}
    for prefix, n_blocks in zip(config.prior_networks, config.prior_blocks, strict=True):
        for number, source in enumerate(spread(n_stored, n_blocks)):
            start = f"prior.blocks.{source}."
            block = {name.removeprefix(start): weight for name, weight in weights.items() if name.startswith(start)}
            for part, weight in block.items():
                result[f"prior.{prefix}blocks.{number}.{part}"] = weight.float() * factors.get(part, 1.0)
    return result


def spread(available: int, count: int) -> list[int]:
    """Choose at most `count` of the numbers from 0 to `available - 1`, evenly, with the first and the last."""
    if count >= available:
        return list(range(available))
    return [round(step * (available - 1) / max(count - 1, 1)) for step in range(count)]


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
    elif ".scale_head." in name:
        result[:] = stored.float().mean(0)
    elif name == "encoder.linear.weight":
        result *= INNOVATION
    elif stored.ndim == 4 and name != "decoder.trunk.linear.weight":
        result[:, stored.shape[1] :] = 0
    result[tuple(slice(size) for size in stored.shape)] = stored
    return result


def is_smaller(stored: ModelConfig, config: ModelConfig) -> bool:
    """Whether a stored codec differs from a configuration only by its name and by what it has less of.

    That may be blocks, latent channels, the negative slope, and quality anchors at the top with their Lagrangians.
    """
    differ = ("name", "lagrangian_high", *EXTENSIBLE)
    values, larger = asdict(stored), asdict(config)
    return (
        all(values[key] == value for key, value in larger.items() if key not in differ)
        and all(at_most(values[key], larger[key]) for key in EXTENSIBLE)
        and math.isclose(lagrangian_ratio(stored), lagrangian_ratio(config), rel_tol=1e-9)
    )


def at_most(stored: Any, configured: Any) -> bool:
    """Whether a number, or every number of a sequence of the same length, is at most the configured one."""
    if isinstance(configured, Sequence):
        return len(stored) == len(configured) and all(map(operator.le, stored, configured))
    return bool(stored <= configured)


def lagrangian_ratio(config: ModelConfig) -> float:
    """Logarithm of the ratio between the Lagrangians of neighbouring quality anchors."""
    return math.log(config.lagrangian_high / config.lagrangian_low) / (config.n_quality_anchors - 1)


def load_denoiser(denoiser: Denoiser, name: str) -> None:
    """Load the weights of another model's denoiser. Raises TrainingError if they do not fit."""
    prefix = f"{DENOISER}."
    weights = open_model(name).weights
    denoiser_weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    try:
        load_weights(denoiser, denoiser_weights)
    except ModelError as error:
        raise TrainingError(f"{name}: its denoiser is of another configuration") from error


def load_refiner(refiner: Refiner, name: str) -> None:
    """Load the weights of another model's refiner. Raises TrainingError if it has none, or if they do not fit."""
    load_part(refiner, open_model(name).refiner, name, "refiner")


def load_video_part(video: EntropyModel, name: str) -> None:
    """Load the weights of another model's video part. Raises TrainingError if it has none, or if they do not fit."""
    load_part(video, open_model(name).video, name, "video part")


def load_part(
    network: Refiner | EntropyModel, stored: StoredRefiner | StoredEntropyModel | None, name: str, part: str
) -> None:
    """Load the weights of a part of the model `name`. Raises TrainingError if it has none, or if they do not fit."""
    if stored is None:
        raise TrainingError(f"{name} has no {part} to start from")
    try:
        load_weights(network, stored.weights)
    except ModelError as error:
        wanted = asdict(network.config)
        fields = asdict(stored.config).items()
        differ = [f"{field} {value}, not {wanted[field]}" for field, value in fields if value != wanted[field]]
        reason = "; ".join(differ) or "it is of another codec"
        raise TrainingError(f"{name}: its {part} does not fit: {reason}") from error
