"""Generate new pictures: the base model of a stage-2 run draws latents, and the codec's decoder decodes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ulcodec.codec.pixels import grid_of, to_samples
from ulcodec.codec.tensors import channels_last
from ulcodec.devices import autocast
from ulcodec.diffusion.sampler import Denoiser, sample
from ulcodec.diffusion.schedule import BIN_WIDTH, LATENT_LOG_SNR_0, LATENT_LOG_SNR_1
from ulcodec.errors import ModelError
from ulcodec.format.container import Layout
from ulcodec.model.base_model import BaseModel, BaseModelConfig
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.progress import tracked
from ulcodec.store.model_directory import open_model
from ulcodec.store.networks import load_weights
from ulcodec.store.tensor_files import read_consistently, read_document, read_tensors


@dataclass(frozen=True)
class Sampler:
    """A base model with the codec whose latents it draws, the codec's SHA-256 and its quality in [0, 1]."""

    base: BaseModel
    codec: UnifiedLatentModel
    codec_sha256: str
    quality: float
    device: torch.device

    def sample(
        self,
        count: int,
        *,
        height: int = 256,
        width: int = 256,
        n_steps: int = 100,
        seed: int = 0,
        guide: "Sampler | None" = None,
        guidance: float = 1.0,
    ) -> Iterator[np.ndarray]:
        """Draw pictures one after another: uint8 [height, width, 3], sides rounded up to multiples of 16 pixels.

        The decoder was trained on quantised latents, unlike the paper's, which takes the noisy z_0. Its input here is
        therefore the last estimate of the clean latent, rounded to bins.

        `n_steps`: evaluations of the base model per picture. `guide`: a weaker base model of the same codec (smaller,
        or trained for less time); `guidance` above 1 moves away from its samples (autoguidance, Karras et al., arXiv
        2406.02507, eq. 3). Raises ModelError for a guide of another codec.
        """
        if guide is not None and (guide.codec_sha256, guide.quality) != (self.codec_sha256, self.quality):
            raise ModelError("the guide was trained on other latents")
        generator = torch.Generator(self.device).manual_seed(seed)
        denoise = self.base if guide is None else guided(self.base, guide.base, guidance)
        grid = grid_of(height, width)
        log_snr_0 = torch.tensor([LATENT_LOG_SNR_0], device=self.device)
        quality = torch.tensor([self.quality], device=self.device)
        with torch.inference_mode(), autocast(self.device):
            for _ in tracked(range(count)):
                z_0 = sample_latents(denoise, self.base.draw_noisiest((1, *grid), generator), n_steps)
                y = torch.round(denoise(z_0, log_snr_0) / BIN_WIDTH).contiguous(memory_format=torch.channels_last)
                yield to_samples(channels_last(self.codec.decoder.trunk(y, quality)[1])[0], Layout.RGB)


def guided(base: Denoiser, guide: Denoiser, guidance: float) -> Denoiser:
    """Combine the estimates of the clean latent: `guide + guidance (base - guide)`."""

    def denoise(z_t: Tensor, log_snr: Tensor) -> Tensor:
        weaker = guide(z_t, log_snr)
        return weaker + guidance * (base(z_t, log_snr) - weaker)

    return denoise


def sample_latents(denoise: Denoiser, z_1: Tensor, n_steps: int) -> Tensor:
    """Sample z_0 [B, C, h, w] at log-SNR 5 from the noisiest latents z_1, in `n_steps` evaluations even in log-SNR."""
    return sample(denoise, z_1, torch.linspace(LATENT_LOG_SNR_1, LATENT_LOG_SNR_0, n_steps + 1).tolist())


def load_sampler(run_dir: Path, *, model: str | Path | None = None, device: torch.device) -> Sampler:
    """Load the EMA weights of a stage-2 run and its codec.

    `model`: name or directory of the codec, if it is not where it was in training. Raises ModelError without a stage-2
    checkpoint, or for a codec that did not make the latents of the run.
    """
    checkpoint = run_dir / "checkpoint"
    config, ema = read_consistently(
        checkpoint, lambda: (read_document(checkpoint, "config"), read_tensors(checkpoint, "ema"))
    )
    if "stage2" not in config:
        raise ModelError(f"{run_dir} is not a run of stage 2")
    trained = config["model"]
    stored = open_model(model or config["stage2"]["model"])
    if stored.fingerprint.hex() != trained["codec_sha256"]:
        raise ModelError(
            f"{run_dir} draws latents of model {trained['codec_sha256'][:8]}, not of {stored.fingerprint.hex()[:8]}"
        )
    base = BaseModel(BaseModelConfig(**trained["base"]))
    load_weights(base, ema)
    base = base.to(device).eval().requires_grad_(False)
    return Sampler(base, stored.networks(device), trained["codec_sha256"], trained["quality"] / 100, device)
