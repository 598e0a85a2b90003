"""Count the parameters and multiply-accumulates of each part of a model."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ulcodec.model.build import build_model
from ulcodec.model.config import ModelConfig, PaperConfig
from ulcodec.model.decoder import CELL_PX, N_COEFFICIENTS
from ulcodec.model.likelihood import predict_all_passes
from ulcodec.model.paper import PaperModel
from ulcodec.model.refiner import Refiner
from ulcodec.model.refiner_config import RefinerConfig
from ulcodec.model.unified import UnifiedLatentModel

SIDE_PX = 256


def describe(config: ModelConfig | PaperConfig, refiner: RefinerConfig | None = None) -> list[dict[str, Any]]:
    """Describe a configuration as rows `{part, parameters, kmac_per_px}`, measured on a 256x256 picture.

    The paper's model is not allocated for this. `refiner`: that of the model, if it has one. `kmac_per_px`: thousands
    of multiply-accumulates per pixel of the picture in coding or decoding, or in one evaluation of the denoiser.
    """
    with torch.device("meta" if isinstance(config, PaperConfig) else "cpu"), torch.no_grad():
        model = build_model(config)
        parts = paper_parts(model) if isinstance(model, PaperModel) else codec_parts(model)
        if refiner is not None and isinstance(config, ModelConfig):
            parts.append(refiner_part(Refiner(config, refiner)))
        return [
            {
                "part": name,
                "parameters": sum(p.numel() for module in modules for p in module.parameters()),
                "kmac_per_px": kmac_per_px(run),
            }
            for name, modules, run in parts
        ]


Part = tuple[str, Iterable[nn.Module], Callable[[], object]]


def codec_parts(model: UnifiedLatentModel) -> list[Part]:
    config, side = model.config, SIDE_PX // 16
    quality = torch.zeros(1)
    picture, latent = torch.zeros(1, 3, SIDE_PX, SIDE_PX), torch.zeros(1, config.latent_channels, side, side)
    hyper = torch.zeros(1, config.hyper_channels, side // 4, side // 4)
    hyper_features = torch.zeros(1, config.hyper_width, side, side)
    features, level = torch.zeros(1, config.width_8, 2 * side, 2 * side), torch.zeros(1, 1, 1, 1)
    denoiser = model.decoder.denoiser
    once = [denoiser.log_std, denoiser.features_fine, denoiser.features_coarse, denoiser.picture]
    steps = [part for part in denoiser.children() if part not in once]
    conditions, r_t = denoiser.conditions(features, picture), torch.zeros(1, N_COEFFICIENTS, *2 * [SIDE_PX // CELL_PX])
    return [
        ("encoder", [model.encoder], lambda: model.encoder(picture, quality)),
        ("hyper-encoder", [model.hyper_encoder], lambda: model.hyper_encoder(latent, quality)),
        ("hyper-decoder", [model.hyper_decoder], lambda: model.hyper_decoder(hyper, quality, (side, side))),
        ("prior", [model.prior], lambda: predict_all_passes(model, latent, quality, hyper_features)),
        ("decoder trunk", [model.decoder.trunk], lambda: model.decoder.trunk(latent, quality)),
        ("denoiser, once", once, lambda: denoiser.conditions(features, picture)),
        ("denoiser, a step", steps, lambda: denoiser(r_t, level, conditions)),
    ]


def refiner_part(refiner: Refiner) -> Part:
    latent = torch.zeros(1, refiner.codec.latent_channels, SIDE_PX // 16, SIDE_PX // 16)
    error = torch.zeros(1, 3, SIDE_PX, SIDE_PX)
    return "refiner", [refiner], lambda: refiner(latent, latent, error, torch.zeros(1))


def paper_parts(model: PaperModel) -> list[Part]:
    side, level = SIDE_PX // 16, torch.zeros(1)
    picture, latent = torch.zeros(1, 3, SIDE_PX, SIDE_PX), torch.zeros(1, model.config.latent_channels, side, side)
    return [
        ("encoder", [model.encoder], lambda: model.encoder(picture, level)),
        ("prior", [model.prior], lambda: model.prior(latent, level, level)),
        ("decoder", [model.decoder], lambda: model.decoder(picture, level, latent, level)),
    ]


def kmac_per_px(run: Callable[[], Tensor | object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 2 / SIDE_PX**2 / 1000


def coding_kmac_per_px(config: ModelConfig) -> dict[str, float]:
    """Thousands of multiply-accumulates per pixel of the picture: `{"encode", "decode"}`."""
    cost = {row["part"]: row["kmac_per_px"] for row in describe(config)}
    coding = cost["hyper-decoder"] + cost["prior"]
    return {
        "encode": cost["encoder"] + cost["hyper-encoder"] + coding,
        "decode": coding + cost["decoder trunk"],
    }
