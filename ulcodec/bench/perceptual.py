"""Distances between pictures by networks: LPIPS, DISTS and FID, by torchmetrics.

torchmetrics reads their weights from the folder in `TORCH_HOME`, or downloads them there. `AbsentError` reports a
missing library or missing weights.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ulcodec.bench.peers import AbsentError, Pixels

NETWORKS = ("lpips", "dists")
"""Distances between two pictures: Zhang et al. 2018 with AlexNet, and Ding et al. 2020. 0 for equal pictures."""
INPUT_PX = 256


@cache
def network(name: str) -> Any:
    """Load a measure of torchmetrics: one of `NETWORKS`, or "fid". Raises AbsentError."""
    try:
        if name == "lpips":
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            measure = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
        elif name == "dists":
            from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity

            measure = DeepImageStructureAndTextureSimilarity()
        else:
            from torchmetrics.image.fid import FrechetInceptionDistance

            return FrechetInceptionDistance(feature=2048)
        probe = torch.zeros(1, 3, INPUT_PX, INPUT_PX)
        measure(probe, probe)
    except (ImportError, OSError, RuntimeError) as error:
        raise AbsentError(" ".join(str(error).split()) or type(error).__name__) from error
    return measure


def absent_networks() -> dict[str, str]:
    """The measures that are not available, with the reason."""
    absent = {}
    for name in (*NETWORKS, "fid"):
        try:
            network(name)
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


def frechet_distance(pairs: Iterable[tuple[Pixels, Pixels]]) -> float:
    """FID of decoded pictures to their originals, on patches of 256x256 as in HiFiC (Mentzer et al. 2020).

    `pairs`: (original, decoded). FID falls with the number of patches: compare it only between codecs on the same
    pictures. Raises AbsentError.
    """
    measure = network("fid")
    measure.reset()
    with torch.no_grad():
        for original, decoded in pairs:
            measure.update(hific_patches(original), real=True)
            measure.update(hific_patches(decoded), real=False)
        return float(measure.compute())


def hific_patches(pixels: Pixels) -> Tensor:
    """Cut non-overlapping patches, and those shifted by half a side: uint8 [N, 3, 256, 256]."""
    picture = batch(pixels)[0]
    patches = []
    for offset in (0, INPUT_PX // 2):
        shifted = picture[:, offset:, offset:]
        rows, columns = shifted.shape[1] // INPUT_PX, shifted.shape[2] // INPUT_PX
        grid = shifted[:, : rows * INPUT_PX, : columns * INPUT_PX].reshape(3, rows, INPUT_PX, columns, INPUT_PX)
        patches.append(grid.permute(1, 3, 0, 2, 4).reshape(-1, 3, INPUT_PX, INPUT_PX))
    return torch.cat(patches)


def batch(pixels: Pixels) -> Tensor:
    """uint8 [H, W, 3] or [H, W] -> uint8 [1, 3, H, W]."""
    picture = torch.from_numpy(pixels.copy())
    return (picture.expand(3, -1, -1) if picture.ndim == 2 else picture.permute(2, 0, 1))[None]
