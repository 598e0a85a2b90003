"""A model in memory, on its device: what pictures and clips are coded with."""

from dataclasses import dataclass

import torch

from ulcodec.coding.latents import LatentCoder
from ulcodec.errors import UnknownModelError
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.installed import installed_fingerprints


@dataclass(frozen=True)
class LoadedModel:
    """Networks, entropy coder and device. `fingerprint_bytes`: the 4 bytes that name the model in a file."""

    name: str
    fingerprint_bytes: bytes
    model: UnifiedLatentModel
    coder: LatentCoder
    device: torch.device
    has_denoiser: bool

    @property
    def fingerprint(self) -> str:
        """Name of the model in a file: 8 hexadecimal digits."""
        return self.fingerprint_bytes.hex()

    def check_fingerprint(self, fingerprint: bytes) -> None:
        """Raise UnknownModelError, which lists the installed models, for a file that another model made."""
        if fingerprint == self.fingerprint_bytes:
            return
        installed = ", ".join(f"{name} ({digits})" for digits, name in installed_fingerprints().items()) or "none"
        raise UnknownModelError(
            f"the file was made by model {fingerprint.hex()}; the loaded model is {self.name} ({self.fingerprint}); "
            f"installed: {installed}. Install the ulcodec release that ships that model, or name its directory with "
            "--model"
        )
