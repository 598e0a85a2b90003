"""The networks in torch, on a CPU or a GPU; see `ulcodec.codec.networks`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ulcodec.codec.networks import Array
from ulcodec.codec.pixels import in_pixels
from ulcodec.codec.realism import FIRST_LOG_SNR, LAST_LOG_SNR, Realism
from ulcodec.codec.tensors import channels_first, channels_last, quality_tensor
from ulcodec.devices import coding_arithmetic
from ulcodec.diffusion.noise import position_noise
from ulcodec.diffusion.sampler import sample
from ulcodec.errors import ModelError
from ulcodec.model.config import ModelConfig
from ulcodec.model.decoder import Denoiser
from ulcodec.model.refiner import Refiner
from ulcodec.model.tiles import Tile
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel

POSITIONS_ON_CPU, POSITIONS_ON_GPU = 2**10, 2**14
"""Latent positions at once: measured on a CPU (docs/lab-notes/coding-speed.md), and what fits the memory of a GPU."""


@dataclass(frozen=True)
class TorchNetworks:
    """`model`: all networks; `residual_model`: those that code the latents of predicted frames."""

    model: UnifiedLatentModel
    residual_model: EntropyModel
    device: torch.device
    refiner: Refiner | None = None

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def positions_at_once(self) -> int:
        return POSITIONS_ON_CPU if self.device.type == "cpu" else POSITIONS_ON_GPU

    @property
    def encoder_halo(self) -> int:
        return self.config.encoder_halo

    def decoder_halo(self, realism: Realism) -> int:
        return self.config.decoder_halo + realism.halo(self.config)

    @property
    def refiner_halo(self) -> int | None:
        return None if self.refiner is None else self.refiner.config.halo

    def analyse(
        self, pictures: Array, quality: int, tile: Tile, kept_halo: int, *, precise: bool = False
    ) -> tuple[Array, Array]:
        x, q = channels_first(pictures, self.device), quality_tensor(quality, self.device)
        with torch.inference_mode(), coding_arithmetic(self.device, precise=precise):
            y, unit_latent = self.model.encoder(x, q, tile, kept_halo)
            return channels_last(y), channels_last(self.model.hyper_encoder(unit_latent, q))

    def analyse_residual(self, residual: Array, quality: int) -> Array:
        y, q = channels_first(residual, self.device), quality_tensor(quality, self.device)
        with torch.inference_mode(), coding_arithmetic(self.device, precise=True):
            return channels_last(self.residual_model.hyper_encoder(y / self.model.encoder.log_gain.gain(q), q))

    def synthesise(self, latent: Array, quality: int, tile: Tile, realism: Realism, *, precise: bool = False) -> Array:
        y, q = channels_first(latent, self.device), quality_tensor(quality, self.device)
        drawn_halo = realism.halo(self.config)
        with torch.inference_mode(), coding_arithmetic(self.device, precise=precise):
            features, pictures = self.model.decoder.trunk(y, q, tile, drawn_halo)
            if realism.share:
                near = tile.crop_halo(drawn_halo)
                rows, columns = (range(side.start, side.stop) for side in (in_pixels(span.outer) for span in near))
                pictures = drawn(realism, self.model.decoder.denoiser, features, pictures, rows, columns)
                rows_within, columns_within = (in_pixels(span.within) for span in near)
                pictures = pictures[:, :, rows_within, columns_within]
            return channels_last(pictures)

    def refine(
        self,
        latent: Array,
        rounding_error: Array,
        picture_error: Array,
        quality: int,
        tile: Tile,
        *,
        precise: bool = False,
    ) -> Array:
        if self.refiner is None:
            raise ModelError("the model has no refiner")
        inputs = [channels_first(part, self.device) for part in (latent, rounding_error, picture_error)]
        with torch.inference_mode(), coding_arithmetic(self.device, precise=precise):
            return channels_last(self.refiner(*inputs, quality_tensor(quality, self.device), tile))

    def synthesise_thumbnail(self, latent: Array, quality: int) -> Array:
        y, q = channels_first(latent, self.device), quality_tensor(quality, self.device)
        with torch.inference_mode(), coding_arithmetic(self.device, precise=True):
            return channels_last(self.model.decoder.trunk.thumbnail(y, q))


def drawn(realism: Realism, denoiser: Denoiser, features: Tensor, mean: Tensor, rows: range, columns: range) -> Tensor:
    """Sample a picture [1, 3, H, W] around the posterior `mean`, which covers `rows` and `columns` of the whole.

    Pictures are in [0, 1], not clipped.
    """
    conditions = denoiser.conditions(features, 2 * mean - 1)
    noise = denoiser.coefficients(position_noise(realism.seed, rows, columns).to(mean.device)[None])
    levels = torch.linspace(FIRST_LOG_SNR, LAST_LOG_SNR, realism.n_steps + 1, dtype=torch.float64).tolist()
    r = sample(
        lambda r_t, log_snr: denoiser(r_t, log_snr[:, None, None, None], conditions),
        noise.contiguous(memory_format=torch.channels_last),
        levels,
    )
    return mean + denoiser.pixels(realism.share / 2 * conditions.log_std.exp() * r)
