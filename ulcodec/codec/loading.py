"""Load models into codecs, for either backend."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ulcodec.backends import BACKENDS, Backend, installed_backend
from ulcodec.codec.graph_networks import GraphNetworks
from ulcodec.codec.image import Codec
from ulcodec.coding.latents import LatentCoder
from ulcodec.errors import DeviceError, MissingPackageError
from ulcodec.graphs.graph_files import Graphs, is_deployment
from ulcodec.graphs.graph_prior import GraphPrior
from ulcodec.info import model_for
from ulcodec.store.installed import model_directory
from ulcodec.store.stored_integers import open_integers

if TYPE_CHECKING:
    import torch

    from ulcodec.store.model_directory import StoredModel


def load(
    model: str | Path = "small", *, device: str = "auto", backend: Backend = "auto", n_threads: int | None = None
) -> Codec:
    """Load a model: the name or the fingerprint of an installed one (`ulcodec model list`), or a model directory.

    `device`: "auto" (CUDA if there is one), "cpu", "cuda", ... `backend`: "torch", "onnxruntime" (CPU; the model must
    have ONNX graphs), or "auto" (see `default_backend`). `n_threads`: CPU threads of onnxruntime; torch has its own
    setting. Raises ModelError for a missing or broken model, MissingPackageError, DeviceError for an unavailable
    device, ValueError for an unknown backend, or for less than one thread.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if n_threads is not None and n_threads < 1:
        raise ValueError(f"n_threads must be at least 1, got {n_threads}")
    if backend == "auto":
        backend = default_backend(model)
    if backend == "onnxruntime":
        if device not in ("auto", "cpu"):
            raise DeviceError(f'onnxruntime runs on the CPU, not on {device!r}, which needs "ulcodec[torch]"')
        return graph_codec(model, n_threads)

    try:
        import torch
    except ImportError as error:
        raise MissingPackageError('the backend torch needs a package: pip install "ulcodec[torch]"') from error

    from ulcodec.devices import choose_device
    from ulcodec.store.model_directory import open_model

    chosen_device = choose_device(device)
    # In inference mode, refinement, which takes gradients, could not use the weights.
    with torch.inference_mode(False), torch.device("cpu"):
        return codec_of(open_model(model), chosen_device)


def load_for(
    source: bytes | str | Path, *, device: str = "auto", backend: Backend = "auto", n_threads: int | None = None
) -> Codec:
    """Load the model that made a `.ulc` file, its bytes or its path: `load_for(data).decode(data)`.

    Options are those of `load`. Raises as `ulcodec.info.model_for` and as `load`.
    """
    return load(model_for(source).directory, device=device, backend=backend, n_threads=n_threads)


@lru_cache(maxsize=8)
def load_once(model: str | Path, device: str) -> Codec:
    """Load a model as `load` does, once in this process."""
    return load(model, device=device)


def default_backend(model: str | Path) -> Backend:
    """Return torch where it is installed, but onnxruntime for a deployment, which torch cannot load.

    Raises ModelError for a missing or broken model, MissingPackageError without any backend.
    """
    return "onnxruntime" if is_deployment(model_directory(model)) else installed_backend()


def codec_of(stored: "StoredModel", device: "torch.device") -> Codec:
    """Make a codec of a model that has been read, with torch."""
    from ulcodec.codec.torch_networks import TorchNetworks

    model, coder, video = stored.networks(device), stored.coder(device), stored.video
    return Codec(
        name=stored.name,
        fingerprint_bytes=stored.fingerprint[:4],
        sequence_fingerprint_bytes=stored.sequence_fingerprint[:4],
        networks=TorchNetworks(
            model, model if video is None else video.networks(device), device, stored.refiner_network(device)
        ),
        coder=coder,
        residual_coder=coder if video is None else video.coder(device),
        has_denoiser=stored.denoiser is not None,
    )


def graph_codec(model: str | Path, n_threads: int | None = None) -> Codec:
    """Load the ONNX graphs of a model. Raises as `load`."""
    stored = open_integers(model)
    graphs, pictures, video = Graphs(stored.directory, n_threads), stored.pictures, stored.video
    coder = LatentCoder(GraphPrior(pictures.config, pictures.coding, graphs), pictures.tables)
    residual_coder = coder
    if video is not None:
        residual_coder = LatentCoder(GraphPrior(video.config, video.coding, graphs, "video_"), video.tables)
    return Codec(
        name=stored.name,
        fingerprint_bytes=pictures.fingerprint[:4],
        sequence_fingerprint_bytes=stored.sequence_fingerprint[:4],
        networks=GraphNetworks(pictures.config, (video or pictures).config, graphs, stored.refiner),
        coder=coder,
        residual_coder=residual_coder,
        has_denoiser=False,
    )
