"""A critic: a small network trained to distinguish decoded pictures from originals."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Pixels = NDArray[np.uint8]

CRITIC_CROP_PX = 64
BATCH = 32


def critic_accuracy(
    originals: Sequence[Pixels], others: Sequence[Pixels], *, n_steps: int = 300, seed: int = 0
) -> float:
    """Share of patches that a critic classifies correctly as original or other: 0.5 is perfect, 1 the worst.

    Pictures uint8 [H, W, 3], as many others as originals, sides of 64 pixels or more. The critic is trained on 64x64
    patches of every second picture and tested on the rest, then the other way round; never on its training pictures.
    Raises ValueError for fewer than two pictures, or sets of different sizes.
    """
    if len(originals) < 2 or [p.shape for p in originals] != [p.shape for p in others]:
        raise ValueError("expected two sets of as many pictures, two or more, of the same sizes")
    if min(min(p.shape[:2]) for p in originals) < CRITIC_CROP_PX:
        raise ValueError(f"expected sides of at least {CRITIC_CROP_PX} px")
    rng = np.random.default_rng(seed)
    accuracies = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for fold in (0, 1):
            training, test = ((originals[i::2], others[i::2]) for i in (fold, 1 - fold))
            critic = trained_critic(training, n_steps, rng)
            with torch.inference_mode():
                for _ in range(16):
                    x, label = batch(test, rng)
                    accuracies.append(((critic(x)[:, 0] > 0) == (label > 0.5)).float().mean().item())
    return float(np.mean(accuracies))


def trained_critic(
    pair: tuple[Sequence[Pixels], Sequence[Pixels]], n_steps: int, rng: np.random.Generator
) -> nn.Module:
    """Train a critic on pairs of originals and others."""
    widths = (3, 32, 64, 96)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Conv2d(n_in, n_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    critic = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
    for _ in range(n_steps):
        x, label = batch(pair, rng)
        loss = F.binary_cross_entropy_with_logits(critic(x)[:, 0], label)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return critic


def batch(pair: tuple[Sequence[Pixels], Sequence[Pixels]], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw patches [2 B, 3, 64, 64] in [-1, 1] and labels, 1 original, 0 other; both kinds at the same places."""
    patches: list[Pixels] = []
    for index in rng.integers(0, len(pair[0]), BATCH):
        height, width = pair[0][index].shape[:2]
        top, left = rng.integers(0, height - CRITIC_CROP_PX + 1), rng.integers(0, width - CRITIC_CROP_PX + 1)
        patches += [kind[index][top : top + CRITIC_CROP_PX, left : left + CRITIC_CROP_PX] for kind in pair]
    x = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x, torch.tensor([1.0, 0.0]).repeat(BATCH)
