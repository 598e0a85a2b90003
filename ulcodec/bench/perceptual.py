"""Distances between pictures by networks: LPIPS and DISTS by torchmetrics, FID by `ulcodec.metrics`.

torchmetrics and torch-fidelity read their weights from the folder in `TORCH_HOME`, or download them there.
`AbsentError` reports a missing library or missing weights.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulcodec.bench.peers import AbsentError, Pixels
from ulcodec.errors import UlcError
from ulcodec.metrics.feature_networks import FeatureNetwork, inception
from ulcodec.metrics.frechet import FeatureStatistics, frechet_distance

NETWORKS = ("lpips", "dists")
"""Distances between two pictures: Zhang et al. 2018 with AlexNet, and Ding et al. 2020. 0 for equal pictures."""
INPUT_PX = 256


@cache
def network(name: str) -> Any:
    """Load a measure of torchmetrics, one of `NETWORKS`. Raises AbsentError."""
    try:
        if name == "lpips":
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            measure = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
        else:
            from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity

            measure = DeepImageStructureAndTextureSimilarity()
        probe = torch.zeros(1, 3, INPUT_PX, INPUT_PX)
        measure(probe, probe)
    except (ImportError, OSError, RuntimeError) as error:
        raise AbsentError(" ".join(str(error).split()) or type(error).__name__) from error
    return measure


@cache
def inception_network() -> FeatureNetwork:
    """Load the network of FID. Raises AbsentError."""
    try:
        return inception()
    except (UlcError, RuntimeError) as error:
        raise AbsentError(" ".join(str(error).split())) from error


def absent_networks() -> dict[str, str]:
    """The measures that are not available, with the reason."""
    absent = {}
    for name in (*NETWORKS, "fid"):
        try:
            network(name) if name in NETWORKS else inception_network()
        except AbsentError as error:
            absent[name] = str(error)
    return absent


def distance(name: str, original: Pixels, decoded: Pixels) -> float | None:
    """LPIPS or DISTS of two uint8 pictures [H, W, 3] or [H, W], lower is better; None if not available."""
    try:
        measure = network(name)
    except AbsentError:
        return None
    measure.reset()
    with torch.no_grad():
        return float(measure(batch(decoded).float() / 255, batch(original).float() / 255))


def fid_of_patches(pairs: Iterable[tuple[Pixels, Pixels]]) -> float | None:
    """FID of decoded pictures to their originals, on patches of 256x256 as in HiFiC (Mentzer et al. 2020).

    `pairs`: (original, decoded). FID falls with the number of patches: compare it only between codecs on the same
    pictures. None for fewer than two patches. Raises AbsentError.
    """
    network = inception_network()
    originals, others = FeatureStatistics(), FeatureStatistics()
    for pair in pairs:
        for pixels, statistics in zip(pair, (originals, others), strict=True):
            network.add(hific_patches(pixels), statistics)
    return frechet_distance(originals, others) if originals.n > 1 else None


def hific_patches(pixels: Pixels) -> list[Pixels]:
    """Cut non-overlapping patches, and those shifted by half a side: uint8 [256, 256, 3]."""
    picture = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
    height, width = picture.shape[:2]
    return [
        picture[top : top + INPUT_PX, left : left + INPUT_PX]
        for offset in (0, INPUT_PX // 2)
        for top in range(offset, height - INPUT_PX + 1, INPUT_PX)
        for left in range(offset, width - INPUT_PX + 1, INPUT_PX)
    ]


def batch(pixels: Pixels) -> Tensor:
    """uint8 [H, W, 3] or [H, W] -> uint8 [1, 3, H, W]."""
    picture = torch.from_numpy(pixels.copy())
    return (picture.expand(3, -1, -1) if picture.ndim == 2 else picture.permute(2, 0, 1))[None]
