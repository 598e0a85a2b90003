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
from ulcodec.model.config import ACTIVATION_LIMIT, HIDDEN_BITS, N_SCALES, ModelConfig
from ulcodec.model.fusion import fused
from ulcodec.model.initialisation import HYPER_LOG_GAIN, anchor_log_gains

SCALE_MIN, SCALE_MAX = 0.11, 64.0
LOG_SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (N_SCALES - 1)

HIDDEN_LIMIT = 255 / 2**HIDDEN_BITS
"""Clamp on a block's hidden units. In `SharedPrior` they are clamped like all activations."""


class Prediction(NamedTuple):
    """Mean and log of the standard deviation, both [B, C, h, w] float32, in bins."""

    mean: Tensor
    log_scale: Tensor


def _clamp(x: Tensor) -> Tensor:
    return F.hardtanh(x, -ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def _clamp_relu(x: Tensor, limit: float = ACTIVATION_LIMIT) -> Tensor:
    return F.hardtanh(x, 0, limit)


class PriorBlock(nn.Module):
    """Bottleneck block with clamped activations and a bias that depends on quality."""

    def __init__(self, width: int, n_anchors: int, hidden_limit: float):
        super().__init__()
        self.hidden_limit, hidden = hidden_limit, width // 2
        self.reduce = conv(width, hidden)
        self.spatial = conv(hidden, hidden, 3)
        self.expand = conv(hidden, width)
        self.bias = QualityTable(n_anchors, hidden)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, C, h, w], quality [B] -> the shape of x."""
        hidden = self.reduce(x)
        hidden = _clamp_relu(hidden + self.bias(quality).to(hidden.dtype), self.hidden_limit)
        hidden = _clamp_relu(self.spatial(hidden), self.hidden_limit)
        return _clamp(x + self.expand(hidden))


def hidden_factors(first: float, second: float) -> dict[str, float]:
    """Factors of a block's parameters, by name, that multiply its hidden units before and after `spatial`.

    The block's output stays the same where no hidden unit is clamped.
    """
    return {
        "reduce.weight": first, "reduce.bias": first, "bias.values": first,
        "spatial.weight": second / first, "spatial.bias": second,
        "expand.weight": 1 / second,
    }  # fmt: skip


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


class PassOutput(NamedTuple):
    """Corrections in units of the channels' gains, in autocast's dtype, and features for the next pass.

    The features are [B, prior_width, h, w].
    """

    corrections: Prediction
    features: Tensor


class PriorNetwork(nn.Module):
    """Network of a reveal pass: from known elements, and perhaps the features of the pass before, to all others."""

    def __init__(self, config: ModelConfig, n_blocks: int, *, has_memory: bool, hidden_limit: float = HIDDEN_LIMIT):
        super().__init__()
        anchors, channels, width = config.n_quality_anchors, config.latent_channels, config.prior_width
        self.signal = conv(channels, width)
        self.knowledge = conv(channels, width)
        self.hyper = conv(config.hyper_width, width)
        self.carried = conv(width, width, zero=True) if has_memory else None
        self.bias = QualityTable(anchors, width)
        self.blocks = nn.ModuleList(PriorBlock(width, anchors, hidden_limit) for _ in range(n_blocks))
        self.mean_head = conv(width, channels, zero=True)
        self.scale_head = conv(width, channels, zero=True)

    def forward(
        self, estimate: Tensor, known: Tensor, quality: Tensor, hyper_features: Tensor | None, carried: Tensor | None
    ) -> PassOutput:
        """Predict corrections of the estimate [B, C, h, w], and log-scales.

        known: 0 for unknown elements, 1 for revealed ones, between for other log-SNRs; broadcastable to the estimate.
        hyper_features [B, hyper_width, h, w], or None for the prior of the latent alone. carried [B, prior_width, h,
        w]: features of the pass before, or None.
        """
        known = known.expand(-1, estimate.shape[1], -1, -1)
        context = self.knowledge(known) + self.context(quality, hyper_features, carried)
        features, hidden = self.run_blocks(self.signal(estimate) + context, quality)
        return PassOutput(Prediction(self.mean_head(hidden), self.scale_head(hidden)), features)

    def context(self, quality: Tensor, hyper_features: Tensor | None, carried: Tensor | None) -> Tensor:
        """Compute what the stem sees beside the elements: [B, prior_width, 1, 1], or with features [..., h, w]."""
        context: Tensor = self.bias(quality)
        if hyper_features is not None:
            context = context + self.hyper(hyper_features)
        if carried is not None and self.carried is not None:
            context = context + self.carried(carried)
        return context

    def run_blocks(self, stem: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features for the next pass and the input of the heads, both [B, prior_width, h, w]."""
        features = _clamp_relu(stem)
        for block in self.blocks:
            features = block(features, quality)
        return features, _clamp_relu(features)

    def stem_of_unknown(self) -> Tensor:
        """Compute what `signal` and `knowledge` give where nothing is known: [prior_width, 1, 1]."""
        return (_bias_of(self.signal) + _bias_of(self.knowledge))[:, None, None]

    def stem_of_known(self, estimates: Tensor, channels: Tensor) -> Tensor:
        """Apply `signal` and `knowledge` phase by phase to the channels that are known there, without their biases.

        estimates [8, B, n, K], channels int64 [8, K] -> [8, B, n, prior_width].
        """
        weights = _weight_of(self.signal)[:, channels].permute(1, 2, 0)
        marks = _weight_of(self.knowledge)[:, channels].sum(2).T
        result = torch.baddbmm(marks[:, None], estimates.flatten(1, 2), weights)
        return result.view(*estimates.shape[:3], -1)

    def heads_of_coded(self, hidden: Tensor, channels: Tensor) -> Prediction:
        """Apply the heads phase by phase to the channels that are coded there.

        hidden [8, B, n, prior_width], channels int64 [8, K] -> [8, B, n, K] each.
        """
        heads = self.mean_head, self.scale_head
        weights = torch.cat([_weight_of(head)[channels] for head in heads], dim=1).transpose(1, 2)
        biases = torch.cat([_bias_of(head)[channels] for head in heads], dim=1)
        result = torch.baddbmm(biases[:, None], hidden.flatten(1, 2), weights)
        return Prediction(*result.view(*hidden.shape[:3], -1).chunk(2, dim=3))


