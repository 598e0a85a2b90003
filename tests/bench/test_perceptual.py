"""Perceptual distances by the networks of torchmetrics, which the tests replace."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from bench_reports import bench
from PIL import Image

from ulcodec.bench import perceptual
from ulcodec.bench.peers import PEERS
from ulcodec.metrics.feature_networks import FeatureNetwork
from ulcodec.metrics.frechet import gaussian_distance


def test_absent_networks_are_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torchmetrics", "torchmetrics.image.lpip", "torchmetrics.image.dists", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, module, None)
    forget_networks()
    reasons = perceptual.absent_networks()
    forget_networks()
    assert set(reasons) == {"lpips", "dists", "fid"}
    assert all("torchmetrics" in reasons[name] for name in ("lpips", "dists"))
    assert "torch-fidelity" in reasons["fid"]


def forget_networks() -> None:
    perceptual.network.cache_clear()
    perceptual.inception_network.cache_clear()


class StandInNetwork:
    """A replacement for a network, with the interface of torchmetrics: mean absolute difference of its inputs."""

    def __init__(self, **options: object) -> None:
        pass

    def reset(self) -> None:
        pass

    def __call__(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert preds.shape == target.shape
        assert preds.dtype == torch.float32
        assert preds.max() <= 1
        return (preds - target).abs().mean()


def colours(patches: torch.Tensor) -> torch.Tensor:
    """A replacement for Inception: mean and deviation of each colour, uint8 [N, 3, 256, 256] -> [N, 6]."""
    assert patches.dtype == torch.uint8
    assert patches.shape[1:] == (3, 256, 256)
    samples = patches.double().flatten(2)
    return torch.cat([samples.mean(2), samples.std(2)], 1)


def test_report_holds_the_distances_of_the_networks(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real networks need weights that the tests do not download."""
    Image.effect_noise((512, 256), 40).convert("RGB").save(tmp_path / "noise.png")
    names = {"lpip": "LearnedPerceptualImagePatchSimilarity", "dists": "DeepImageStructureAndTextureSimilarity"}
    for module in ("torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    for module, name in names.items():
        stand_in = ModuleType(module)
        setattr(stand_in, name, StandInNetwork)
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{module}", stand_in)
    inception = FeatureNetwork("colours", colours, torch.device("cpu"))
    monkeypatch.setattr(perceptual, "inception", lambda: inception)
    forget_networks()
    bench(tmp_path, tiny_model_dir, tmp_path / "report", "--perceptual", "--viewer", "0", "--codecs", "jpeg")
    forget_networks()
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    pixels = np.asarray(Image.open(tmp_path / "noise.png"))
    for point in results["curves"]["jpeg"]:
        decoded = PEERS["jpeg"].decode(PEERS["jpeg"].encode(pixels, point["level"]), pixels.shape)
        mean_difference = np.abs(decoded / 255 - pixels / 255).mean()
        assert point["lpips"] == point["dists"] == pytest.approx(mean_difference, abs=1e-5)
        assert point["fid"] == pytest.approx(fid_of_colours(pixels, decoded), rel=1e-3, abs=1e-4)
    assert max(point["fid"] for point in results["curves"]["jpeg"]) > 1


def fid_of_colours(original: np.ndarray, decoded: np.ndarray) -> float:
    """FID by `colours` of the two patches of a picture of 512x256."""
    gaussians = []
    for pixels in (original, decoded):
        patches = torch.from_numpy(np.stack([pixels[:, :256], pixels[:, 256:]])).permute(0, 3, 1, 2)
        features = colours(patches).numpy()
        gaussians += [features.mean(0), np.cov(features, rowvar=False)]
    return gaussian_distance(*gaussians)


def test_fid_needs_two_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    inception = FeatureNetwork("colours", colours, torch.device("cpu"))
    monkeypatch.setattr(perceptual, "inception_network", lambda: inception)
    pixels = np.random.default_rng(0).integers(0, 256, (256, 512), dtype=np.uint8)
    assert perceptual.fid_of_patches([(pixels[:, :256], pixels[:, 256:])]) is None
    assert perceptual.fid_of_patches([(pixels, pixels)]) == pytest.approx(0, abs=1e-6)
    assert perceptual.fid_of_patches([(pixels, pixels // 2)]) > 1000


def test_patches_match_those_of_hific() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 600, 3), dtype=np.uint8)
    patches = perceptual.hific_patches(pixels)
    corners = [(0, 0), (0, 256), (256, 0), (256, 256), (128, 128), (384, 128)]
    assert len(patches) == len(corners)
    for patch, (top, left) in zip(patches, corners, strict=True):
        assert np.array_equal(patch, pixels[top : top + 256, left : left + 256])
