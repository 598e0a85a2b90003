"""The codec's model, and the part of it that knows the distribution of latents."""

from torch import Tensor, nn

from ulcodec.diffusion.schedule import ALPHA_0, BIN_WIDTH, alpha
from ulcodec.model.config import ModelConfig
from ulcodec.model.decoder import Decoder
from ulcodec.model.encoder import Encoder, HyperEncoder
from ulcodec.model.prior import HyperDecoder, make_prior


class EntropyModel(nn.Module):
    """Hyper-encoder, hyper-decoder and prior of a configuration, with initial weights: what coding a latent needs."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self._make_entropy_model()

    def _make_entropy_model(self) -> None:
        self.hyper_encoder = HyperEncoder(self.config)
        self.hyper_decoder = HyperDecoder(self.config)
        self.prior = make_prior(self.config)


class UnifiedLatentModel(EntropyModel):
    """All networks of a configuration, with initial weights: entropy model, encoder and decoder."""

    def _make_entropy_model(self) -> None:
        self.encoder = Encoder(self.config)
        super()._make_entropy_model()
        self.decoder = Decoder(self.config)

    def encode_clean(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, 3, H, W] in [0, 1] -> clean latent z [B, C, h, w] in the paper's units (a bin is `BIN_WIDTH` wide)."""
        y: Tensor = self.encoder(x, quality)[0]
        return y * BIN_WIDTH

    def denoise_latent(self, z_t: Tensor, log_snr: Tensor, quality: Tensor) -> Tensor:
        """z_t [B, C, h, w], log_snr [B] the same for all elements -> z_hat, by the prior without a hyper-latent."""
        level = log_snr[:, None, None, None]
        mean: Tensor = self.prior(z_t / (alpha(level) * BIN_WIDTH), level, quality, None).mean
        return mean * BIN_WIDTH

    def denoise_picture(self, x_t: Tensor, log_snr: Tensor, z_0: Tensor, quality: Tensor) -> Tensor:
        """x_t [B, 3, H, W] scaled to [-1, 1], log_snr [B], z_0 [B, C, h, w] -> x_hat scaled to [-1, 1]."""
        features, mean = self.decoder.trunk(z_0 / (ALPHA_0 * BIN_WIDTH), quality)
        x_hat: Tensor = self.decoder.denoiser.estimate(x_t, log_snr, features, 2 * mean - 1)
        return x_hat
