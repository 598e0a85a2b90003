"""Transformer over a grid of any dimension, with rotary positions and conditioning on the noise level (adaLN-zero).

The paper's model and the base model share it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_LEVEL_FREQUENCIES = 32
ROTARY_BASE = 100.0


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def zero_init(layer: nn.Module) -> nn.Module:
    """Set all parameters of a layer to zero and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class LevelEmbedding(nn.Module):
    """Embedding of the noise level: sines and cosines of the log-SNR, of periods 2 to 128, and an MLP."""

    def __init__(self, width: int):
        super().__init__()
        first = nn.Linear(2 * N_LEVEL_FREQUENCIES, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, log_snr: Tensor) -> Tensor:
        """log_snr [B] -> [B, width]."""
        periods = 2.0 ** torch.linspace(1, 7, N_LEVEL_FREQUENCIES, device=log_snr.device)
        angles = 2 * math.pi * log_snr.float()[:, None] / periods
        embedding: Tensor = self.mlp(torch.cat((angles.sin(), angles.cos()), dim=1))
        return embedding


def rotary_angles(grid: Sequence[int], head_size: int, device: torch.device) -> Tensor:
    """Angles of the rotary embedding (arXiv 2104.09864) of all positions of a grid: [N, head_size / 2].

    The axes share the frequencies equally. Where their number does not divide, the last axes get one more.
    """
    n_pairs, n_axes = head_size // 2, len(grid)
    angles = []
    for axis, extent in enumerate(grid):
        n_frequencies = (n_pairs + axis) // n_axes
        frequencies = ROTARY_BASE ** (-torch.arange(n_frequencies, device=device) / n_frequencies)
        along = [-1 if other == axis else 1 for other in range(n_axes)]
        positions = torch.arange(extent, device=device).view(*along, 1)
        angles.append((positions * frequencies).expand(*grid, -1))
    return torch.cat(angles, dim=-1).flatten(0, -2)


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_size / 2) of x [B, heads, N, head_size] by angles [N, head_size / 2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Attention(nn.Module):
    """Self-attention over all tokens. Queries and keys are normalised, then rotated by position."""

    def __init__(self, width: int, head_size: int):
        super().__init__()
        self.head_size = head_size
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = nn.RMSNorm(head_size)
        self.key_norm = nn.RMSNorm(head_size)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """x [B, N, width], angles [N, head_size / 2] -> [B, N, width]."""
        heads = self.qkv(x).unflatten(-1, (3, -1, self.head_size))  # [B, N, 3, heads, head_size]
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        query = _rotate(self.query_norm(query.float()), angles).to(value.dtype)
        key = _rotate(self.key_norm(key.float()), angles).to(value.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


class TransformerBlock(nn.Module):
    """Attention and MLP. The noise level sets the scale and shift before each, and the gate after it (from zero)."""

    def __init__(self, width: int, head_size: int, dropout: float):
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_2 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, head_size)
        expand, reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(expand, nn.GELU(), nn.Dropout(dropout), reduce)
        self.level = zero_init(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, level: Tensor, angles: Tensor) -> Tensor:
        """x [B, N, width], level [B, width], angles [N, head_size / 2] -> [B, N, width]."""
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = self.level(level)[:, None].chunk(6, dim=-1)
        x = x + gate_1 * self.attention(scale_and_shift(self.norm_1(x), scale_1, shift_1), angles)
        result: Tensor = x + gate_2 * self.mlp(scale_and_shift(self.norm_2(x), scale_2, shift_2))
        return result


class Transformer(nn.Module):
    """Transformer blocks over the positions of a grid, and a final norm with scale and shift by the noise level."""

    def __init__(self, width: int, n_blocks: int, head_size: int, dropout: float = 0.0):
        super().__init__()
        self.head_size = head_size
        self.blocks = nn.ModuleList(TransformerBlock(width, head_size, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.level = zero_init(nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x [B, width, *grid], level [B, width] -> [B, width, *grid]; the grid has any number of axes."""
        angles = rotary_angles(x.shape[2:], self.head_size, x.device)
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, level, angles)
        tokens = scale_and_shift(self.norm(tokens), *self.level(level)[:, None].chunk(2, dim=-1))
        return tokens.transpose(1, 2).reshape(x.shape)
