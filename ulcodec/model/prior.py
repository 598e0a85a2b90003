"""Diffusion prior P over the latent, with a log-SNR for every element, and the hyper-latent's prior and decoder.

All operations can run in integers (`ulcodec.coding.integer_prior`): products with constants, ReLU, clamps.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.diffusion.schedule import LATENT_LOG_SNR_0, LATENT_LOG_SNR_1, bin_noise_variance
from ulcodec.model.blocks import QualityTable, conv
from ulcodec.model.config import ModelConfig
from ulcodec.model.encoder import HYPER_LOG_GAIN, anchor_log_gains
from ulcodec.model.fusion import fused

N_SCALES = 64
SCALE_MIN, SCALE_MAX = 0.11, 64.0
LOG_SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (N_SCALES - 1)

ACTIVATION_LIMIT = 127.0
"""Clamp on every activation of the prior, so that it fits a fixed-point number."""


class Prediction(NamedTuple):
    """Mean and log of the standard deviation, both [B, C, h, w] float32, in quantisation steps."""

    mean: Tensor
    log_scale: Tensor


def limited(x: Tensor) -> Tensor:
    return F.hardtanh(x, -ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def limited_relu(x: Tensor) -> Tensor:
    return F.hardtanh(x, 0, ACTIVATION_LIMIT)


class PriorBlock(nn.Module):
    """Bottleneck block with clamped activations and a bias that depends on quality."""

    def __init__(self, width: int, n_anchors: int):
        super().__init__()
        hidden = width // 2
        self.reduce = conv(width, hidden)
        self.spatial = conv(hidden, hidden, 3)
        self.expand = conv(hidden, width)
        self.bias = QualityTable(n_anchors, hidden)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        hidden = self.reduce(x)
        hidden = limited_relu(hidden + self.bias(quality).to(hidden.dtype))
        hidden = limited_relu(self.spatial(hidden))
        return limited(x + self.expand(hidden))


class HyperDecoder(nn.Module):
    """Per-channel prior of the hyper-latent, and its features at 1/16."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.hyper_width
        self.mean = QualityTable(config.n_quality_anchors, config.hyper_channels)
        self.log_scale = QualityTable(config.n_quality_anchors, config.hyper_channels)
        self.log_gain = QualityTable(config.n_quality_anchors, config.hyper_channels)
        start = torch.linspace(*HYPER_LOG_GAIN, config.n_quality_anchors)[:, None]
        with torch.no_grad():
            self.log_gain.values.copy_(-start)
            self.log_scale.values.copy_(start - 1)
        self.stem = conv(config.hyper_channels, 4 * width)
        self.up_32 = conv(width, 4 * width, 3)
        self.up_16 = conv(width, width, 3)

    def predict(self, quality: Tensor) -> Prediction:
        """quality [B] -> mean and log-scale [B, C_hyper, 1, 1], the same at every position."""
        return Prediction(self.mean(quality), self.log_scale(quality))

    def forward(self, hyper: Tensor, quality: Tensor, grid: tuple[int, int]) -> Tensor:
        """hyper [B, C_hyper, ceil(h/4), ceil(w/4)] in quantisation steps -> features [B, hyper_width, h, w]."""
        features = limited_relu(self.stem(limited(hyper * self.log_gain.gain(quality))))
        features = limited_relu(self.up_32(F.pixel_shuffle(features, 2)))
        features = limited_relu(self.up_16(F.pixel_shuffle(features, 2)))
        return features[:, :, : grid[0], : grid[1]]


class Prior(nn.Module):
    """Predicts the clean latent from noisy elements, each at its own log-SNR.

    An element at log-SNR -inf enters as nothing known, one at `LATENT_LOG_SNR_0` as known to the fixed noise. Around
    the network stands the Wiener estimate under a Gaussian of the channel's spread, so that an untrained prior already
    is the per-channel Gaussian one.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        anchors, channels, width = config.n_quality_anchors, config.latent_channels, config.prior_width
        self.log_gain = QualityTable(anchors, channels)
        self.signal = conv(channels, width)
        self.knowledge = conv(channels, width)
        self.hyper = conv(config.hyper_width, width)
        self.bias = QualityTable(anchors, width)
        self.blocks = nn.ModuleList(PriorBlock(width, anchors) for _ in range(config.prior_blocks))
        self.mean_head = conv(width, channels, zero=True)
        self.scale_head = conv(width, channels, zero=True)
        with torch.no_grad():
            self.log_gain.values.copy_(anchor_log_gains(config))

    def forward(self, y_noisy: Tensor, log_snr: Tensor, quality: Tensor, hyper_features: Tensor | None) -> Prediction:
        """y_noisy [B, C, h, w]: `z_t / alpha` in quantisation steps; log_snr broadcastable to it, -inf where nothing is
        known; quality [B] in [0, 1]; hyper_features [B, hyper_width, h, w], or None for the prior of the latent alone.
        """
        gain = self.log_gain.gain(quality)
        estimate = wiener_estimate(y_noisy, log_snr, gain)
        corrections = self.corrections(estimate, knowledge(log_snr), self.context(quality, hyper_features), quality)
        return to_bins(corrections, gain, estimate)

    def context(self, quality: Tensor, hyper_features: Tensor | None) -> Tensor:
        """What the network is told at any noise level: [B, prior_width, 1, 1], with features [B, prior_width, h, w]."""
        bias: Tensor = self.bias(quality)
        return bias if hyper_features is None else bias + self.hyper(hyper_features)

    def corrections(self, estimate: Tensor, known: Tensor, context: Tensor, quality: Tensor) -> Prediction:
        """What the network adds to the estimate [B, C, h, w], and log-scales, both in the channels' own spread.

        known: `knowledge` broadcastable to the estimate; context: see `context`. In autocast's type.
        """
        known = known.expand(-1, estimate.shape[1], -1, -1)
        hidden = limited_relu(self.signal(estimate) + (self.knowledge(known) + context))
        for block in self.blocks:
            hidden = block(hidden, quality)
        hidden = limited_relu(hidden)
        return Prediction(self.mean_head(hidden), self.scale_head(hidden))


def to_bins(corrections: Prediction, gain: Tensor, estimate: Tensor | float = 0.0) -> Prediction:
    """Mean and log-scale in quantisation steps, float32, of an estimate and its corrections. gain [B, C, 1, 1]."""
    return Prediction((estimate + corrections.mean.float()) * gain, corrections.log_scale.float() + gain.log())


@fused
def wiener_estimate(y_noisy: Tensor, log_snr: Tensor, gain: Tensor) -> Tensor:
    """Posterior mean of `z = y / gain ~ N(0, 1)`: `y_noisy gain / (gain^2 + noise variance)`, clamped."""
    weight = gain / (gain**2 + bin_noise_variance(log_snr))
    return limited(y_noisy * weight)


@fused
def knowledge(log_snr: Tensor) -> Tensor:
    """Log-SNR mapped linearly to [0, 1] over the latent schedule: 0 nothing known, 1 known to the fixed noise."""
    span = LATENT_LOG_SNR_0 - LATENT_LOG_SNR_1
    return ((log_snr - LATENT_LOG_SNR_1) / span).clamp(0, 1)
