"""The paper's architecture, for pictures and clips: shapes, gradients, conditioning, size, and learning."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ulcodec.diffusion.per_picture import per_picture
from ulcodec.diffusion.schedule import alpha, sigma
from ulcodec.model.config import (
    CLIP_STRIDES,
    PAPER,
    PAPER_TINY,
    PAPER_VIDEO,
    PICTURE_STRIDES,
    TINY_VIDEO,
    PaperConfig,
    Stride,
)
from ulcodec.model.linear_paths import RESIDUAL_STD
from ulcodec.model.paper import PaperModel, clean_from_v
from ulcodec.model.patches import CONVOLUTIONS, from_patches
from ulcodec.train.objective import ul_loss
from ulcodec.train.settings import ObjectiveSettings

SMALL_CLIPS = replace(PAPER_TINY, name="small_clips", strides=CLIP_STRIDES)
EXTENTS = {"paper_tiny": (48, 80), "small_clips": (8, 24, 40)}
N_IMAGES = 2


@pytest.fixture(params=[PAPER_TINY, SMALL_CLIPS], ids=lambda config: config.name)
def model(request: pytest.FixtureRequest) -> PaperModel:
    torch.manual_seed(0)
    return PaperModel(request.param).eval()


def grid_of(config: PaperConfig, extents: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side // step for side, step in zip(extents, config.patch, strict=True))


@pytest.fixture
def active_model(model: PaperModel) -> PaperModel:
    """A model without zero weights, so that every path has an effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def batch(model: PaperModel) -> dict[str, Tensor]:
    generator, extents = torch.Generator().manual_seed(2), EXTENTS[model.config.name]
    return {
        "x": torch.rand(N_IMAGES, 3, *extents, generator=generator),
        "x_t": torch.randn(N_IMAGES, 3, *extents, generator=generator),
        "z_t": torch.randn(N_IMAGES, 32, *grid_of(model.config, extents), generator=generator),
        "log_snr": torch.tensor([5.0, -3.0]),
        "quality": torch.tensor([0.0, 1.0]),
    }


