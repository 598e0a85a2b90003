"""Diffusion prior P over the latent, with a log-SNR for every element; the hyper-latent's prior and its decoder.

All operations also exist in integers (`ulcodec.coding.integer_prior`): products with constants, ReLU, clamps.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.diffusion.schedule import LATENT_LOG_SNR_0, LATENT_LOG_SNR_1, bin_noise_variance
from ulcodec.model.blocks import QualityTable, conv
from ulcodec.model.config import ModelConfig
from ulcodec.model.fusion import fused
from ulcodec.model.initialisation import HYPER_LOG_GAIN, anchor_log_gains

N_SCALES = 64
SCALE_MIN, SCALE_MAX = 0.11, 64.0
LOG_SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (N_SCALES - 1)

ACTIVATION_LIMIT = 127.0
"""Clamp on every activation of the prior, so that it fits a fixed-point number."""


class Prediction(NamedTuple):
    """Mean and log of the standard deviation, both [B, C, h, w] float32, in bins."""

    mean: Tensor
    log_scale: Tensor


def _clamp(x: Tensor) -> Tensor:
    return F.hardtanh(x, -ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def _clamp_relu(x: Tensor) -> Tensor:
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
        """x [B, C, h, w], quality [B] -> the shape of x."""
        hidden = self.reduce(x)
        hidden = _clamp_relu(hidden + self.bias(quality).to(hidden.dtype))
        hidden = _clamp_relu(self.spatial(hidden))
        return _clamp(x + self.expand(hidden))


class HyperDecoder(nn.Module):
    """Per-channel prior of the hyper-latent, and the network from the hyper-latent to features at 1/16."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.hyper_width
        self.mean = QualityTable(config.n_quality_anchors, config.hyper_channels)
        self.log_scale = QualityTable(config.n_quality_anchors, config.hyper_channels)
        self.log_gain = QualityTable(config.n_quality_anchors, config.hyper_channels)
        encoder_log_gain = torch.linspace(*HYPER_LOG_GAIN, config.n_quality_anchors)[:, None]
        with torch.no_grad():
            self.log_gain.values.copy_(-encoder_log_gain)
            self.log_scale.values.copy_(encoder_log_gain - 1)
        self.stem = conv(config.hyper_channels, 4 * width)
        self.up_32 = conv(width, 4 * width, 3)
        self.up_16 = conv(width, width, 3)

    def predict(self, quality: Tensor) -> Prediction:
        """Predict the hyper-latent from quality [B]: [B, C_hyper, 1, 1], the same at every position."""
        return Prediction(self.mean(quality), self.log_scale(quality))

    def forward(self, hyper: Tensor, quality: Tensor, grid: tuple[int, int]) -> Tensor:
        """hyper [B, C_hyper, ceil(h/4), ceil(w/4)] in bins -> features [B, hyper_width, h, w]."""
        features = _clamp_relu(self.stem(_clamp(hyper * self.log_gain.gain(quality))))
        features = _clamp_relu(self.up_32(F.pixel_shuffle(features, 2)))
        features = _clamp_relu(self.up_16(F.pixel_shuffle(features, 2)))
        return features[:, :, : grid[0], : grid[1]]


class Prior(nn.Module):
    """Predictor of the clean latent from noisy elements, with a log-SNR for each element.

    An unknown element has log-SNR -inf. A revealed element has `LATENT_LOG_SNR_0`, the log-SNR of the fixed noise. The
    network corrects the Wiener estimate under a Gaussian of the channel's standard deviation. An untrained prior
    therefore is the per-channel Gaussian one.
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
        """Predict the latent from `y_noisy = z_t / (alpha BIN_WIDTH)` [B, C, h, w], in bins.

        log_snr is broadcastable to y_noisy, and -inf for unknown elements; quality [B] is in [0, 1]. hyper_features
        [B, hyper_width, h, w], or None for the prior of the latent alone.
        """
        gain = self.log_gain.gain(quality)
        estimate = wiener_estimate(y_noisy, log_snr, gain)
        context = self.context(quality, hyper_features)
        corrections = self.predict_corrections(estimate, _knowledge_level(log_snr), context, quality)
        return to_bins(corrections, gain, estimate)

    def context(self, quality: Tensor, hyper_features: Tensor | None) -> Tensor:
        """Input of the network that no noise level changes: [B, prior_width, 1, 1], or with features [..., h, w]."""
        bias: Tensor = self.bias(quality)
        return bias if hyper_features is None else bias + self.hyper(hyper_features)

    def predict_corrections(self, estimate: Tensor, known: Tensor, context: Tensor, quality: Tensor) -> Prediction:
        """Predict corrections of the estimate [B, C, h, w], and log-scales, in units of the channels' gains.

        known: 0 for unknown elements, 1 for revealed ones, between for other log-SNRs; broadcastable to the estimate.
        context: see `context`. Returns the dtype of autocast.
        """
        known = known.expand(-1, estimate.shape[1], -1, -1)
        hidden = _clamp_relu(self.signal(estimate) + (self.knowledge(known) + context))
        for block in self.blocks:
            hidden = block(hidden, quality)
        hidden = _clamp_relu(hidden)
        return Prediction(self.mean_head(hidden), self.scale_head(hidden))


def to_bins(corrections: Prediction, gain: Tensor, estimate: Tensor | float = 0.0) -> Prediction:
    """Add corrections to an estimate and convert both to bins, float32. gain [B, C, 1, 1]."""
    return Prediction((estimate + corrections.mean.float()) * gain, corrections.log_scale.float() + gain.log())


@fused
def wiener_estimate(y_noisy: Tensor, log_snr: Tensor, gain: Tensor) -> Tensor:
    """Posterior mean of `y / gain ~ N(0, 1)`: `y_noisy gain / (gain^2 + noise variance)`, clamped."""
    weight = gain / (gain**2 + bin_noise_variance(log_snr))
    return _clamp(y_noisy * weight)


@fused
def _knowledge_level(log_snr: Tensor) -> Tensor:
    """Map log-SNR linearly to [0, 1] over the latent schedule: 0 unknown, 1 known up to the fixed noise."""
    log_snr_range = LATENT_LOG_SNR_0 - LATENT_LOG_SNR_1
    return ((log_snr - LATENT_LOG_SNR_1) / log_snr_range).clamp(0, 1)
