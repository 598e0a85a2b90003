"""Load models into codecs."""

from pathlib import Path

import torch

from ulcodec.codec.image import Codec
from ulcodec.codec.torch_networks import TorchNetworks
from ulcodec.devices import choose_device
from ulcodec.store.model_directory import StoredModel, open_model


def load(model: str | Path = "small", *, device: str = "auto") -> Codec:
    """Load a model: the name of a shipped one, or a directory made by `ulcodec train export`.

    `device`: "auto" (CUDA if there is one), "cpu", "cuda", ... Raises ModelError for a missing or broken model,
    DeviceError for an unavailable device.
    """
    chosen_device = choose_device(device)
    # In inference mode, refinement, which takes gradients, could not use the weights.
    with torch.inference_mode(False), torch.device("cpu"):
        return codec_of(open_model(model), chosen_device)


def codec_of(stored: StoredModel, device: torch.device) -> Codec:
    """Make a codec of a model that has been read."""
    model, coder, video = stored.networks(device), stored.coder(device), stored.video
    return Codec(
        name=stored.name,
        fingerprint_bytes=stored.fingerprint[:4],
        sequence_fingerprint_bytes=stored.sequence_fingerprint[:4],
        networks=TorchNetworks(model, model if video is None else video.networks(device), device),
        coder=coder,
        residual_coder=coder if video is None else video.coder(device),
        has_denoiser=stored.denoiser is not None,
    )