def run_all(model: PaperModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    log_snr, quality = batch["log_snr"], batch["quality"]
    z = model.encoder(batch["x"], quality)
    z_hat = model.prior(batch["z_t"], log_snr, quality)
    x_hat = model.decoder(batch["x_t"], log_snr, batch["z_t"], quality)
    return z, z_hat, x_hat


@pytest.mark.parametrize("positions", [(1, 1, 1), (2, 3, 5), (1, 7, 1)])
def test_shapes_on_any_grid(model: PaperModel, positions: tuple[int, int, int]) -> None:
    quality = log_snr = torch.zeros(1)
    grid = positions[-model.config.n_axes :]
    extents = [side * step for side, step in zip(grid, model.config.patch, strict=True)]
    z = model.encoder(torch.rand(1, 3, *extents), quality)
    assert z.shape == (1, 32, *grid)
    assert model.prior(z, log_snr, quality).shape == z.shape
    assert model.decoder(torch.randn(1, 3, *extents), log_snr, z, quality).shape == (1, 3, *extents)


def test_extents_that_are_no_multiples_of_a_latent_position_are_refused() -> None:
    level = torch.zeros(1)
    for config, extents, message in (
        (PAPER_TINY, (48, 72), "multiples of 16x16, got 48x72"),
        (PAPER_TINY, (4, 48, 80), "multiples of 16x16, got 4x48x80"),
        (SMALL_CLIPS, (6, 16, 16), "multiples of 4x8x8, got 6x16x16"),
        (SMALL_CLIPS, (16, 16), "multiples of 4x8x8, got 16x16"),
    ):
        model, x = PaperModel(config), torch.rand(1, 3, *extents)
        with pytest.raises(ValueError, match=message):
            model.encoder(x, level)
        with pytest.raises(ValueError, match=message):
            model.decoder(x, level, torch.zeros(1, 32, *(1 for _ in extents)), level)


def test_patches_are_rearranged_as_by_pixel_shuffle() -> None:
    x = torch.randn(2, 12, 3, 5, generator=torch.Generator().manual_seed(6))
    assert torch.equal(from_patches(x, (2, 2)), torch.nn.functional.pixel_shuffle(x, 2))


def test_patches_of_clips_keep_their_place() -> None:
    channels = torch.arange(24).view(1, 24, 1, 1, 1).expand(1, 24, 2, 1, 1)
    patches = from_patches(channels, (2, 3, 2))  # two channels of 2 x 3 x 2 samples
    assert patches.shape == (1, 2, 4, 3, 2)
    assert torch.equal(patches[0, 1, 2:], torch.arange(12, 24).view(2, 3, 2))


def test_exact_v_gives_the_clean_picture() -> None:
    log_snr = torch.tensor([-8.0, 0.0, 8.0])
    a, s = alpha(log_snr)[:, None, None, None], sigma(log_snr)[:, None, None, None]
    x, eps = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(clean_from_v(a * x + s * eps, a * eps - s * x, log_snr), x)


def test_fresh_networks_return_alpha_times_their_input(model: PaperModel, batch: dict[str, Tensor]) -> None:
    level = per_picture(alpha(batch["log_snr"]), batch["x"])
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
    level = per_picture(alpha(log_snr), batch["x"])
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
    level = per_picture(batch["log_snr"], batch["x"])
    v = (alpha(level) * batch["z_t"] - reference[1]) / sigma(level)
    other_z_hat = active_model.prior(batch["z_t"], batch["log_snr"] - 1, batch["quality"])
    other_v = (alpha(level - 1) * batch["z_t"] - other_z_hat) / sigma(level - 1)
    assert (other_v - v).abs().max() > 1e-2
    x_hat = active_model.decoder(batch["x_t"], batch["log_snr"], -batch["z_t"], batch["quality"])
    assert (x_hat - reference[2]).abs().max() > 1e-2


def test_pictures_of_a_batch_are_independent(active_model: PaperModel, batch: dict[str, Tensor]) -> None:
    outputs_of_batch = run_all(active_model, batch)
    outputs_of_first = run_all(active_model, {name: value[:1] for name, value in batch.items()})
    for one, other in zip(outputs_of_batch, outputs_of_first, strict=True):
        torch.testing.assert_close(one[:1], other, rtol=1e-3, atol=1e-4)


def test_prior_depends_on_positions(active_model: PaperModel) -> None:
    """Without positions, swapping two tokens of the input would swap them in the output."""
    order, level = torch.tensor([2, 1, 0, 3]), torch.zeros(1)
    for axis in range(2, 2 + active_model.config.n_axes):
        grid = [4 if axis == other else 1 for other in range(2, 2 + active_model.config.n_axes)]
        z_t = torch.randn(1, 32, *grid, generator=torch.Generator().manual_seed(3))
        swapped = active_model.prior(z_t.index_select(axis, order), level, level)
        assert (swapped - active_model.prior(z_t, level, level).index_select(axis, order)).abs().max() > 1e-3


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


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_bfloat16_gradients_of_clips_are_close_to_float32(n_frames: int) -> None:
    torch.manual_seed(0)
    layer = CONVOLUTIONS[3](16, 16, 3, padding=1)
    x, slope = torch.randn(2, 4, 16, n_frames, 4, 5)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = (layer(x).float() * slope).sum()
        gradients.append(torch.autograd.grad(loss, layer.weight)[0])
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()


def test_frames_of_a_clip_see_each_other() -> None:
    """A frame changes the latents of other frames, and these the decoded frame."""
    torch.manual_seed(0)
    model = PaperModel(SMALL_CLIPS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        x = torch.rand(1, 3, 12, 8, 8)
        other = x.clone()
        other[:, :, :4] = 1 - other[:, :, :4]
        difference = (model.encoder(x, x) - model.encoder(other, x)).abs().amax((0, 1, 3, 4))
        assert (difference > 1e-3).all()
        z, level = model.encoder(x, x), torch.zeros(1)
        z_other = z.clone()
        z_other[:, :, 0] += 1
        decoded = [model.decoder(2 * x - 1, level, latent, x) for latent in (z, z_other)]
        assert ((decoded[0] - decoded[1]).abs().amax((0, 1, 3, 4)) > 1e-3).all()


@pytest.mark.parametrize(
    ("config", "extents", "grid", "millions", "kmac_per_px"),
    [
        (PAPER, (512, 512), (32, 32), [28.3, 154.4, 192.1], [519, 459, 1394]),
        (PAPER_VIDEO, (16, 128, 128), (4, 16, 16), [81.2, 154.4, 239.8], [954, 459, 2037]),
        (TINY_VIDEO, (16, 64, 64), (4, 8, 8), [0.5, 1.2, 2.0], [7.2, 4.1, 16.8]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_parameters_and_operations(
    config: PaperConfig,
    extents: tuple[int, ...],
    grid: tuple[int, ...],
    millions: list[float],
    kmac_per_px: list[float],
) -> None:
    """Counts in the docstring of `PaperModel`."""
    with torch.device("meta"):
        model = PaperModel(config)
        x, one = torch.empty(1, 3, *extents), torch.empty(1)
        z = model.encoder(x, one)
        operations = []
        for network, inputs in (
            (model.encoder, (x, one)),
            (model.prior, (z, one, one)),
            (model.decoder, (x, one, z, one)),
        ):
            with FlopCounterMode(display=False) as counter:
                network(*inputs)
            operations.append(counter.get_total_flops() / 2 / math.prod(extents) / 1e3)
    networks = (model.encoder, model.prior, model.decoder)
    counts = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
    assert z.shape == (1, config.latent_channels, *grid)
    assert counts == pytest.approx(millions, abs=0.1)
    assert operations == pytest.approx(kmac_per_px, rel=0.01)


def test_full_size_video_model_takes_a_step() -> None:
    """One step of gradient descent on a small clip, in all networks. The loss of the same noise falls."""
    torch.manual_seed(0)
    model = PaperModel(PAPER_VIDEO).train()
    x = torch.rand(1, 3, 4, 16, 16)

    def loss() -> Tensor:
        torch.manual_seed(1)  # dropout
        value, _ = ul_loss(model, x, torch.zeros(1), ObjectiveSettings(), torch.Generator().manual_seed(2))
        return value

    before = loss()
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 1e-4 * parameter.grad
            parameter.grad = None
        after = loss()
    assert after < before


def test_loss_falls_in_twenty_steps(model: PaperModel, batch: dict[str, Tensor]) -> None:
    """Train all networks on one batch with fixed noise. The prior's error is relative to the latent's power."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    generator = torch.Generator().manual_seed(4)
    quality, log_snr = batch["quality"], torch.tensor([0.0, -3.0])
    a, s = (per_picture(level, batch["x"]) for level in (alpha(log_snr), sigma(log_snr)))
    coarse = 2 * batch["x"][..., :3, :5] - 1
    x = torch.nn.functional.interpolate(coarse, size=batch["x"].shape[2:], mode="nearest")
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


@pytest.mark.parametrize("strides", [PICTURE_STRIDES, CLIP_STRIDES], ids=["pictures", "clips"])
def test_linear_paths_start_as_a_cosine_transform(strides: tuple[Stride, Stride, Stride, Stride]) -> None:
    """With as many channels as samples, the latent alone decodes to the picture."""
    config = replace(PAPER_TINY, strides=strides, linear_paths=True)
    config = replace(config, latent_channels=3 * math.prod(config.patch))
    model = PaperModel(config).eval()
    extents = [2 * side for side in config.patch]
    x = torch.rand(1, 3, *extents, generator=torch.Generator().manual_seed(7))
    z = model.encode_clean(x, torch.zeros(1))
    x_hat = model.denoise_picture(torch.zeros_like(x), torch.tensor([-60.0]), z, torch.zeros(1))
    torch.testing.assert_close((x_hat + 1) / 2, x, rtol=0, atol=1e-3)


def test_linear_paths_denoise_gaussian_residuals_exactly() -> None:
    """Around the linear estimate, a fresh decoder has the error of the posterior mean."""
    model = PaperModel(replace(SMALL_CLIPS, linear_paths=True)).eval()
    generator = torch.Generator().manual_seed(8)
    z = torch.randn(8, 32, 2, 2, 2, generator=generator)
    quality = torch.zeros(8)
    estimate = model.denoise_picture(torch.zeros(8, 3, 8, 16, 16), torch.full((8,), -60.0), z, quality)
    residual, noise = torch.randn(2, *estimate.shape, generator=generator)
    for log_snr in (-3.0, 0.0, 4.0):
        level = torch.tensor(log_snr)
        x = estimate + RESIDUAL_STD * residual
        x_hat = model.denoise_picture(alpha(level) * x + sigma(level) * noise, level.expand(8), z, quality)
        expected = 1 / (1 / RESIDUAL_STD**2 + level.exp())
        assert (x_hat - x).square().mean().item() == pytest.approx(expected.item(), rel=0.05)
