"""Random crops of training pictures."""

import numpy as np
import torch
from numbered_pictures import PICTURES

from ulcodec.train.data.pictures import pack


def test_crops_lie_in_their_pictures() -> None:
    crop_px = 32
    crops = pack(PICTURES).random_crops(400, crop_px, torch.Generator().manual_seed(0))
    assert crops.dtype == torch.float32
    assert crops.shape == (400, 3, crop_px, crop_px)
    positions = set()
    for crop in (crops * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        flipped = bool(crop[0, 0, 1] > crop[0, 1, 1])
        upright = crop[:, ::-1] if flipped else crop
        top, left, number = (int(value) for value in upright[0, 0])
        np.testing.assert_array_equal(upright, PICTURES[number][top : top + crop_px, left : left + crop_px])
        positions.add((number, top, left, flipped))
    assert {number for number, *_ in positions} == set(range(len(PICTURES)))
    assert {flipped for *_, flipped in positions} == {False, True}
    assert {top for number, top, *_ in positions if number == 0} == set(range(40 - crop_px + 1))


def test_crops_depend_only_on_the_generator() -> None:
    pictures = pack(PICTURES)
    first, again, other = (pictures.random_crops(8, 32, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
