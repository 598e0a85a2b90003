"""Noise that is a function of seed and position in the picture."""

import numpy as np
import pytest
import torch

from ulcodec.diffusion.noise import position_noise


def test_noise_depends_on_seed_and_position_only() -> None:
    whole = position_noise(3, range(0, 200), range(0, 150))
    assert whole.shape == (3, 200, 150)
    crop = position_noise(3, range(50, 140), range(64, 128))
    assert torch.equal(crop, whole[:, 50:140, 64:128])
    assert not torch.equal(position_noise(4, range(0, 64), range(0, 64)), whole[:, :64, :64])
    assert whole.mean().item() == pytest.approx(0, abs=0.02)
    assert whole.std().item() == pytest.approx(1, abs=0.02)
    blocks = whole[:, :192, :128].reshape(3, 3, 64, 2, 64).permute(0, 1, 3, 2, 4).reshape(18, -1)
    assert np.abs(np.corrcoef(blocks.numpy()) - np.eye(18)).max() < 0.08
