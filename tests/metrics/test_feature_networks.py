"""FID and FVD with small random networks, and where the weights of the real ones come from."""

import hashlib
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from random_networks import write_i3d, write_inception
from torch import nn

from ulcodec.errors import BenchmarkError, MissingPackageError
from ulcodec.metrics import feature_networks, frechet_distance
from ulcodec.metrics.feature_networks import FeatureNetwork, Weights, i3d, inception, stored_weights

N_FRAMES = 10


@pytest.fixture(scope="module")
def video_network(tmp_path_factory: pytest.TempPathFactory) -> FeatureNetwork:
    return i3d(write_i3d(tmp_path_factory.mktemp("networks")))


@pytest.fixture(scope="module")
def picture_network(tmp_path_factory: pytest.TempPathFactory) -> FeatureNetwork:
    return inception(write_inception(tmp_path_factory.mktemp("networks")))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Sixty textures of two sizes."""
    rng = np.random.default_rng(0)
    sides = [(40, 48), (44, 36)]
    noise = [rng.normal(rng.uniform(90, 160), 40, (*sides[n % 2], 3)).clip(0, 255).astype(np.uint8) for n in range(60)]
    return [blurred(picture, 1) for picture in noise]


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Twenty-four clips of a texture that moves: uint8 [10, 40, 40, 3]."""
    rng = np.random.default_rng(1)
    moving = []
    for _ in range(24):
        canvas = blurred(rng.normal(128, 60, (64, 64, 3)).clip(0, 255).astype(np.uint8), 1.5)
        down, right = rng.integers(3, size=2)
        moving.append(np.stack([canvas[t * down :, t * right :][:40, :40] for t in range(N_FRAMES)]))
    return moving


def blurred(pixels: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def noisy(samples: np.ndarray, std: float) -> np.ndarray:
    noise = np.random.default_rng(2).normal(0, std, samples.shape)
    return (samples + noise).round().clip(0, 255).astype(np.uint8)


def blurred_clip(clip: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([blurred(frame, radius) for frame in clip])


def distance(network: FeatureNetwork, first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return frechet_distance(network.statistics(first), network.statistics(second))


def assert_grows(distances: list[float]) -> None:
    assert distances[0] == pytest.approx(0, abs=1e-9)
    assert distances[1] > 1e-6
    assert all(after > 1.5 * before for before, after in pairwise(distances[1:])), distances


def test_fid_grows_with_blur_and_noise(picture_network: FeatureNetwork, pictures: list[np.ndarray]) -> None:
    for change, amounts in ((blurred, (0.0, 0.7, 1.2, 2.5)), (noisy, (0.0, 8.0, 16.0, 32.0))):
        changed = ([change(p, amount) for p in pictures] for amount in amounts)
        assert_grows([distance(picture_network, pictures, others) for others in changed])


def test_fvd_grows_with_blur_noise_and_frames_out_of_order(
    video_network: FeatureNetwork, clips: list[np.ndarray]
) -> None:
    for change, amounts in ((blurred_clip, (0.0, 0.7, 1.2, 2.5)), (noisy, (0.0, 8.0, 16.0, 32.0))):
        changed = ([change(clip, amount) for clip in clips] for amount in amounts)
        assert_grows([distance(video_network, clips, others) for others in changed])
    swapped = list(range(N_FRAMES))
    swapped[4], swapped[5] = 5, 4
    orders = (list(range(N_FRAMES)), swapped, np.random.default_rng(3).permutation(N_FRAMES).tolist())
    assert_grows([distance(video_network, clips, [clip[order] for clip in clips]) for order in orders])


def test_fvd_sees_what_fid_of_frames_does_not(
    video_network: FeatureNetwork, picture_network: FeatureNetwork, clips: list[np.ndarray]
) -> None:
    """The frames of shuffled clips are the same set of pictures."""
    shuffled = [np.random.default_rng(3).permutation(clip) for clip in clips]
    frames, shuffled_frames = ([frame for clip in kind for frame in clip] for kind in (clips, shuffled))
    assert distance(picture_network, frames, shuffled_frames) == pytest.approx(0, abs=1e-9)
    assert distance(video_network, clips, shuffled) > 1e-4


def test_batches_and_order_change_nothing(picture_network: FeatureNetwork, pictures: list[np.ndarray]) -> None:
    """Sorted by size, pictures go through the network in batches; in turns of two sizes, one by one."""
    alone = [picture_network.features(picture[None])[0] for picture in pictures]
    together = picture_network.statistics(sorted(pictures, key=lambda picture: picture.shape))
    assert together.n == len(pictures)
    assert together.mean == pytest.approx(np.mean(alone, 0), rel=1e-5)
    assert together.covariance == pytest.approx(np.cov(alone, rowvar=False), rel=1e-3, abs=1e-7)


def test_networks_are_named_by_file_and_hash(tmp_path: Path) -> None:
    path = write_inception(tmp_path)
    assert inception(path).name == f"random_inception.pt ({hashlib.sha256(path.read_bytes()).hexdigest()[:8]})"


def test_files_that_are_no_networks_are_refused(tmp_path: Path, picture_network: FeatureNetwork) -> None:
    (tmp_path / "page.pt").write_text("<html>")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    for load in (inception, i3d):
        for name in ("page.pt", "weights.pt"):
            with pytest.raises(BenchmarkError, match=f"{name} is not a TorchScript file"):
                load(tmp_path / name)
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "none.pt")
    with pytest.raises(
        BenchmarkError, match=r"random_inception.pt \(\w+\) cannot take samples \[1, 3, 2, 2\]: Runtime"
    ):
        picture_network.features(np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(BenchmarkError, match="expected at most 3 argument"):
        i3d(write_inception(tmp_path)).features(np.zeros((1, N_FRAMES, 20, 20, 3), np.uint8))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(1, 4), r"expected features \[2, D\], got \[1, 4\]"),
        (torch.zeros(2, 4, 1), r"got \[2, 4, 1\]"),
        ((torch.zeros(2, 4),), "got tuple"),
        (torch.full((2, 4), torch.nan), "finite"),
    ],
)
def test_invalid_features_are_refused(output: object, message: str) -> None:
    network = FeatureNetwork("stand-in", lambda _: output, torch.device("cpu"))
    with pytest.raises(BenchmarkError, match=f"stand-in: .*{message}"):
        network.statistics([np.zeros((3, 3, 3), np.uint8)] * 2)


# Weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of torch's hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "home" / "hub" / "checkpoints"


def published(file: Path, option: str = "--i3d") -> Weights:
    """Describe weights whose address is a file."""
    return Weights("weights.pt", file.as_uri(), hashlib.sha256(file.read_bytes()).hexdigest(), option)


def test_weights_are_downloaded_once(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_i3d(tmp_path)
    monkeypatch.setattr(feature_networks, "I3D_WEIGHTS", published(source))
    first = i3d()
    source.unlink()
    assert i3d().name == first.name
    assert first.name.startswith("weights.pt (")
    assert [file.name for file in hub.iterdir()] == ["weights.pt"]


def test_weights_of_another_hash_are_refused(tmp_path: Path, hub: Path) -> None:
    (tmp_path / "source").write_bytes(b"weights")
    weights = published(tmp_path / "source")
    with pytest.raises(BenchmarkError, match="the address gives another file") as caught:
        stored_weights(replace(weights, sha256="0" * 64))
    assert "name a TorchScript file with --i3d" in str(caught.value)
    assert list(hub.iterdir()) == []
    stored_weights(weights).write_bytes(b"damaged")
    with pytest.raises(BenchmarkError, match="is damaged or another file"):
        stored_weights(weights)


def test_weights_that_cannot_be_had_are_one_line(tmp_path: Path, hub: Path) -> None:
    (tmp_path / "source").write_bytes(b"weights")
    weights = published(tmp_path / "source")
    (tmp_path / "source").unlink()
    with pytest.raises(BenchmarkError) as caught:
        stored_weights(weights)
    assert "\n" not in str(caught.value)
    for words in (weights.url, str(hub / "weights.pt"), "--i3d", "No such file"):
        assert words in str(caught.value)
    assert not hub.exists()


def test_a_slow_download_ends(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"weights")
    monkeypatch.setattr(feature_networks, "DOWNLOAD_TIMEOUT_S", -1)
    with pytest.raises(BenchmarkError, match="the download takes longer"):
        stored_weights(published(tmp_path / "source"))
    assert list(hub.iterdir()) == []


def test_inception_of_torch_fidelity_gets_checked_weights_and_uint8_pictures(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the interface of torch-fidelity 0.3 and 0.4."""

    class Extractor(nn.Module):
        def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            assert features_list == ["2048"]
            assert Path(feature_extractor_weights_path) == hub / "weights.pt"

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            assert x.dtype == torch.uint8
            return (x.float().mean((2, 3)),)

    package, module = ModuleType("torch_fidelity"), ModuleType("feature_extractor_inceptionv3")
    package.__version__, module.FeatureExtractorInceptionV3 = "0.4.0", Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    (tmp_path / "source").write_bytes(b"weights")
    monkeypatch.setattr(feature_networks, "INCEPTION_WEIGHTS", published(tmp_path / "source", "--inception"))
    network = inception()
    assert network.name == "inception-v3-compat of torch-fidelity 0.4.0"
    assert network.features(np.full((2, 5, 7, 3), (10, 20, 30), np.uint8)).tolist() == [[10, 20, 30]] * 2


def test_missing_torch_fidelity_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MissingPackageError, match=r'pip install "ulcodec\[perceptual\]", or --inception PATH'):
        inception()
