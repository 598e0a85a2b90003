"""A model in memory, on its device: what pictures and clips are coded with."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from ulcodec.coding.latents import LatentCoder
from ulcodec.errors import UnknownModelError
from ulcodec.format.sequence import may_predict
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.store.installed import installed_fingerprints


class ResidualCoder(NamedTuple):
    """What codes the latents of predicted frames: the float networks of their entropy model, and its integers."""

    entropy_model: EntropyModel
    coder: LatentCoder


@dataclass(frozen=True)
class LoadedModel:
    """Networks, entropy coder and device.

    `fingerprint_bytes`, `sequence_fingerprint_bytes`: the 4 bytes that name the model in the file of a picture, and in
    a sequence with predicted frames; `residuals`: what codes these.
    """

    name: str
    fingerprint_bytes: bytes
    sequence_fingerprint_bytes: bytes
    model: UnifiedLatentModel
    coder: LatentCoder
    residuals: ResidualCoder
    device: torch.device
    has_denoiser: bool

    @property
    def fingerprint(self) -> str:
        """Name of the model in a file: 8 hexadecimal digits."""
        return self.fingerprint_bytes.hex()

    def fingerprint_of_sequence(self, gop: int) -> bytes:
        """The 4 bytes that name the model in a sequence: those of pictures if every frame is intra, at a GOP of 1."""
        return self.sequence_fingerprint_bytes if may_predict(gop) else self.fingerprint_bytes

    def check_fingerprint(self, fingerprint: bytes, expected: bytes | None = None) -> None:
        """Raise UnknownModelError, which lists the installed models, for a file that another model made.

        `expected`: the fingerprint that the file should have, by default that of a picture.
        """
        expected = self.fingerprint_bytes if expected is None else expected
        if fingerprint == expected:
            return
        installed = ", ".join(f"{name} ({digits})" for digits, name in installed_fingerprints().items()) or "none"
        raise UnknownModelError(
            f"the file was made by model {fingerprint.hex()}; the loaded model is {self.name} ({expected.hex()}); "
            f"installed: {installed}. Install the ulcodec release that ships that model, or name its directory with "
            "--model"
        )
