"""A run that starts from the weights of another model, of the same size or smaller."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stage1_runs import BATCH_SIZE

import ulcodec
from ulcodec.errors import ModelError, TrainingError
from ulcodec.export.pipeline import export
from ulcodec.model.build import build_model
from ulcodec.model.config import TINY, ModelConfig
from ulcodec.model.likelihood import predict_all_passes
from ulcodec.model.presets import PRESETS
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import save_model
from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.train.objective import codec_loss
from ulcodec.train.settings import ObjectiveSettings, Stage1Settings
from ulcodec.train.stage1 import train_stage1
from ulcodec.train.warm_start import DEPTHS, load_initial_weights, spread


def started(config: ModelConfig, directory: Path) -> UnifiedLatentModel:
    """Make a model of a configuration with the weights of a model directory."""
    model = build_model(config)
    assert isinstance(model, UnifiedLatentModel)
    load_initial_weights(model, str(directory), json.loads(json.dumps(config.to_json())))
    return model


def test_run_starts_from_the_weights_of_a_model(settings: Stage1Settings, tiny_model_dir: Path) -> None:
    settings = replace(settings, init=str(tiny_model_dir), n_images=BATCH_SIZE)
    train_stage1(settings)
    start, end = read_tensors(tiny_model_dir, "weights"), read_tensors(settings.out / "checkpoint", "model")
    changes = {name: (end[name] - weight.float()).abs().max() for name, weight in start.items()}
    assert all(change < 1e-3 for name, change in changes.items() if ".blocks." not in name)  # a unit may be revived
    assert sum(change >= 1e-3 for change in changes.values()) < 6
    with pytest.raises(TrainingError, match="holds another model configuration"):
        train_stage1(replace(settings, config="paper_tiny", objective="ul", out=settings.out.with_name("other")))


def test_run_keeps_the_model_that_it_began_with(settings: Stage1Settings, tiny_model_dir: Path, tmp_path: Path) -> None:
    first = shutil.copytree(tiny_model_dir, tmp_path / "first")
    start = replace(settings, init=str(first), n_images=BATCH_SIZE)
    train_stage1(start)
    shutil.rmtree(first)
    for same_run in (replace(start, n_images=2 * BATCH_SIZE), replace(start, n_images=3 * BATCH_SIZE, init=None)):
        train_stage1(same_run)
        assert read_document(start.out / "checkpoint", "config")["stage1"]["init"] == str(first)
    with pytest.raises(TrainingError, match="this run did not start from small; leave out --init"):
        train_stage1(replace(start, init="small"))


def test_run_starts_from_a_model_by_its_name(settings: Stage1Settings) -> None:
    with pytest.raises(TrainingError, match="small holds another model configuration"):
        train_stage1(replace(settings, init="small"))
    with pytest.raises(ModelError, match="no model 'unheard-of': it is neither an installed model"):
        train_stage1(replace(settings, init="unheard-of"))
    assert not settings.out.exists()


def test_deeper_model_starts_with_the_loss_of_the_smaller_one(
    settings: Stage1Settings, tiny_model: UnifiedLatentModel, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths: dict[str, Any] = {depth: getattr(TINY, depth) + 1 for depth in DEPTHS if depth != "prior_blocks"}
    deeper = replace(TINY, name="deeper", prior_blocks=tuple(n + 1 for n in TINY.prior_blocks), **depths)
    monkeypatch.setitem(PRESETS, "deeper", deeper)
    deeper_model = started(deeper, tiny_model_dir)
    x, quality = torch.rand(2, 3, 32, 48), torch.tensor([0.2, 0.7])
    losses = [
        codec_loss(model, x, quality, ObjectiveSettings(), torch.Generator().manual_seed(0))[0]
        for model in (tiny_model, deeper_model)
    ]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    train_stage1(replace(settings, config="deeper", init=str(tiny_model_dir), n_images=2 * BATCH_SIZE))
    trained = read_tensors(settings.out / "checkpoint", "model")
    new_names = [name for name in trained if ".expand.weight" in name and name not in tiny_model.state_dict()]
    assert len(new_names) == len(depths) + len(TINY.prior_blocks)
    assert all(trained[name].any() for name in new_names), "the new blocks learn"
    export(settings.out, settings.out / "model", sources=())
    with pytest.raises(TrainingError, match="holds another model configuration"):  # of more blocks
        train_stage1(replace(settings, init=str(settings.out / "model"), out=settings.out.with_name("other")))


def test_passes_start_with_the_network_that_all_passes_shared(
    shared_prior_model: UnifiedLatentModel, tmp_path: Path
) -> None:
    save_model(tmp_path / "shared", "shared", shared_prior_model, {})
    (n_blocks,) = shared_prior_model.config.prior_blocks
    model = started(replace(TINY, prior_blocks=(n_blocks, n_blocks, n_blocks, n_blocks + 1)), tmp_path / "shared")
    generator = torch.Generator().manual_seed(0)
    y, quality = 5 * torch.randn(2, TINY.latent_channels, 6, 8, generator=generator), torch.tensor([0.2, 0.7])
    features = torch.rand(2, TINY.hyper_width, 6, 8, generator=generator)
    predictions = [predict_all_passes(each, y, quality, features) for each in (shared_prior_model, model)]
    for part, expected in zip(*predictions, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)
    fewer = started(replace(TINY, prior_blocks=(1, 1, 2, 2)), tmp_path / "shared").prior.networks
    shared = shared_prior_model.prior.networks[0]
    assert [len(network.blocks) for network in fewer] == [1, 1, 2, 2]
    for network, number, source in ((0, 0, 0), (3, 0, 0), (3, 1, 1)):
        block = fewer[network].blocks[number]
        assert torch.equal(block.spatial.weight, shared.blocks[source].spatial.weight)


@pytest.mark.parametrize(
    ("available", "count", "expected"),
    [(10, 4, [0, 3, 6, 9]), (10, 10, list(range(10))), (3, 5, [0, 1, 2]), (5, 1, [0]), (4, 0, [])],
)
def test_blocks_are_spread_from_the_first_to_the_last(available: int, count: int, expected: list[int]) -> None:
    assert spread(available, count) == expected


@pytest.fixture
def wider(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """Configuration `tiny` with 16 more latent channels and two more quality anchors at the top, as a preset."""
    n_anchors = TINY.n_quality_anchors + 2
    ratio = TINY.lagrangian_high / TINY.lagrangian_low
    config = replace(
        TINY,
        name="wider",
        latent_channels=48,
        n_quality_anchors=n_anchors,
        lagrangian_high=TINY.lagrangian_low * ratio ** ((n_anchors - 1) / (TINY.n_quality_anchors - 1)),
    )
    monkeypatch.setitem(PRESETS, "wider", config)
    return config


def test_wider_model_starts_near_the_smaller_one(
    wider: ModelConfig, tiny_model: UnifiedLatentModel, tiny_model_dir: Path
) -> None:
    wider_model = started(wider, tiny_model_dir)
    x, quality = torch.rand(2, 3, 32, 48), torch.tensor([0.2, 1.0])
    same_quality = quality * (TINY.n_quality_anchors - 1) / (wider.n_quality_anchors - 1)
    tiny_y, _ = tiny_model.encoder(x, quality)
    y, unit_latent = wider_model.encoder(x, same_quality)
    assert torch.allclose(y[:, :32], tiny_y, rtol=1e-3, atol=1e-3), "the first channels are those of the smaller model"
    assert y[:, 32:].square().mean() > 0, "the new channels carry coefficients"
    _, tiny_x_hat = tiny_model.decoder.trunk(tiny_y, quality)
    _, x_hat_without = wider_model.decoder.trunk(y * (torch.arange(48) < 32)[:, None, None], same_quality)
    _, x_hat = wider_model.decoder.trunk(y, same_quality)
    assert torch.allclose(x_hat_without, tiny_x_hat, atol=1e-3)
    assert (x_hat - x).square().mean() < (tiny_x_hat - x).square().mean(), "the new channels reduce the error"
    assert torch.allclose(
        wider_model.hyper_encoder(unit_latent, same_quality),
        tiny_model.hyper_encoder(unit_latent[:, :32], quality),
        rtol=1e-3,
        atol=1e-3,
    )


def test_anchors_with_other_lagrangians_are_refused(wider: ModelConfig, tiny_model_dir: Path) -> None:
    with pytest.raises(TrainingError, match="holds another model configuration"):
        started(replace(wider, lagrangian_high=2 * wider.lagrangian_high), tiny_model_dir)


def test_wider_model_trains_and_codes(wider: ModelConfig, settings: Stage1Settings, tiny_model_dir: Path) -> None:
    train_stage1(replace(settings, config=wider.name, init=str(tiny_model_dir), n_images=2 * BATCH_SIZE))
    export(settings.out, settings.out / "model", sources=())
    codec = ulcodec.load(settings.out / "model", device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    assert codec.decode(codec.encode(picture, quality=100)).size == (56, 40)


def test_leaky_units_start_from_a_model_without_a_negative_slope(
    tiny_model: UnifiedLatentModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Configurations of older models have no field for the slope: they are ReLU."""
    older = shutil.copytree(tiny_model_dir, tmp_path / "older")
    config = json.loads((older / "config.json").read_text())
    assert config["model"].pop("negative_slope") == 0
    (older / "config.json").write_text(json.dumps(config))
    model = started(replace(TINY, negative_slope=0.01), older)
    block = model.encoder.blocks_8[0]
    with torch.no_grad():
        block.reduce.bias[:5] = -100.0
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([0.2, 0.7])
    loss, _ = codec_loss(model, x, quality, ObjectiveSettings(), torch.Generator())
    loss.backward()
    assert all(block.reduce.weight.grad[unit].any() for unit in range(5)), "units far below zero learn"
    assert block.activation(torch.tensor(-1.0)).item() == pytest.approx(-0.01)
