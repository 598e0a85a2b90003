"""A model in memory: what pictures and clips are coded with."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ulcodec.codec.effort import REFINER_EFFORT
from ulcodec.codec.networks import Networks
from ulcodec.coding.latents import LatentCoder
from ulcodec.errors import ModelError, UnknownModelError
from ulcodec.format.sequence import may_predict
from ulcodec.store.installed import advice

if TYPE_CHECKING:
    import torch

    from ulcodec.codec.torch_networks import TorchNetworks
    from ulcodec.model.unified import UnifiedLatentModel


@dataclass(frozen=True)
class LoadedModel:
    """Networks and entropy coders.

    `fingerprint_bytes`, `sequence_fingerprint_bytes`: the 4 bytes that name the model in the file of a picture, and in
    a sequence with predicted frames; `residual_coder`: codes the latents of these.
    """

    name: str
    fingerprint_bytes: bytes
    sequence_fingerprint_bytes: bytes
    networks: Networks
    coder: LatentCoder
    residual_coder: LatentCoder
    has_denoiser: bool

    def torch_networks(self, purpose: str) -> "TorchNetworks":
        """The networks in torch. Raises ModelError, which names the purpose, for a model of another backend."""
        if not hasattr(self.networks, "residual_model"):
            raise ModelError(f'{purpose} needs torch: pip install "ulcodec[torch]", and take that backend')
        networks: TorchNetworks = self.networks  # type: ignore[assignment]
        return networks

    @property
    def model(self) -> "UnifiedLatentModel":
        """The networks of pictures in torch. Raises ModelError as `torch_networks`."""
        return self.torch_networks("access to the networks").model

    @property
    def device(self) -> "torch.device":
        """The device of the networks in torch. Raises ModelError as `torch_networks`."""
        return self.torch_networks("access to the device").device

    @property
    def has_refiner(self) -> bool:
        return self.networks.refiner_halo is not None

    @property
    def default_effort(self) -> int:
        """Effort at which pictures are encoded by default: that of the refiner, 1 without one."""
        return REFINER_EFFORT if self.has_refiner else 1

    @property
    def fingerprint(self) -> str:
        """Name of the model in a file: 8 hexadecimal digits."""
        return self.fingerprint_bytes.hex()

    def fingerprint_of_sequence(self, gop: int) -> bytes:
        """The 4 bytes that name the model in a sequence: those of pictures if every frame is intra, at a GOP of 1."""
        return self.sequence_fingerprint_bytes if may_predict(gop) else self.fingerprint_bytes

    def as_maker_of(self, fingerprint: bytes) -> "LoadedModel":
        """Return the model as it was when it made a sequence: without an entropy model of predicted frames, if need be.

        Such a model coded all frames as pictures. Raises UnknownModelError as `check_fingerprint`.
        """
        if fingerprint == self.fingerprint_bytes:
            return replace(self, residual_coder=self.coder)
        self.check_fingerprint(fingerprint, self.sequence_fingerprint_bytes)
        return self

    def check_fingerprint(self, fingerprint: bytes, expected: bytes | None = None) -> None:
        """Raise UnknownModelError, which says which model to load or to install, for a file that another model made.

        `expected`: the fingerprint that the file should have, by default that of a picture.
        """
        expected = self.fingerprint_bytes if expected is None else expected
        if fingerprint != expected:
            raise UnknownModelError(
                f"the file was made by model {fingerprint.hex()}; the loaded model is {self.name} ({expected.hex()}). "
                f"{advice(fingerprint)}"
            )
