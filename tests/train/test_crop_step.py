"""Steps on random crops around a frozen codec."""

from pathlib import Path

import torch

from ulcodec.train.crop_step import CropStep
from ulcodec.train.data.loading import load_pictures
from ulcodec.train.log import Metrics
from ulcodec.train.settings import RefinerSettings
from ulcodec.train.workers import Workers


def test_crops_and_qualities_of_a_step(photographs: Path, tmp_path: Path) -> None:
    pictures, _ = load_pictures((photographs,), min_side_px=64, validation_share=0.1)
    drawn: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(x: torch.Tensor, quality: torch.Tensor, _: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        drawn.append((x, quality))
        return x.sum(), {}

    settings = RefinerSettings(data=(tmp_path,), out=tmp_path, batch_size=6, crop_px=32)
    for power in (1.0, 2.0):
        step = CropStep(loss, pictures, settings, Workers(), power)
        for n_images in (0, 6, 0):
            step(n_images)
    crops, qualities = zip(*drawn, strict=True)
    assert all(x.shape == (6, 3, 32, 32) for x in crops)
    assert torch.equal(crops[0], crops[2])
    assert not torch.equal(crops[0], crops[1])
    assert all(torch.equal(one, other) for one, other in zip(crops[:3], crops[3:], strict=True))
    assert all(torch.equal(one**2, other) for one, other in zip(qualities[:3], qualities[3:], strict=True))
    assert 0 <= float(torch.stack(qualities).min()) < float(torch.stack(qualities).max()) <= 1