def _weight_of(layer: nn.Conv2d) -> Tensor:
    """Weight [out, in] of a 1x1 convolution."""
    return layer.weight[:, :, 0, 0]


def _bias_of(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class Prior(nn.Module):
    """Predictor of the clean latent from noisy elements, with a log-SNR for each element.

    An unknown element has log-SNR -inf. A revealed element has `LATENT_LOG_SNR_0`, the log-SNR of the fixed noise. The
    networks of the reveal passes correct the Wiener estimate under a Gaussian of the channel's standard deviation. An
    untrained prior therefore is the per-channel Gaussian one. `networks`: that of each reveal pass.
    """

    networks: tuple[PriorNetwork, ...]

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.log_gain = QualityTable(config.n_quality_anchors, config.latent_channels)
        with torch.no_grad():
            self.log_gain.values.copy_(anchor_log_gains(config))

    def forward(self, y_noisy: Tensor, log_snr: Tensor, quality: Tensor, hyper_features: Tensor | None) -> Prediction:
        """Predict the latent from `y_noisy = z_t / (alpha BIN_WIDTH)` [B, C, h, w], in bins.

        All passes see the same noisy elements, and the last one predicts.
        log_snr is broadcastable to y_noisy, and -inf for unknown elements; quality [B] is in [0, 1]. hyper_features
        [B, hyper_width, h, w], or None for the prior of the latent alone.
        """
        gain = self.log_gain.gain(quality)
        estimate, known = wiener_estimate(y_noisy, log_snr, gain), _knowledge_level(log_snr)
        carried = None
        for network in dict.fromkeys(self.networks):
            corrections, carried = network(estimate, known, quality, hyper_features, carried)
        return to_bins(corrections, gain, estimate)


class PassPrior(Prior):
    """Prior with a network for each reveal pass, which goes on with the features of the pass before.

    All passes together are one deep network (progressive fusion, Li et al. 2025, arXiv 2507.19125).
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.networks = tuple(
            PriorNetwork(config, n_blocks, has_memory=number > 0) for number, n_blocks in enumerate(config.prior_blocks)
        )
        self.passes = nn.ModuleList(self.networks)


class SharedPrior(Prior):
    """Prior with one network for all reveal passes, each of which starts from nothing."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        (n_blocks,) = config.prior_blocks
        network = PriorNetwork(config, n_blocks, has_memory=False, hidden_limit=ACTIVATION_LIMIT)
        self.networks = (network,) * len(config.reveal_passes)
        for name, part in network.named_children():  # its weights have the names that they have in the network
            self.add_module(name, part)


def make_prior(config: ModelConfig) -> Prior:
    """Make the untrained prior of a configuration."""
    return SharedPrior(config) if config.shared_prior else PassPrior(config)


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
