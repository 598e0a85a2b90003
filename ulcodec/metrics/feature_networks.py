"""Networks whose features FID and FVD compare: Inception for pictures, I3D for clips.

Their weights are not part of ulcodec. They come from a file, from torch's hub folder (below `TORCH_HOME`), or are
downloaded there. Files in the hub folder must have the known SHA-256. A TorchScript file that a caller names is code,
and is run as it is: the caller must trust it.
"""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.errors import BenchmarkError, MissingPackageError
from ulcodec.io.files import AtomicFile, sha256_of
from ulcodec.metrics.frechet import FeatureStatistics

Pixels = NDArray[np.uint8]

CONNECTION_TIMEOUT_S, DOWNLOAD_TIMEOUT_S = 30, 600
PIECE_BYTES = 1 << 20
BATCH, BATCH_BYTES = 32, 1 << 25
"""Pictures or clips that a network takes at once: at most so many, and so many bytes of samples."""
I3D_MIN_FRAMES = 9
"""I3D halves time three times, rounding up, and then averages pairs."""


@dataclass(frozen=True)
class Weights:
    """A file of weights: name in torch's hub folder, address, SHA-256, and the option for another file."""

    file_name: str
    url: str
    sha256: str
    option: str


INCEPTION_WEIGHTS = Weights(
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "--inception",
)
"""Inception of the first FID, converted from TensorFlow by torch-fidelity."""
I3D_WEIGHTS = Weights(
    "i3d_torchscript.pt",
    "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    "--i3d",
)
"""I3D of the first FVD, trained on Kinetics-400, converted from TensorFlow by the authors of StyleGAN-V."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A network from pictures or clips to feature vectors.

    `name`: network and version for reports. `compute`: uint8 [B, 3, H, W], or [B, 3, T, H, W] -> [B, D].
    """

    name: str
    compute: Callable[[Tensor], Tensor]
    device: torch.device

    def features(self, items: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the features of uint8 pictures [B, H, W, 3] or clips [B, T, H, W, 3]: float32 [B, D].

        Raises BenchmarkError if the network does not accept them, or returns something else.
        """
        batch = torch.from_numpy(np.ascontiguousarray(np.moveaxis(items, -1, 1))).to(self.device)
        try:
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                features = self.compute(batch)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            reason = str(error).strip().rpartition("\n")[2]  # TorchScript begins with a traceback
            raise BenchmarkError(f"{self.name} cannot take samples {list(batch.shape)}: {reason}") from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(items):
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise BenchmarkError(f"{self.name}: expected features [{len(items)}, D], got {got}")
        return features.float().cpu().numpy()

    def statistics(self, items: Iterable[Pixels]) -> FeatureStatistics:
        """Compute the statistics of the features of uint8 pictures [H, W, 3] or clips [T, H, W, 3]. Errors as `add`."""
        statistics = FeatureStatistics()
        self.add(items, statistics)
        return statistics

    def add(self, items: Iterable[Pixels], statistics: FeatureStatistics) -> None:
        """Add the features of pictures or clips, which may differ in size, to statistics.

        Neighbours of one size go through the network together. Raises BenchmarkError as `features`, and for features
        that are not finite.
        """
        for shape, group in groupby(items, lambda item: item.shape):
            count = min(BATCH, max(1, BATCH_BYTES // int(np.prod(shape))))
            while batch := list(islice(group, count)):
                try:
                    statistics.add(self.features(np.stack(batch)))
                except ValueError as error:
                    raise BenchmarkError(f"{self.name}: {error}") from error


def inception(path: Path | None = None, device: torch.device | None = None) -> FeatureNetwork:
    """Load Inception with 2048 features, which resizes pictures to 299x299 itself.

    By default it is the one of torch-fidelity, with the resizing of TensorFlow 1. `path`: a TorchScript file in its
    place, called with uint8 [B, 3, H, W] and `return_features=True`, as StyleGAN3's. Raises MissingPackageError,
    BenchmarkError if there are no weights, and OSError.
    """
    device = device or torch.device("cpu")
    if path is not None:
        network = scripted(path, device)
        return FeatureNetwork(name_of(path), lambda x: network(x, return_features=True), device)
    try:
        import torch_fidelity
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise MissingPackageError(
            f'FID needs torch-fidelity: pip install "ulcodec[perceptual]", or --inception PATH ({error})'
        ) from error
    name, layer = "inception-v3-compat", "2048"
    extractor = FeatureExtractorInceptionV3(name, [layer], str(stored_weights(INCEPTION_WEIGHTS))).to(device)
    return FeatureNetwork(f"{name} of torch-fidelity {torch_fidelity.__version__}", lambda x: extractor(x)[0], device)


def i3d(path: Path | None = None, device: torch.device | None = None) -> FeatureNetwork:
    """Load I3D with 400 features, the logits, which resizes frames to 224x224 itself.

    `path`: another TorchScript file. It is called with float [B, 3, T, H, W] in 0..255 and `rescale=True, resize=True,
    return_features=True`. Raises BenchmarkError if there are no weights, and OSError.
    """
    device = device or torch.device("cpu")
    path = path or stored_weights(I3D_WEIGHTS)
    network = scripted(path, device)

    def compute(x: Tensor) -> Tensor:
        features: Tensor = network(x.float(), rescale=True, resize=True, return_features=True)
        return features

    return FeatureNetwork(name_of(path), compute, device)


def scripted(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """Load a TorchScript file. Raises BenchmarkError for another file, and OSError."""
    with path.open("rb") as file, warnings.catch_warnings():
        # TorchScript is deprecated, but it is the form in which these networks are published.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            network: torch.jit.ScriptModule = torch.jit.load(file, map_location=device)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise BenchmarkError(f"{path} is not a TorchScript file") from error
    return network.eval()


def name_of(path: Path) -> str:
    """Name of a network in reports: its file, and the beginning of the file's SHA-256."""
    return f"{path.name} ({sha256_of(path)[:8]})"


def stored_weights(weights: Weights) -> Path:
    """Find weights in torch's hub folder, or download them there. Raises BenchmarkError."""
    path = Path(torch.hub.get_dir(), "checkpoints", weights.file_name)
    try:
        if not path.is_file():
            download(weights, path)
        elif (sha256 := sha256_of(path)) != weights.sha256:
            raise BenchmarkError(f"{path} is damaged or another file: SHA-256 {sha256}, expected {weights.sha256}")
    except OSError as error:
        raise BenchmarkError(
            f"cannot get the weights {weights.file_name}: {error}; download {weights.url} to {path}, "
            f"or name a TorchScript file with {weights.option}"
        ) from error
    return path


def download(weights: Weights, path: Path) -> None:
    """Download weights to a path, complete and checked, or not at all. Raises OSError."""
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    with urlopen(Request(weights.url, headers={"User-Agent": "ulcodec"}), timeout=CONNECTION_TIMEOUT_S) as answer:
        path.parent.mkdir(parents=True, exist_ok=True)
        output, digest = AtomicFile(path), hashlib.sha256()
        try:
            while piece := answer.read(PIECE_BYTES):
                output.file.write(piece)
                digest.update(piece)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the download takes longer than {DOWNLOAD_TIMEOUT_S} s")
            if digest.hexdigest() != weights.sha256:
                raise OSError(f"the address gives another file, with SHA-256 {digest.hexdigest()}")
            output.commit()
        except BaseException:
            output.abort()
            raise
