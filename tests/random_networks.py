"""Small random networks: a refiner, and TorchScript files with the calling conventions of Inception and I3D."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.model.config import ModelConfig
from ulcodec.model.refiner import Refiner
from ulcodec.model.refiner_config import RefinerConfig
from ulcodec.store.model_directory import StoredRefiner


class RandomI3D(nn.Module):
    """32 features of space and time. It accepts only float samples in 0..255, and the arguments that I3D needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(3, 24, 3, stride=2), nn.Conv3d(24, 32, 3, stride=2)

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:  # [B, 3, T, H, W] -> [B, 32]
        assert rescale
        assert resize
        assert return_features
        assert x.is_floating_point()
        assert x.max() > 2
        x = F.interpolate(x, [x.shape[2], 32, 32], mode="trilinear", align_corners=False)
        x = F.relu(self.first(x / 127.5 - 1))
        return F.relu(self.second(x)).mean(dim=[2, 3, 4])


class RandomInception(nn.Module):
    """24 features of uint8 pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 24, 3, stride=2)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:  # [B, 3, H, W] -> [B, 24]
        assert return_features
        assert x.dtype == torch.uint8
        x = F.relu(self.first(x.float() / 127.5 - 1))
        return F.relu(self.second(x)).mean(dim=[2, 3])


def write_scripted(path: Path, network: nn.Module) -> Path:
    """Write a network as TorchScript, with seeded weights."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(0, 1 / parameter[0].numel() ** 0.5, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network.eval()).save(str(path))
    return path


def write_i3d(folder: Path) -> Path:
    return write_scripted(folder / "random_i3d.pt", RandomI3D())


def write_inception(folder: Path) -> Path:
    return write_scripted(folder / "random_inception.pt", RandomInception())


def random_refiner(config: ModelConfig, width: int = 16, n_blocks: int = 2) -> StoredRefiner:
    """Make a refiner with random weights in all layers."""
    shape = RefinerConfig(width, n_blocks)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        refiner = Refiner(config, shape)
        with torch.no_grad():
            for parameter in refiner.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.05)
    return StoredRefiner(shape, {name: weight.half() for name, weight in refiner.state_dict().items()})
