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


def test_absent_networks_are_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    for module in ("lpip", "dists", "fid"):
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{module}", None)
    perceptual.network.cache_clear()
    reasons = perceptual.absent_networks()
    perceptual.network.cache_clear()
    assert set(reasons) == {"lpips", "dists", "fid"}
    assert all("torchmetrics" in reason for reason in reasons.values())


class StandInNetwork:
    """A replacement for a network, with the interface of torchmetrics: mean absolute difference of its inputs."""

    def __init__(self, **options: object) -> None:
        self.sums = {True: 0.0, False: 0.0}

    def reset(self) -> None:
        self.__init__()

    def __call__(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert preds.shape == target.shape
        assert preds.dtype == torch.float32
        assert preds.max() <= 1
        return (preds - target).abs().mean()

    def update(self, patches: torch.Tensor, *, real: bool) -> None:
        assert patches.dtype == torch.uint8
        assert patches.shape[1:] == (3, 256, 256)
        self.sums[real] += float(patches.float().mean())

    def compute(self) -> torch.Tensor:
        return torch.tensor(abs(self.sums[True] - self.sums[False]))


def test_report_holds_the_distances_of_the_networks(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real networks need weights that the tests do not download."""
    Image.effect_noise((400, 272), 40).convert("RGB").save(tmp_path / "noise.png")
    names = {"lpip": "LearnedPerceptualImagePatchSimilarity", "dists": "DeepImageStructureAndTextureSimilarity",
             "fid": "FrechetInceptionDistance"}  # fmt: skip
    for module in ("torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    for module, name in names.items():
        stand_in = ModuleType(module)
        setattr(stand_in, name, StandInNetwork)
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{module}", stand_in)
    perceptual.network.cache_clear()
    bench(tmp_path, tiny_model_dir, tmp_path / "report", "--perceptual", "--viewer", "0", "--codecs", "jpeg")
    perceptual.network.cache_clear()
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    pixels = np.asarray(Image.open(tmp_path / "noise.png"))
    for point in results["curves"]["jpeg"]:
        decoded = PEERS["jpeg"].decode(PEERS["jpeg"].encode(pixels, point["level"]), pixels.shape)
        mean_difference = np.abs(decoded / 255 - pixels / 255).mean()
        assert point["lpips"] == point["dists"] == pytest.approx(mean_difference, abs=1e-5)
        patch_means = [p[:256, :256].mean() for p in (pixels, decoded)]
        assert point["fid"] == pytest.approx(abs(patch_means[0] - patch_means[1]), abs=1e-3)


def test_patches_match_those_of_hific() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 600, 3), dtype=np.uint8)
    patches = perceptual.hific_patches(pixels).numpy().transpose(0, 2, 3, 1)
    corners = [(0, 0), (0, 256), (256, 0), (256, 256), (128, 128), (384, 128)]
    assert len(patches) == len(corners)
    for patch, (top, left) in zip(patches, corners, strict=True):
        assert np.array_equal(patch, pixels[top : top + 256, left : left + 256])
