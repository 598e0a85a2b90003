"""Generate new pictures and clips: a diffusion model draws latents, and a decoder decodes them.

The first is the base model of a stage-2 run, or the prior of a stage-1 run with the objective `ul`. The second is the
codec's decoder, or the diffusion decoder of a stage-1 run, as in the paper.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulcodec.codec.pixels import to_samples
from ulcodec.codec.tensors import channels_last
from ulcodec.devices import autocast
from ulcodec.diffusion.sampler import Denoiser, sample
from ulcodec.diffusion.schedule import (
    ALPHA_0,
    BIN_WIDTH,
    LATENT_LOG_SNR_0,
    LATENT_LOG_SNR_1,
    PIXEL_LOG_SNR_RANGE,
    SIGMA_0,
)
from ulcodec.errors import ModelError
from ulcodec.format.container import Layout
from ulcodec.model.base_model import BaseModel, BaseModelConfig
from ulcodec.model.config import PATCH_PX, is_count, modernised
from ulcodec.model.latent_diffusion import LatentDiffusion
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.progress import tracked
from ulcodec.store.model_directory import open_model
from ulcodec.store.networks import load_weights
from ulcodec.store.tensor_files import read_consistently, read_document, read_tensors
from ulcodec.store.trained_run import TrainedRun, is_run, open_run, part_of


class LatentDecoder(ABC):
    """Decodes latents that a model has drawn.

    `patch`: extent of a latent position along each axis, in frames and pixels; `extents`: usual ones of what is drawn.
    """

    patch: tuple[int, ...]
    extents: tuple[int, ...]

    @abstractmethod
    def decode(self, z_0: Tensor, denoise: Denoiser, n_steps: int, generator: torch.Generator) -> Tensor:
        """Decode z_0 [B, C, x] at log-SNR 5 to samples [B, 3, X] in [0, 1], not clamped.

        `denoise`: the model that has drawn z_0. `n_steps`: evaluations of a diffusion decoder.
        """


class CodecDecoder(LatentDecoder):
    """The decoder of a codec. It was trained on quantised latents, unlike the paper's, which takes the noisy z_0.

    Its input is therefore the last estimate of the clean latent, rounded to bins.
    """

    patch = (PATCH_PX, PATCH_PX)
    extents = (256, 256)

    def __init__(self, codec: UnifiedLatentModel, quality: float, device: torch.device):
        self.codec = codec
        self.quality = torch.tensor([quality], device=device)
        self.log_snr_0 = torch.tensor([LATENT_LOG_SNR_0], device=device)

    def decode(self, z_0: Tensor, denoise: Denoiser, n_steps: int, generator: torch.Generator) -> Tensor:
        y = torch.round(denoise(z_0, self.log_snr_0) / BIN_WIDTH).contiguous(memory_format=torch.channels_last)
        mean: Tensor = self.codec.decoder.trunk(y, self.quality)[1]
        return mean


class DiffusionDecoder(LatentDecoder):
    """The decoder of a run of stage 1 with the objective `ul`. It samples x from noise, given z_0."""

    def __init__(self, model: LatentDiffusion, run: TrainedRun, device: torch.device):
        self.model, self.patch, self.settings = model, run.patch, run.settings
        self.extents = run.extents
        self.quality = torch.tensor([run.quality], device=device)

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Encode x [B, 3, X] in [0, 1] to z_0 [B, C, x], the latent with its fixed noise."""
        z = self.model.encode_clean(x, self.quality.expand(len(x)))
        return ALPHA_0 * z + SIGMA_0 * torch.randn(z.shape, generator=generator, device=z.device)

    def decode(self, z_0: Tensor, denoise: Denoiser, n_steps: int, generator: torch.Generator) -> Tensor:
        extents = [side * step for side, step in zip(z_0.shape[2:], self.patch, strict=True)]
        noise = torch.randn(len(z_0), 3, *extents, generator=generator, device=z_0.device)

        def denoise_samples(x_t: Tensor, log_snr: Tensor) -> Tensor:
            return self.model.denoise_picture(x_t, log_snr, z_0, self.quality)

        first, last = PIXEL_LOG_SNR_RANGE
        x_0 = sample(denoise_samples, noise, torch.linspace(first, last, n_steps).tolist())
        return (denoise_samples(x_0, torch.tensor([last], device=z_0.device)) + 1) / 2


