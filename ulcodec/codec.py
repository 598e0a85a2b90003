"""The codec: pictures to `.ulc` files and back. `Codec.encode` and `Codec.decode` are the map of the whole project."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ulcodec.catalogue import installed_fingerprints
from ulcodec.container import MAX_PIXELS, N_SEGMENTS, Container, Header, Layout, remains
from ulcodec.errors import FormatError, ImageError, UnknownModelError
from ulcodec.images import ImagePixels, load_image
from ulcodec.latent_coding import DecodedLatent, LatentCoder, conceal_latent, decode_latent, encode_latent, hyper_grid
from ulcodec.model.integer import MEAN_GRID
from ulcodec.model.likelihood import chain_bits
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.precision import bfloat16_pays
from ulcodec.store import open_model

PATCH_PX = 16
ImageLike = Any
"""What `Codec.encode` takes: see there."""


class Recovery(NamedTuple):
    """A picture from a damaged file: uint8 [H, W, 3] or [H, W], how many of the 4 segments it shows, what was wrong."""

    pixels: np.ndarray
    n_segments: int
    damage: FormatError | None


@dataclass(frozen=True)
class Codec:
    """A model ready to encode and decode. Made by `ulcodec.load`."""

    name: str
    fingerprint_bytes: bytes
    model: UnifiedLatentModel
    coder: LatentCoder
    device: torch.device

    @property
    def fingerprint(self) -> str:
        """What names this model in a file: 8 hexadecimal digits."""
        return self.fingerprint_bytes.hex()

    def encode(self, image: ImageLike, *, quality: int = 50, max_pixels: int = MAX_PIXELS) -> bytes:
        """Encode a picture into the bytes of a `.ulc` file.

        `image`: a path, a PIL image, a NumPy array uint8 [H, W] or [H, W, 3], or a torch tensor [1 or 3, H, W], uint8
        or float in [0, 1]. `quality`: 0 (smallest file) to 100. Raises ImageError for what is not a picture, ValueError
        for a quality out of range.
        """
        if not isinstance(quality, Integral) or not 0 <= quality <= 100:
            raise ValueError(f"quality must be a whole number from 0 to 100, got {quality}")
        quality = int(quality)
        pixels = as_pixels(image, max_pixels)
        y, hyper = self.analyse(pixels, quality)
        segments, symbol_check = encode_latent(self.coder, y, hyper, quality)
        layout = Layout.GREY if pixels.ndim == 2 else Layout.RGB
        height, width = pixels.shape[:2]
        return Container(self.fingerprint_bytes, quality, width, height, layout, segments, symbol_check).to_bytes()

    def decode(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """Decode a `.ulc` file's bytes into a PIL image, mode RGB or L. Raises FormatError or UnknownModelError."""
        return Image.fromarray(self.decode_array(data, max_pixels=max_pixels))

    def decode_array(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Like `decode`, into a NumPy array uint8 [H, W, 3] or [H, W]."""
        container = self.open(data, max_pixels)
        return self.picture(self.decode_latents(container), container)

    def recover(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Recovery:
        """Decode a file; of a damaged one, what comes before the damage, the rest concealed by the prior's prediction.

        Raises FormatError if not even the first segment is sound, UnknownModelError as `decode`.
        """
        try:
            return Recovery(self.decode_array(data, max_pixels=max_pixels), N_SEGMENTS, None)
        except FormatError as error:
            damage = error
        header, segments = remains(data, max_pixels=max_pixels)
        self.check_fingerprint(header.fingerprint)
        decoded, n_segments = conceal_latent(self.coder, segments, header.quality, latent_grid(header))
        return Recovery(self.picture(decoded, header), n_segments, damage)

    def describe(self, data: bytes) -> dict[str, float]:
        """The prior's bound on a file's description length beside the file: `bound_bits`, `payload_bits`, `file_bits`.

        The bound is that of the float prior with continuous scales, on the symbols that the file holds.
        """
        container = self.open(data, MAX_PIXELS)
        grid = latent_grid(container)
        decoded = self.decode_latents(container)
        y = unflattened(decoded.y_16, grid)
        hyper = unflattened(decoded.hyper_16, hyper_grid(grid))
        with torch.inference_mode():
            bits = chain_bits(self.model, y, hyper, torch.tensor([container.quality / 100], device=self.device))
        return {
            "bound_bits": float(bits),
            "payload_bits": 8.0 * sum(map(len, container.segments)),
            "file_bits": 8.0 * len(data),
        }

    def decode_latents(self, container: Container) -> DecodedLatent:
        """Latent and hyper-latent of a file, exactly as the encoder restored them."""
        return decode_latent(
            self.coder, container.segments, container.symbol_check, container.quality, latent_grid(container)
        )

    def open(self, data: bytes, max_pixels: int) -> Container:
        """Parse a file and check that this model made it."""
        container = Container.from_bytes(data, max_pixels=max_pixels)
        self.check_fingerprint(container.fingerprint)
        return container

    def check_fingerprint(self, fingerprint: bytes) -> None:
        if fingerprint != self.fingerprint_bytes:
            raise unknown_model(fingerprint, f"the loaded model is {self.name} ({self.fingerprint})")

    def analyse(self, pixels: np.ndarray, quality: int) -> tuple[Tensor, Tensor]:
        """uint8 [H, W, 3] or [H, W] -> latent [C, h, w] and hyper-latent [C_hyper, h/4, w/4] in quantisation steps."""
        x = padded(to_tensor(pixels).to(self.device))
        q = torch.tensor([quality / 100], device=self.device)
        with torch.inference_mode(), self.autocast():
            y, z = self.model.encoder(x, q)
            hyper = self.model.hyper_encoder(z, q)
        return y[0], hyper[0]

    def synthesise(self, y_16: Tensor, quality: int, grid: tuple[int, int]) -> Tensor:
        """Latent in 1/16 steps [N, C] -> posterior-mean picture float32 [3, 16 h, 16 w], about [0, 1]."""
        y = unflattened(y_16, grid)
        q = torch.tensor([quality / 100], device=self.device)
        with torch.inference_mode(), self.autocast():
            mean: Tensor = self.model.decoder.trunk(y.contiguous(memory_format=torch.channels_last), q)[1]
        return mean[0]

    def picture(self, decoded: DecodedLatent, said: Container | Header) -> np.ndarray:
        """uint8 [H, W, 3] or [H, W] from a latent, with the size, layout and quality that the file says."""
        picture = self.synthesise(decoded.y_16, said.quality, latent_grid(said))
        return to_pixels(picture[:, : said.height, : said.width], said.layout)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16_pays(self.device))


def load(model: str | Path = "small", *, device: str = "auto") -> Codec:
    """Load a model: the name of a shipped one, or a directory made by `ulcodec train export`.

    `device`: "auto" (CUDA if there is one), "cpu", "cuda", ... Raises ModelError for a model that is missing or broken.
    """
    chosen_device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    stored = open_model(model)
    return Codec(
        name=stored.name,
        fingerprint_bytes=stored.fingerprint[:4],
        model=stored.networks(chosen_device),
        coder=stored.coder(chosen_device),
        device=chosen_device,
    )


def unknown_model(fingerprint: bytes, context: str) -> UnknownModelError:
    known = ", ".join(f"{name} ({digits})" for digits, name in installed_fingerprints().items()) or "none"
    return UnknownModelError(
        f"the file was made by model {fingerprint.hex()}; {context}; installed: {known}. "
        "Install the ulcodec release that ships that model, or name its directory with --model"
    )


def latent_grid(said: Container | Header) -> tuple[int, int]:
    return -(-said.height // PATCH_PX), -(-said.width // PATCH_PX)


def unflattened(latent_16: Tensor, grid: tuple[int, int]) -> Tensor:
    """Integers in 1/16 steps [N, C] -> float32 [1, C, h, w] in steps."""
    return (latent_16.double() / MEAN_GRID).float().T.reshape(1, -1, *grid)


def as_pixels(image: ImageLike, max_pixels: int) -> np.ndarray:
    """Any accepted picture as uint8 [H, W, 3] or [H, W]."""
    if isinstance(image, Tensor):
        image = tensor_pixels(image)
    if not isinstance(image, np.ndarray):
        return load_image(image, max_pixels=max_pixels).pixels
    pixels = ImagePixels(image).pixels
    if pixels.shape[0] * pixels.shape[1] > max_pixels:
        raise ImageError(f"the picture has more than {max_pixels} pixels")
    return pixels


def tensor_pixels(image: Tensor) -> np.ndarray:
    """torch [1 or 3, H, W], uint8 or float in [0, 1] -> uint8 [H, W] or [H, W, 3]."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ImageError(f"expected a tensor [1 or 3, H, W], got {list(image.shape)}")
    if image.is_floating_point():
        if not image.isfinite().all():
            raise ImageError("the tensor holds values that are not finite")
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    elif image.dtype != torch.uint8:
        raise ImageError(f"expected a uint8 or float tensor, got {image.dtype}")
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] or [H, W] -> float32 [1, 3, H, W] in [0, 1]."""
    x = torch.from_numpy(np.array(pixels, order="C"))
    x = x[:, :, None].expand(-1, -1, 3) if x.ndim == 2 else x
    return x.permute(2, 0, 1)[None].float() / 255


def to_pixels(picture: Tensor, layout: Layout) -> np.ndarray:
    """float32 [3, H, W] -> uint8 [H, W, 3], or their mean [H, W] for a grey picture."""
    if layout is Layout.GREY:
        picture = picture.mean(0, keepdim=True)
    pixels: np.ndarray = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels[:, :, 0] if layout is Layout.GREY else pixels


def padded(x: Tensor) -> Tensor:
    """Repeat the last row and column until both sides are multiples of `PATCH_PX`."""
    bottom, right = -x.shape[2] % PATCH_PX, -x.shape[3] % PATCH_PX
    x = F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
    return x.contiguous(memory_format=torch.channels_last)
