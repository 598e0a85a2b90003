"""Calibration of the entropy model of predicted frames to stored latents."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ulcodec.codec.image import Codec
from ulcodec.codec.prediction import encode_residual
from ulcodec.export.residuals import ResidualCoding, groups_of_run, measured_bits
from ulcodec.store.tensor_files import write_directory
from ulcodec.train.data.pictures import empty_set
from ulcodec.train.latents import LatentSet

N_LATENTS = 60


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with latents of 40x4 positions, whose only channel is the quality."""
    latents = empty_set(np.array([[40, 4]] * N_LATENTS), 1, torch.float16)
    qualities = torch.arange(N_LATENTS) / 100
    for number in range(N_LATENTS):
        latents.picture(number).fill_(number)
    write_directory(tmp_path / "latents", {"training": LatentSet(latents, qualities).tensors()}, {})
    return tmp_path


def test_groups_cover_the_qualities(run_dir: Path) -> None:
    groups = groups_of_run(run_dir)
    assert sorted(quality for group in groups for quality in group) == list(range(N_LATENTS))
    for group in groups:
        assert [quality // 10 for quality in group] == list(range(6)), "one of each sixth, in increasing order"
        assert all(latent.shape == (32, 4, 1) and (latent == quality).all() for quality, latent in group.items())


def test_run_without_latents_has_no_groups(tmp_path: Path) -> None:
    assert groups_of_run(tmp_path) == []


def test_residuals_are_coded_as_in_sequences(tiny_codec: Codec, picture: np.ndarray) -> None:
    frame, prediction = picture[:64, :64], picture[8:72, 4:68]
    frame_in_sequence, y_prediction = encode_residual(tiny_codec, frame, prediction, 70)
    y = encoder_output(tiny_codec, frame, 0.7) - torch.from_numpy(y_prediction[0])
    model = tiny_codec.model
    coding = ResidualCoding(model, tiny_codec.coder, tiny_codec.device, model.encoder.log_gain)
    payload_bits, bound_bits = measured_bits(coding, 70, {70: y})
    assert payload_bits == pytest.approx(8 * len(frame_in_sequence.payload), abs=16)
    assert payload_bits < 1.2 * bound_bits + 64


def encoder_output(codec: Codec, pixels: np.ndarray, quality: float) -> torch.Tensor:
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    y: torch.Tensor = codec.model.encoder(x, torch.tensor([quality]))[0]
    return y[0].permute(1, 2, 0)