@dataclass(frozen=True)
class Sampler:
    """A diffusion model of latents with the decoder of its latents.

    `draw_noisiest`: draws z_1 for a shape (B, *x). `step`: number that divides the rows and columns of latents.
    `origin`: what the latents depend on.
    """

    denoise: Denoiser
    draw_noisiest: Callable[[tuple[int, ...], torch.Generator], Tensor]
    step: int
    decoder: LatentDecoder
    origin: dict[str, Any]
    device: torch.device

    @property
    def draws_clips(self) -> bool:
        """Whether samples are clips."""
        return len(self.decoder.patch) == 3

    def sample(
        self,
        count: int,
        *,
        height: int | None = None,
        width: int | None = None,
        n_frames: int | None = None,
        n_steps: int = 100,
        decoder_steps: int = 50,
        seed: int = 0,
        guide: "Sampler | None" = None,
        guidance: float = 1.0,
    ) -> Iterator[np.ndarray]:
        """Draw pictures uint8 [height, width, 3] or clips uint8 [n_frames, height, width, 3], one after another.

        Extents are rounded up to whole latent positions; by default they are those of the training crops, or 256 pixels
        for a codec. `n_steps`: evaluations of the model of latents; `decoder_steps`: of a diffusion decoder. `guide`: a
        weaker model of the same latents (smaller, or trained for less time); `guidance` above 1 moves away from its
        samples (autoguidance, Karras et al., arXiv 2406.02507, eq. 3). Raises ModelError for a guide of other latents.
        """
        if guide is not None and guide.origin != self.origin:
            raise ModelError("the guide was trained on other latents")
        generator = torch.Generator(self.device).manual_seed(seed)
        denoise = self.denoise if guide is None else guided(self.denoise, guide.denoise, guidance)
        step = self.step if guide is None else lcm(self.step, guide.step)
        grid = self._grid((n_frames, height, width)[-len(self.decoder.patch) :], step)
        with torch.inference_mode(), autocast(self.device):
            for _ in tracked(range(count)):
                z_0 = sample_latents(denoise, self.draw_noisiest((1, *grid), generator), n_steps)
                x = self.decoder.decode(z_0, denoise, decoder_steps, generator).float()
                yield samples_of(x[0])

    def reconstruct(self, x: Tensor, *, decoder_steps: int = 50, seed: int = 0) -> Iterator[np.ndarray]:
        """Encode pictures [N, 3, H, W] or clips [N, 3, T, H, W], x in [0, 1], and decode them, one after another.

        Returns arrays as `sample` does. Raises ModelError if the decoder is a codec's, and ValueError for extents that
        are no multiples of a latent position's.
        """
        decoder = self.decoder
        if not isinstance(decoder, DiffusionDecoder):
            raise ModelError("a codec reconstructs by ulcodec encode and decode")
        generator = torch.Generator(self.device).manual_seed(seed)
        with torch.inference_mode(), autocast(self.device):
            for original in tracked(x.to(self.device)):
                z_0 = decoder.encode(original[None], generator)
                yield samples_of(decoder.decode(z_0, self.denoise, decoder_steps, generator).float()[0])

    def _grid(self, extents: tuple[int | None, ...], step: int) -> tuple[int, ...]:
        """Return the extents of a latent, whose rows and columns are multiples of `step`."""
        patch = self.decoder.patch
        chosen = [
            usual if extent is None else extent for extent, usual in zip(extents, self.decoder.extents, strict=True)
        ]
        steps = (1,) * (len(patch) - 2) + (step,) * 2
        return tuple(
            -(-extent // (side * step)) * step for extent, side, step in zip(chosen, patch, steps, strict=True)
        )


def samples_of(x: Tensor) -> np.ndarray:
    """[3, H, W] or [3, T, H, W] in [0, 1] -> uint8 [H, W, 3] or [T, H, W, 3]."""
    frames = x[None] if x.ndim == 3 else x.movedim(1, 0)
    samples = to_samples(channels_last(frames), Layout.RGB)
    return samples[0] if x.ndim == 3 else samples


def guided(base: Denoiser, guide: Denoiser, guidance: float) -> Denoiser:
    """Combine the estimates of the clean latent: `guide + guidance (base - guide)`."""

    def denoise(z_t: Tensor, log_snr: Tensor) -> Tensor:
        weaker = guide(z_t, log_snr)
        return weaker + guidance * (base(z_t, log_snr) - weaker)

    return denoise


def sample_latents(denoise: Denoiser, z_1: Tensor, n_steps: int) -> Tensor:
    """Sample z_0 [B, C, x] at log-SNR 5 from the noisiest latents z_1, in `n_steps` evaluations even in log-SNR."""
    return sample(denoise, z_1, torch.linspace(LATENT_LOG_SNR_1, LATENT_LOG_SNR_0, n_steps + 1).tolist())


def load_sampler(run_dir: Path, *, model: str | Path | None = None, device: torch.device) -> Sampler:
    """Load the EMA weights of a run of stage 2 with the decoder of its latents; or of stage 1 with the objective `ul`.

    The latter draws latents by its prior. `model`: name or directory of the codec, or of the run of stage 1, if it is
    not where it was in training. Raises ModelError for any other run, or for networks that did not make its latents.
    """
    checkpoint = run_dir / "checkpoint"
    config, ema = read_consistently(
        checkpoint, lambda: (read_document(checkpoint, "config"), read_tensors(checkpoint, "ema"))
    )
    if part_of(config, "stage1").get("objective") == "ul":
        return sampler_of_prior(open_run(run_dir), device)
    if "stage2" not in config:
        raise ModelError(f"{run_dir} is a run of neither stage 2 nor stage 1 with the objective ul: it draws nothing")
    trained = modernised(part_of(config, "model"))
    base = BaseModel(BaseModelConfig.from_json(trained.get("base")))
    decoder, origin = decoder_of(trained, model or str(part_of(config, "stage2").get("model")), run_dir, device)
    load_weights(base, ema)
    base = base.to(device).eval().requires_grad_(False)
    return Sampler(base, base.draw_noisiest, base.config.step, decoder, origin, device)


def decoder_of(
    trained: dict[str, Any], model: str | Path, run_dir: Path, device: torch.device
) -> tuple[LatentDecoder, dict[str, Any]]:
    """Load the decoder of the latents that a base model was trained on, and what they depend on."""
    if "stage1_sha256" in trained:
        if not is_run(Path(model)):
            raise ModelError(f"the run of stage 1 is not at {model}: name its place as the model")
        run = open_run(Path(model))
        check_origin(run.sha256, trained["stage1_sha256"], run_dir)
        return DiffusionDecoder(run.networks(device), run, device), {"stage1_sha256": run.sha256}
    stored = open_model(model)
    check_origin(stored.fingerprint.hex(), trained.get("codec_sha256"), run_dir)
    quality: Any = trained.get("quality")
    if not is_count(quality, 100):
        raise ModelError(f"{run_dir}: the quality must be a whole number from 0 to 100, got {quality}")
    origin = {"codec_sha256": trained["codec_sha256"], "quality": quality}
    return CodecDecoder(stored.networks(device), quality / 100, device), origin


def check_origin(found: str, expected: Any, run_dir: Path) -> None:
    """Raise ModelError for a model with another SHA-256."""
    if found != expected:
        raise ModelError(f"{run_dir} draws latents of model {str(expected)[:8]}, not of {found[:8]}")


def sampler_of_prior(run: TrainedRun, device: torch.device) -> Sampler:
    """Make a sampler of the prior and the decoder of a run of stage 1."""
    model = run.networks(device)
    decoder = DiffusionDecoder(model, run, device)

    def denoise(z_t: Tensor, log_snr: Tensor) -> Tensor:
        return model.denoise_latent(z_t, log_snr, decoder.quality)

    def draw_noisiest(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        batch, *grid = shape
        return torch.randn(batch, run.config.latent_channels, *grid, generator=generator, device=device)

    return Sampler(denoise, draw_noisiest, 1, decoder, {"stage1_sha256": run.sha256}, device)
