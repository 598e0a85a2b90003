"""Reduced and turned crops of training pictures."""

import numpy as np
import pytest
import torch
from numbered_pictures import PICTURES, numbered

from ulcodec.train.data.augmentation import AugmentedPictures, area_weights
from ulcodec.train.data.pictures import pack
from ulcodec.train.workers import Workers


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_bytes(crops: torch.Tensor) -> np.ndarray:
    return (crops * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_turned_crops_lie_in_their_pictures_in_all_orientations() -> None:
    crop_px = 32
    crops = AugmentedPictures(pack(PICTURES), reduction=1.0, turns=True).random_crops(800, crop_px, generator())
    assert crops.dtype == torch.float32
    orientations = set()
    for crop in as_bytes(crops):
        transposed = bool(crop[0, 0, 0] == crop[1, 0, 0])  # rows of the picture run along columns
        upright = crop.swapaxes(0, 1) if transposed else crop
        flips = bool(upright[0, 0, 0] > upright[1, 0, 0]), bool(upright[0, 0, 1] > upright[0, 1, 1])
        upright = upright[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
        top, left, number = (int(value) for value in upright[0, 0])
        np.testing.assert_array_equal(upright, PICTURES[number][top : top + crop_px, left : left + crop_px])
        orientations.add((transposed, *flips))
    assert len(orientations) == 8


@pytest.mark.parametrize("factor", [1.0, 1.27, 1.5, 2.0])
def test_reduced_pixels_are_means_of_their_areas(factor: float) -> None:
    crop_px = 24
    samples = np.random.default_rng(0).random(48)
    weights = area_weights(torch.tensor([factor]), crop_px, len(samples))[0]
    integral = np.interp(np.arange(crop_px + 1) * factor, np.arange(49), np.concatenate(([0], samples.cumsum())))
    np.testing.assert_allclose(weights.numpy() @ samples, np.diff(integral) / factor, atol=1e-5)


def test_half_of_the_crops_are_reduced_within_their_pictures() -> None:
    """In pictures whose samples are their positions, the step from row to row is the factor."""
    crop_px, pictures = 32, [numbered(0, 70, 200), numbered(1, 100, 90), numbered(2, 34, 60)]
    crops = AugmentedPictures(pack(pictures), reduction=2.0, turns=False).random_crops(900, crop_px, generator()) * 255
    assert torch.allclose(crops, crops.round(), atol=1e-3), "levels of 8 bits"
    numbers = crops[:, 2].amax((1, 2)).round().int()
    assert torch.equal(numbers, crops[:, 2].amin((1, 2)).round().int())
    rows, columns = crops[:, 0, :, 0], crops[:, 1, 0]
    factors = (rows[:, -1] - rows[:, 0]) / (crop_px - 1)
    assert torch.allclose((columns[:, -1] - columns[:, 0]).abs() / (crop_px - 1), factors, atol=0.05)
    assert torch.allclose(rows, rows[:, :1] + torch.arange(crop_px) * factors[:, None], atol=1.01)
    for number, pixels in enumerate(pictures):
        chosen = factors[numbers == number]
        largest = min(2.0, min(pixels.shape[:2]) / crop_px)
        assert (chosen > 1.01).float().mean() == pytest.approx(0.5, abs=0.1) if number < 2 else chosen.max() < 1.1
        assert chosen.max() == pytest.approx(largest, abs=0.06)
        assert rows[numbers == number].max() <= pixels.shape[0] - 1


def test_crops_are_those_of_a_worker_and_depend_only_on_the_generator() -> None:
    pictures = AugmentedPictures(pack(PICTURES), reduction=1.2, turns=True)
    whole = pictures.random_crops(8, 32, generator(1))
    assert torch.equal(whole, pictures.random_crops(8, 32, generator(1)))
    assert not torch.equal(whole, pictures.random_crops(8, 32, generator(2)))
    parts = [pictures.random_crops(8, 32, generator(1), Workers(rank, 2).rows) for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)
