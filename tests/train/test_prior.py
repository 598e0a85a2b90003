"""Training of a codec's prior on latents that are encoded once, and the exported model with it."""

import csv
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import ulcodec
from ulcodec.errors import TrainingError
from ulcodec.export.pipeline import export
from ulcodec.model.config import TINY
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model, save_model
from ulcodec.store.tensor_files import read_tensors
from ulcodec.train.data.pictures import PictureSet, pack
from ulcodec.train.latents import LatentSet
from ulcodec.train.objective import taught_loss
from ulcodec.train.prior import encode_views, oriented, train_prior
from ulcodec.train.settings import ObjectiveSettings, PriorSettings
from ulcodec.train.workers import Workers
from ulcodec_cli.main import app


@pytest.fixture(scope="module")
def settings(photographs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PriorSettings:
    return PriorSettings(
        data=(photographs,), out=tmp_path_factory.mktemp("prior") / "run", model=str(tiny_model_dir),
        n_images=640, batch_size=16, crop_px=64, views=3, learning_rate=2e-3, validation_share=0.2, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(settings: PriorSettings) -> Path:
    return train_prior(settings)


@pytest.fixture(scope="module")
def pictures() -> PictureSet:
    random = np.random.default_rng(0)
    return pack([random.integers(0, 256, (height, 140, 3)).astype(np.uint8) for height in (64, 100, 128)])


def test_validation_loss_falls(run: Path) -> None:
    with (run / "validation.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.985 * losses[0]


def test_export_changes_only_the_prior(run: Path, tiny_model_dir: Path, picture: np.ndarray, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "model")
    before, after = open_model(tiny_model_dir), open_model(tmp_path / "model")
    assert exported.n_pictures > 0
    assert after.fingerprint != before.fingerprint
    changed = {name.split(".")[0] for name, weight in before.weights.items() if not weight.equal(after.weights[name])}
    assert changed == {"hyper_decoder", "prior"}
    assert after.document["provenance"]["training"] == before.document["provenance"]["training"]
    assert [trained["progress"]["n_images"] for trained in after.document["provenance"]["prior"]] == [640]
    old, new = (ulcodec.load(directory, device="cpu") for directory in (tiny_model_dir, tmp_path / "model"))
    old_file, new_file = (codec.encode(picture, quality=60) for codec in (old, new))
    assert len(new_file) < len(old_file)
    difference = np.abs(new.decode_array(new_file).astype(int) - old.decode_array(old_file))
    assert difference.mean() < 4, "the decoder is the same"


def test_new_prior_starts_from_a_codec_with_one_network(
    settings: PriorSettings, shared_prior_model: UnifiedLatentModel, picture: np.ndarray, tmp_path: Path
) -> None:
    save_model(tmp_path / "shared", "shared", shared_prior_model, {})
    new = replace(settings, model=str(tmp_path / "shared"), out=tmp_path / "run", prior_blocks="1,2,2,3", n_images=32)
    export(train_prior(new), tmp_path / "model")
    stored = open_model(tmp_path / "model")
    assert stored.config == replace(TINY, prior_blocks=(1, 2, 2, 3))
    codec = ulcodec.load(tmp_path / "model", device="cpu")
    data = codec.encode(picture, quality=60)
    assert np.array_equal(codec.decode_array(data), ulcodec.load(tmp_path / "model", device="cpu").decode_array(data))


def test_a_prior_that_equals_its_teacher_has_nothing_to_learn(tiny_model: UnifiedLatentModel) -> None:
    settings, quality = ObjectiveSettings(continuous_share=0), torch.linspace(0, 1, 4)
    y, _ = tiny_model.encoder(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), quality)
    student = deepcopy(tiny_model)
    student.prior.requires_grad_(True)
    heads = [head for network in student.prior.networks for head in (network.mean_head, network.scale_head)]

    def gradient(share: float) -> Tensor:
        loss, _ = taught_loss(
            student, tiny_model, share, y.detach(), quality, settings, torch.Generator().manual_seed(1)
        )
        parts = torch.autograd.grad(loss, [head.weight for head in heads])
        return torch.cat([part.flatten() for part in parts])

    symbols, half, predictions = gradient(0), gradient(0.5), gradient(1)
    assert predictions.norm() < 0.05 * symbols.norm()
    torch.testing.assert_close(half, (symbols + predictions) / 2)


def test_new_prior_learns_from_its_teacher(
    settings: PriorSettings, shared_prior_model: UnifiedLatentModel, tmp_path: Path
) -> None:
    save_model(tmp_path / "shared", "shared", shared_prior_model, {})
    taught = replace(
        settings, model=str(tmp_path / "shared"), out=tmp_path / "run", prior_blocks="1,2,2,3", teacher_share=0.8
    )
    with (train_prior(taught) / "validation.csv").open() as file:
        rates = [float(row["chain_bpp"]) for row in csv.DictReader(file)]
    assert rates[-1] < rates[0]
    with pytest.raises(TrainingError, match="a codec's prior teaches a new one"):
        train_prior(replace(taught, prior_blocks=None))
    for share in (-0.1, 1.1, float("nan"), "half", None, ""):
        with pytest.raises(TrainingError, match="the teacher's share must be a number above 0 and at most 1, got"):
            train_prior(replace(taught, teacher_share=share))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ("1,2,2", "the codec has 4 reveal passes, got blocks for 3"),
        ("1,2,2,x", "must be numbers, as 4,6,8,10, got 1,2,2,x"),
        ("1,1,1,-1", "the number of blocks must be"),
        ("1,1,1,3000000000000000", "the number of blocks must be"),
        ("0,1,1,1", "the codec's prior has more blocks"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(settings: PriorSettings, tmp_path: Path, blocks: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train_prior(replace(settings, out=tmp_path / "run", prior_blocks=blocks))


def test_run_with_other_blocks_is_not_resumed(
    settings: PriorSettings, shared_prior_model: UnifiedLatentModel, tmp_path: Path
) -> None:
    save_model(tmp_path / "shared", "shared", shared_prior_model, {})
    new = replace(settings, model=str(tmp_path / "shared"), out=tmp_path / "run", prior_blocks="1,1,1,1", n_images=16)
    train_prior(new)
    for blocks in ("1,1,1,2", None):
        with pytest.raises(TrainingError, match="holds another model configuration: prior_blocks 1,1,1,1, not"):
            train_prior(replace(new, prior_blocks=blocks))


def test_run_resumes_with_the_same_weights(run: Path, settings: PriorSettings, tmp_path: Path) -> None:
    halfway = replace(settings, out=tmp_path / "run", n_images=160)
    train_prior(halfway)
    finished = CliRunner().invoke(app, ["train", "resume", str(halfway.out), "--images", str(settings.n_images)])
    assert finished.exit_code == 0, finished.output
    expected = read_tensors(run / "checkpoint", "ema")
    for name, weight in read_tensors(halfway.out / "checkpoint", "ema").items():
        assert torch.equal(weight, expected[name]), name


def test_latents_of_another_codec_are_refused(run: Path, settings: PriorSettings, tmp_path: Path) -> None:
    torch.manual_seed(5)
    save_model(tmp_path / "other", "other", UnifiedLatentModel(TINY), {})
    with pytest.raises(TrainingError, match="holds another model"):
        train_prior(replace(settings, model=str(tmp_path / "other"), n_images=700))
    with pytest.raises(TrainingError, match="choose another run directory"):
        train_prior(replace(settings, views=2, n_images=700))


def test_views_cover_all_qualities(tiny_model: UnifiedLatentModel, pictures: PictureSet) -> None:
    views = LatentSet.of(encode_views(tiny_model, pictures, 4, seed=0))
    assert len(views.qualities) == 12
    assert [int(12 * quality) for quality in views.qualities] == list(range(12))
    sizes = sorted(zip(views.latents.heights.tolist(), views.latents.widths.tolist(), strict=True))
    assert {tuple(sorted(size)) for size in sizes} == {(4, 8), (8, 8)}, "whole positions of the hyper-latent"
    y, quality = views.draw(6, 4, torch.Generator().manual_seed(0), Workers())
    assert y.shape == (6, TINY.latent_channels, 4, 4)
    assert [int(6 * q) for q in quality] == list(range(6))


def test_half_of_the_views_are_reduced(tiny_model: UnifiedLatentModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (192, 300, 3), dtype=np.uint8)
    pictures = pack([pixels, np.repeat(np.repeat(pixels[:160, :160], 2, axis=0), 2, axis=1)])
    plain, mixed = (
        LatentSet.of(encode_views(tiny_model, pictures, 40, 0, reduction, least_px=128)) for reduction in (1.0, 2.0)
    )
    assert torch.equal(plain.qualities, mixed.qualities)
    areas = mixed.latents.heights * mixed.latents.widths
    n_plain, shapes = 0, set()
    for index in range(80):
        latent, expected = mixed.latents.picture(index), plain.latents.picture(index)
        n_plain += latent.shape == expected.shape and torch.equal(latent, expected)
        shapes.add(tuple(sorted(latent.shape[:2])))
    assert 25 < n_plain < 55
    assert shapes >= {(12, 16), (8, 12), (20, 20), (16, 16), (12, 12)}
    assert min(min(shape) for shape in shapes) == 8, "no side is below 128 pixels"
    assert areas.max() == 400


def test_orientations_differ() -> None:
    x = torch.arange(6.0).view(1, 1, 2, 3)
    views = [oriented(x, orientation) for orientation in range(8)]
    assert len({tuple(view.flatten().tolist() + list(view.shape)) for view in views}) == 8
    assert torch.equal(views[0], x)


@pytest.mark.parametrize("changes", [{"n_images": None}, {"crop_px": 80}, {"views": 0}, {"optimizer": "sgd"}])
def test_invalid_settings_are_refused(settings: PriorSettings, changes: dict[str, Any]) -> None:
    with pytest.raises(TrainingError):
        train_prior(replace(settings, **changes))
