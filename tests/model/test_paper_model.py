"""The paper's architecture: shapes, gradients, conditioning, size, and learning."""

import pytest
import torch
from torch import Tensor, nn

from ulcodec.diffusion.schedule import alpha, sigma
from ulcodec.model.config import PAPER, PAPER_TINY
from ulcodec.model.paper import PaperModel, clean_from_v

HEIGHT, WIDTH = 48, 80
N_IMAGES = 2


@pytest.fixture
def model() -> PaperModel:
    torch.manual_seed(0)
    return PaperModel(PAPER_TINY).eval()


@pytest.fixture
def active_model(model: PaperModel) -> PaperModel:
    """A model without zero weights, so that every path has an effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "x": torch.rand(N_IMAGES, 3, HEIGHT, WIDTH, generator=generator),
        "x_t": torch.randn(N_IMAGES, 3, HEIGHT, WIDTH, generator=generator),
        "z_t": torch.randn(N_IMAGES, PAPER_TINY.latent_channels, HEIGHT // 16, WIDTH // 16, generator=generator),
        "log_snr": torch.tensor([5.0, -3.0]),
        "quality": torch.tensor([0.0, 1.0]),
    }


def run_all(model: PaperModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    log_snr, quality = batch["log_snr"], batch["quality"]
    z = model.encoder(batch["x"], quality)
    z_hat = model.prior(batch["z_t"], log_snr, quality)
    x_hat = model.decoder(batch["x_t"], log_snr, batch["z_t"], quality)
    return z, z_hat, x_hat


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 80), (112, 16)])
def test_shapes_on_any_grid(model: PaperModel, height: int, width: int) -> None:
    quality = log_snr = torch.zeros(1)
    z = model.encoder(torch.rand(1, 3, height, width), quality)
    assert z.shape == (1, 32, height // 16, width // 16)
    assert model.prior(z, log_snr, quality).shape == z.shape
    assert model.decoder(torch.randn(1, 3, height, width), log_snr, z, quality).shape == (1, 3, height, width)


def test_sides_that_are_not_multiples_of_16_are_refused(model: PaperModel) -> None:
    x, level, z = torch.rand(1, 3, 48, 72), torch.zeros(1), torch.zeros(1, 32, 3, 5)
    with pytest.raises(ValueError, match="multiples of 16, got 48x72"):
        model.encoder(x, level)
    with pytest.raises(ValueError, match="multiples of 16, got 48x72"):
        model.decoder(x, level, z, level)


def test_exact_v_gives_the_clean_picture() -> None:
    log_snr = torch.tensor([-8.0, 0.0, 8.0])
    a, s = alpha(log_snr)[:, None, None, None], sigma(log_snr)[:, None, None, None]
    x, eps = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(clean_from_v(a * x + s * eps, a * eps - s * x, log_snr), x)


def test_fresh_networks_return_alpha_times_their_input(model: PaperModel, batch: dict[str, Tensor]) -> None:
    level = alpha(batch["log_snr"])[:, None, None, None]
    z, z_hat, x_hat = run_all(model, batch)
    assert torch.equal(z_hat, level * batch["z_t"])
    assert torch.equal(x_hat, level * batch["x_t"])
    assert z.std() > 0.1


def assert_gradient_everywhere(*networks: nn.Module) -> None:
    for network in networks:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_gradient_reaches_the_encoder_through_the_prior(active_model: PaperModel, batch: dict[str, Tensor]) -> None:
    log_snr, quality = batch["log_snr"], batch["quality"]
    level = alpha(log_snr)[:, None, None, None]
    z_t = level * active_model.encoder(batch["x"], quality)
    output = active_model.prior(z_t, log_snr, quality) - level * z_t  # of the network alone
    output.square().sum().backward()
    assert_gradient_everywhere(active_model.encoder, active_model.prior)


def test_gradient_reaches_encoder_and_decoder_through_the_decoder(
    active_model: PaperModel, batch: dict[str, Tensor]
) -> None:
    z = active_model.encoder(batch["x"], batch["quality"])
    active_model.decoder(batch["x_t"], batch["log_snr"], z, batch["quality"]).square().sum().backward()
    assert_gradient_everywhere(active_model.encoder, active_model.decoder)


def test_outputs_depend_on_level_and_latent_but_not_on_quality(
    active_model: PaperModel, batch: dict[str, Tensor]
) -> None:
    reference = run_all(active_model, batch)
    other_quality = run_all(active_model, {**batch, "quality": 1 - batch["quality"]})
    assert all(torch.equal(one, other) for one, other in zip(reference, other_quality, strict=True))
    v_scale = sigma(batch["log_snr"])[:, None, None, None]
    v = (alpha(batch["log_snr"])[:, None, None, None] * batch["z_t"] - reference[1]) / v_scale
    other_log_snr = batch["log_snr"] - 1
    other_z_hat = active_model.prior(batch["z_t"], other_log_snr, batch["quality"])
    other_v = alpha(other_log_snr)[:, None, None, None] * batch["z_t"] - other_z_hat
    assert (other_v / sigma(other_log_snr)[:, None, None, None] - v).abs().max() > 1e-2
    x_hat = active_model.decoder(batch["x_t"], batch["log_snr"], -batch["z_t"], batch["quality"])
    assert (x_hat - reference[2]).abs().max() > 1e-2


def test_pictures_of_a_batch_are_independent(active_model: PaperModel, batch: dict[str, Tensor]) -> None:
    outputs_of_batch = run_all(active_model, batch)
    outputs_of_first = run_all(active_model, {name: value[:1] for name, value in batch.items()})
    for one, other in zip(outputs_of_batch, outputs_of_first, strict=True):
        torch.testing.assert_close(one[:1], other, rtol=1e-3, atol=1e-4)


def test_prior_depends_on_positions(active_model: PaperModel) -> None:
    """Without positions, swapping two tokens of the input would swap them in the output."""
    z_t = torch.randn(1, 32, 1, 4, generator=torch.Generator().manual_seed(3))
    order, level = [2, 1, 0, 3], torch.zeros(1)
    swapped = active_model.prior(z_t[..., order], level, level)
    assert (swapped - active_model.prior(z_t, level, level)[..., order]).abs().max() > 1e-3


def test_dropout_changes_only_the_decoder_in_training(active_model: PaperModel, batch: dict[str, Tensor]) -> None:
    evaluated = [run_all(active_model, batch) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*evaluated, strict=True))
    active_model.train()
    (z, z_hat, x_hat), (other_z, other_z_hat, other_x_hat) = (run_all(active_model, batch) for _ in range(2))
    assert torch.equal(z, other_z)
    assert torch.equal(z_hat, other_z_hat)
    assert not torch.equal(x_hat, other_x_hat)


def test_bfloat16_autocast_returns_float32_close_to_float32(active_model: PaperModel, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        reference = run_all(active_model, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = run_all(active_model, batch)
    for one, other in zip(reference, mixed, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).square().mean().sqrt() < 0.05 * one.square().mean().sqrt()


def test_full_size_parameter_counts() -> None:
    with torch.device("meta"):
        model = PaperModel(PAPER)
        z = model.encoder(torch.empty(1, 3, 512, 512), torch.empty(1))
    millions = [
        sum(p.numel() for p in network.parameters()) / 1e6 for network in (model.encoder, model.prior, model.decoder)
    ]
    assert z.shape == (1, 32, 32, 32)
    assert millions == pytest.approx([28.3, 154.4, 192.1], abs=0.1)


def test_loss_falls_in_twenty_steps(model: PaperModel, batch: dict[str, Tensor]) -> None:
    """Train all networks on one batch with fixed noise. The prior's error is relative to the latent's power."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    generator = torch.Generator().manual_seed(4)
    quality, log_snr = batch["quality"], torch.tensor([0.0, -3.0])
    a, s = alpha(log_snr)[:, None, None, None], sigma(log_snr)[:, None, None, None]
    x = torch.nn.functional.interpolate(2 * batch["x"][:, :, :3, :5] - 1, size=(HEIGHT, WIDTH), mode="bilinear")
    x_t = a * x + s * torch.randn(x.shape, generator=generator)
    noise = torch.randn(batch["z_t"].shape, generator=generator)
    losses = []
    for _ in range(20):
        z = model.encoder((x + 1) / 2, quality)
        z_hat = model.prior(a * z + s * noise, log_snr, quality)
        x_hat = model.decoder(x_t, log_snr, z, quality)
        prior_loss, decoder_loss = (z - z_hat).square().mean(), (x - x_hat).square().mean()
        optimizer.zero_grad()
        (prior_loss + decoder_loss).backward()
        optimizer.step()
        losses.append(((prior_loss / z.square().mean()).item(), decoder_loss.item()))
    assert losses[-1][0] < 0.7 * losses[0][0]
    assert losses[-1][1] < 0.7 * losses[0][1]
