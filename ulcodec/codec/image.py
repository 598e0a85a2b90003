"""The codec: pictures to `.ulc` files and back. `Codec.encode` and `Codec.decode` are the map of the whole project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ulcodec.codec.pixels import (
    grid_of,
    in_latents,
    in_pixels,
    padded,
    quality_tensor,
    to_pixels,
    to_tensor,
    unflattened,
    without_hidden,
)
from ulcodec.codec.realism import Realism
from ulcodec.codec.refinement import EFFORT_STEPS, Refined, refine
from ulcodec.coding.latents import (
    DecodedLatent,
    EncodedLatent,
    LatentCoder,
    conceal_latent,
    decode_cut_latent,
    decode_latent,
    encode_latent,
    hyper_grid,
)
from ulcodec.devices import autocast, choose_device
from ulcodec.errors import CorruptDataError, FormatError, ImageError, ModelError, UnknownModelError
from ulcodec.format.attachments import deflate, from_full_range, metadata_field, significant_bits, to_full_range
from ulcodec.format.container import (
    MAX_ATTACHMENT_BYTES,
    MAX_PIXELS,
    N_SEGMENTS,
    THUMBNAIL_PX,
    Attachment,
    Container,
    Crop,
    Header,
    Layout,
    check_crop,
    remains,
)
from ulcodec.format.lossless import decode_lossless, encode_lossless, lossless_candidate
from ulcodec.io.pictures import Picture, load_image
from ulcodec.memory import released
from ulcodec.model.config import PATCH_PX
from ulcodec.model.likelihood import chain_bits
from ulcodec.model.tiles import Span, Tile, tiles
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.progress import share, tracked
from ulcodec.store.installed import installed_fingerprints
from ulcodec.store.model_directory import StoredModel, open_model

CODEC_TILE = 96
"""Latent positions a side that encoder and decoder take at once, a multiple of 4."""
HYPER_HALO = 4
ANALYSIS_SHARE, DECODING_SHARE, ALPHA_SHARE = 0.4, 0.5, 0.5
"""Rough time of the networks in encoding, of entropy decoding in decoding, and of a coded alpha channel in both."""
REFINEMENT_TIME = 3
"""Rough time of a step of refinement, in encodings without one."""
POSTERIOR_MEAN = Realism()
SAMPLE_TYPES = {8: np.uint8, 16: np.uint16}
ImageLike = Any
"""What `Codec.encode` takes: see there."""


class Recovery(NamedTuple):
    """What a damaged file still shows, how many of its 4 segments that takes, and what was wrong."""

    picture: Picture
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
    has_denoiser: bool

    @property
    def fingerprint(self) -> str:
        """What names this model in a file: 8 hexadecimal digits."""
        return self.fingerprint_bytes.hex()

    def encode(
        self,
        image: ImageLike,
        *,
        quality: int = 50,
        alpha_quality: int | None = None,
        strip: bool = False,
        effort: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> bytes:
        """Encode a picture into the bytes of a `.ulc` file.

        `image`: a path, a PIL image, a NumPy array uint8 or uint16 [H, W], [H, W, 3], or with straight alpha [H, W, 2]
        or [H, W, 4], or a torch tensor with channels first, uint8 or float in [0, 1]. `quality`: 0 (smallest file) to
        100. `alpha_quality`: that of the alpha channel, None to keep it exactly. `strip`: leave EXIF and XMP out.
        `effort`: 1 (fastest) to 9 (smallest file): how long to refine the latent, see `ulcodec.codec.refinement`. Raises
        ImageError for an invalid picture, ValueError for a quality or an effort out of range.
        """
        picture = as_picture(image, max_pixels)
        return Encoding(self, picture, alpha_quality, strip, effort).code_once(checked_quality(quality))

    def decode(
        self, data: bytes, *, fraction: float = 1.0, realism: float | Realism = 0.0, max_pixels: int = MAX_PIXELS
    ) -> Image.Image:
        """Decode a `.ulc` file's bytes into a PIL image (see `Picture.to_pil`), with its ICC, EXIF and XMP in `info`.

        `fraction`, `realism`: see `decode_picture`. Raises FormatError or UnknownModelError.
        """
        return self.decode_picture(data, fraction=fraction, realism=realism, max_pixels=max_pixels).to_pil()

    def decode_array(
        self, data: bytes, *, fraction: float = 1.0, realism: float | Realism = 0.0, max_pixels: int = MAX_PIXELS
    ) -> np.ndarray:
        """Like `decode`, into a NumPy array, uint8 or uint16 as encoded: [H, W, 3] or [H, W], with alpha one more."""
        return self.decode_picture(data, fraction=fraction, realism=realism, max_pixels=max_pixels).samples

    def decode_picture(
        self,
        data: bytes,
        *,
        fraction: float = 1.0,
        crop: Crop | None = None,
        realism: float | Realism = 0.0,
        max_pixels: int = MAX_PIXELS,
    ) -> Picture:
        """Like `decode`, into a `Picture`.

        `fraction`: decode only this share of the file's bytes, the first of the four segments at least; the prior's
        prediction stands for the rest, as it does in a file that was truncated. `crop`: only this part of the
        picture, the same pixels as in the whole; ImageError if it is not inside. `realism`: from 0, the picture of the
        least squared error, to 1, a sample with the detail that such pictures have; or all that decides a sample, see
        `Realism`. ValueError if it is out of range, ModelError if the model's denoiser was never trained.
        """
        drawing = realism if isinstance(realism, Realism) else Realism(realism)
        if drawing.share and not self.has_denoiser:
            raise ModelError(f"the denoiser of model {self.name} was never trained: it decodes with realism 0 only")
        container = self.open(data, max_pixels)
        if crop is not None:
            check_crop(crop, container.header)
        if container.is_lossless:
            return self.lossless_picture(container, crop)
        if fraction < 1:
            container = container.within(int(fraction * len(data)))
        return self.picture(self.decode_latents(container), container, crop, drawing)

    def thumbnail(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
        """The picture at 1/8 of its size, sides rounded up, without running the decoder's networks.

        Raises as `decode`.
        """
        container = self.open(data, max_pixels)
        fields = self.detach(container)
        visible = lossless_pixels(container) if container.is_lossless else None
        if "alpha" in fields:
            if visible is not None:
                visible = without_hidden(visible, fields["alpha"])
            fields["alpha"] = np.asarray(Image.fromarray(fields["alpha"]).reduce(THUMBNAIL_PX))
        if visible is not None:
            return Picture(np.asarray(Image.fromarray(visible).reduce(THUMBNAIL_PX)), **fields)
        y = unflattened(self.decode_latents(container).y_16, latent_grid(container))
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            quality = quality_tensor(container.header.quality, self.device)
            small = self.model.decoder.trunk.thumbnail(y, quality)[0]
        height, width = (-(-side // THUMBNAIL_PX) for side in (container.header.height, container.header.width))
        pixels = to_pixels(small[:, :height, :width], container.header.layout, container.header.bit_depth)
        return Picture(from_full_range(pixels, container), **fields)

    def recover(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Recovery:
        """Decode a file; of a damaged one, what comes before the damage, the rest concealed by the prior's prediction.

        Raises FormatError if not even the first segment is sound, UnknownModelError as `decode`.
        """
        try:
            return Recovery(self.decode_picture(data, max_pixels=max_pixels), N_SEGMENTS, None)
        except FormatError as error:
            damage = error
        container = remains(data, max_pixels=max_pixels)
        self.check_fingerprint(container.header.fingerprint)
        if container.is_lossless:
            return Recovery(self.lossless_picture(container), N_SEGMENTS, damage)
        grid = latent_grid(container)
        whole = container.segments[: container.n_whole_segments]
        with share(DECODING_SHARE):
            decoded, n_segments = conceal_latent(self.coder, whole, container.header.quality, grid)
        return Recovery(self.picture(decoded, container), n_segments, damage)

    def describe(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> dict[str, float]:
        """The prior's bound on a file's description length beside the file: `bound_bits`, `payload_bits`, `file_bits`.

        The bound is that of the float prior with continuous scales, on the symbols that the file holds; 0 for a file
        without loss, which holds none.
        """
        container = self.open(data, max_pixels)
        if container.is_lossless:
            return {"bound_bits": 0.0, "payload_bits": 0.0, "file_bits": 8.0 * len(data)}
        grid = latent_grid(container)
        decoded = self.decode_latents(container)
        y = unflattened(decoded.y_16, grid)
        hyper = unflattened(decoded.hyper_16, hyper_grid(grid))
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            bits = chain_bits(self.model, y, hyper, quality_tensor(container.header.quality, self.device))
        return {
            "bound_bits": float(bits),
            "payload_bits": 8.0 * sum(map(len, container.segments)),
            "file_bits": 8.0 * len(data),
        }

    def decode_latents(self, container: Container) -> DecodedLatent:
        """Latent and hyper-latent of a file, exactly as the encoder restored them."""
        coder, segments, grid = self.coder, container.segments, latent_grid(container)
        with share(DECODING_SHARE):
            if container.symbol_check is None:
                return decode_cut_latent(coder, segments, container.header.quality, grid)
            return decode_latent(coder, segments, container.symbol_check, container.header.quality, grid)

    def attach(self, picture: Picture, alpha_quality: int | None) -> tuple[tuple[Attachment, bytes], ...]:
        """What goes into the file beside the picture's samples. Raises ImageError for alpha beyond the limit."""
        found: dict[Attachment, bytes] = {}
        for kind, data in (
            (Attachment.ICC, picture.icc),
            (Attachment.EXIF, picture.exif),
            (Attachment.XMP, picture.xmp),
        ):
            if data is not None:
                found[kind] = deflate(data)
        if picture.alpha is not None and alpha_quality is None:
            found[Attachment.ALPHA] = encode_lossless(picture.alpha)
        elif picture.alpha is not None and alpha_quality is not None:
            exact = encode_lossless(picture.alpha)
            with share(ALPHA_SHARE):
                alpha = Encoding(self, Picture(picture.alpha), exact_if_smaller=False)
                coded = alpha.code_once(checked_quality(alpha_quality))
            kind = Attachment.ALPHA if len(exact) <= len(coded) else Attachment.ALPHA_ULC
            found[kind] = min(exact, coded, key=len)
        if picture.cicp is not None:
            found[Attachment.CICP] = bytes(picture.cicp)
        if max(map(len, found.values()), default=0) > MAX_ATTACHMENT_BYTES:
            raise ImageError(f"an alpha channel of more than {MAX_ATTACHMENT_BYTES} bytes; see alpha_quality")
        return tuple(found.items())

    def detach(self, container: Container) -> dict[str, Any]:
        """Inverse of `attach`: fields of a `Picture`."""
        fields: dict[str, Any] = {}
        for kind, data in container.attachments:
            if kind is Attachment.ALPHA:
                fields["alpha"] = decode_lossless(
                    data, (container.header.height, container.header.width), "an alpha channel"
                )
            elif kind is Attachment.ALPHA_ULC:
                fields["alpha"] = self.decode_alpha_ulc(data, container)
            elif kind not in (Attachment.SIGNIFICANT_BITS, Attachment.SAMPLES):
                fields |= metadata_field(kind, data)
        return fields

    def decode_alpha_ulc(self, data: bytes, said: Container) -> np.ndarray:
        """An alpha channel that is a `.ulc` file of its own: plain, 8-bit grey, of the picture's size."""
        container = self.open(data, said.header.n_pixels)
        plain = container.header.layout is Layout.GREY and container.header.bit_depth == 8 and not container.attachments
        if not plain or (container.header.width, container.header.height) != (said.header.width, said.header.height):
            raise CorruptDataError("an alpha channel that does not belong to its picture")
        with share(ALPHA_SHARE):
            return self.picture(self.decode_latents(container), container).pixels

    def open(self, data: bytes, max_pixels: int) -> Container:
        """Parse a file and check that this model made it."""
        container = Container.from_bytes(data, max_pixels=max_pixels)
        self.check_fingerprint(container.header.fingerprint)
        return container

    def check_fingerprint(self, fingerprint: bytes) -> None:
        if fingerprint != self.fingerprint_bytes:
            raise unknown_model(fingerprint, f"the loaded model is {self.name} ({self.fingerprint})")

    def analyse(self, pixels: np.ndarray, quality: int) -> tuple[Tensor, Tensor]:
        """uint8 or uint16 [H, W, 3] or [H, W] -> latent [C, h, w], hyper-latent [C_hyper, h/4, w/4], in steps."""
        y, hyper = self.analyse_batch([pixels], quality)
        return y[0], hyper[0]

    def analyse_batch(self, pictures: Sequence[np.ndarray], quality: int) -> tuple[Tensor, Tensor]:
        """`analyse` of B pictures of one latent grid: latents [B, C, h, w] and hyper-latents.

        In tiles, whose size changes no number. Laid out channels last, in the order of coding.
        """
        config, encoder, (h, w) = self.model.config, self.model.encoder, grid_of(*pictures[0].shape[:2])
        as_float32: dict[str, Any] = {"dtype": torch.float32, "device": self.device}
        shape = len(pictures), config.latent_channels, h, w
        y = torch.empty(shape, memory_format=torch.channels_last, **as_float32)
        hyper = torch.empty(len(pictures), config.hyper_channels, *hyper_grid((h, w)), **as_float32)
        q = quality_tensor(quality, self.device)
        for tile in released(tracked(tiles((h, w), CODEC_TILE, HYPER_HALO + encoder.halo))):
            self.analyse_tile(pictures, q, tile, y, hyper)
        return y, hyper

    def analyse_tile(
        self, pictures: Sequence[np.ndarray], quality: Tensor, tile: Tile, y: Tensor, hyper: Tensor
    ) -> None:
        """Put the latents and hyper-latents of the inner part of a tile into their places."""
        rows, columns = (in_pixels(span.outer) for span in tile)
        parts = [padded(to_tensor(pixels[rows, columns])) for pixels in pictures]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        with torch.inference_mode(), autocast(self.device):
            y_part, z = self.model.encoder(x.to(self.device), quality, tile, HYPER_HALO)
            hyper_part = self.model.hyper_encoder(z, quality)
        near = tile.limited(HYPER_HALO)
        y[:, :, tile.rows.inner, tile.columns.inner] = y_part[:, :, near.rows.within, near.columns.within]
        target = [slice(span.inner.start // 4, -(-span.inner.stop // 4)) for span in near]
        first = [span.within.start // 4 for span in near]
        own = [slice(start, start + part.stop - part.start) for start, part in zip(first, target, strict=True)]
        hyper[:, :, target[0], target[1]] = hyper_part[:, :, own[0], own[1]]

    def lossless_picture(self, said: Container, crop: Crop | None = None) -> Picture:
        """The picture of a file that holds the samples themselves, or a part of it."""
        picture = Picture(lossless_pixels(said), **self.detach(said))
        if crop is None:
            return picture
        left, top, width, height = crop
        part = slice(top, top + height), slice(left, left + width)
        return replace(
            picture,
            pixels=np.ascontiguousarray(picture.pixels[part]),
            alpha=None if picture.alpha is None else picture.alpha[part],
        )

    def picture(
        self, decoded: DecodedLatent, said: Container, crop: Crop | None = None, drawing: Realism = POSTERIOR_MEAN
    ) -> Picture:
        """From a latent, with the size, layout, depth, quality and attachments that the file says; or a part of it."""
        fields = self.detach(said)
        if crop is not None and "alpha" in fields:
            left, top, width, height = crop
            fields["alpha"] = fields["alpha"][top : top + height, left : left + width]
        [pixels] = self.synthesise([decoded], [said], crop, drawing)
        return Picture(from_full_range(pixels, said), **fields)

    def synthesise(
        self,
        decoded: Sequence[DecodedLatent],
        said: Sequence[Container],
        crop: Crop | None = None,
        drawing: Realism = POSTERIOR_MEAN,
    ) -> list[np.ndarray]:
        """Latents of one grid and quality -> pictures as their files say, or this part of each: uint8 or uint16.

        In tiles, whose size changes no number.
        """
        config, trunk, grid = self.model.config, self.model.decoder.trunk, latent_grid(said[0])
        latents = [latent.y_16.reshape(*grid, -1) for latent in decoded]
        q = quality_tensor(said[0].header.quality, self.device)
        areas = [crop or (0, 0, own.header.width, own.header.height) for own in said]
        pictures = [empty_pixels(own, area) for own, area in zip(said, areas, strict=True)]
        kept_halo = drawing.halo(config) if drawing.share else 0
        wanted = [in_latents(side) for side in sides(areas[0])]
        for tile in released(tracked(tiles(grid, CODEC_TILE, trunk.halo + kept_halo, *wanted))):
            shown = self.synthesise_tile(latents, q, tile, kept_halo, drawing)
            for pixels, own, area, picture in zip(pictures, said, areas, shown, strict=True):
                pairs = zip(tile.limited(kept_halo), sides(area), strict=True)
                inside, target = zip(*(overlap(*pair) for pair in pairs), strict=True)
                pixels[target] = to_pixels(picture[:, inside[0], inside[1]], own.header.layout, own.header.bit_depth)
        return pictures

    def synthesise_tile(
        self, latents: Sequence[Tensor], quality: Tensor, tile: Tile, kept_halo: int, drawing: Realism
    ) -> Tensor:
        """Pictures [B, 3, H, W] of a tile and `kept_halo` positions around, from latents [h, w, C] in 1/16 steps."""
        known = unflattened(torch.cat([tile.outer_of(y[None]).flatten(0, 2) for y in latents]), tile.outer_grid)
        shown: Tensor
        with torch.inference_mode(), autocast(self.device):
            features, shown = self.model.decoder.trunk(known, quality, tile, kept_halo)
            if drawing.share:
                pixels = (in_pixels(span.outer) for span in tile.limited(kept_halo))
                places = (range(side.start, side.stop) for side in pixels)
                shown = drawing.draw(self.model.decoder.denoiser, features, shown, *places)
        return shown


class Encoding:
    """One picture on its way into files of several qualities: what they share is made once."""

    def __init__(
        self,
        codec: Codec,
        picture: Picture,
        alpha_quality: int | None = None,
        strip: bool = False,
        effort: int = 1,
        exact_if_smaller: bool = True,
    ) -> None:
        picture = (picture.without("exif", "xmp") if strip else picture).within_limits()
        self.codec, self.picture, self.n_steps = codec, picture, EFFORT_STEPS[checked_effort(effort) - 1]
        shown = picture.pixels if picture.alpha is None else without_hidden(picture.pixels, picture.alpha)
        self.significant_bits = significant_bits(shown)
        self.pixels = to_full_range(shown, self.significant_bits)
        self.attachments = codec.attach(picture, alpha_quality)
        if picture.bit_depth == 16 and self.significant_bits < picture.bit_depth:
            self.attachments += ((Attachment.SIGNIFICANT_BITS, bytes([self.significant_bits])),)
        self.lossless = lossless_candidate(picture.pixels, picture.alpha) if exact_if_smaller else None
        self.analysed: dict[int, tuple[Tensor, Tensor, Refined | None]] = {}

    @property
    def grid(self) -> tuple[int, int]:
        return grid_of(*self.pixels.shape[:2])

    def code(self, quality: int, thrift: float = 1.0) -> bytes:
        """The file at a quality from 0 to 100; `thrift` as in `encode_latents`."""
        if quality not in self.analysed:
            self.analysed = {quality: self.analyse(quality)}
        y, hyper, coded = self.analysed[quality]
        if coded is not None and thrift == 1:
            return self.file(coded, quality)
        own = thrift if coded is None else thrift * coded.thrift
        return self.file(encode_latent(self.codec.coder, y, hyper, quality, own), quality)

    def code_once(self, quality: int) -> bytes:
        """The file at a quality, if no other is wanted: as `code`, in less memory."""
        y, hyper, coded = self.analyse(quality)
        return self.file(coded or encode_latent(self.codec.coder, y, hyper, quality, overwrite_y=True), quality)

    def analyse(self, quality: int) -> tuple[Tensor, Tensor, Refined | None]:
        """Latent and hyper-latent; with effort, the former refined, and how it is coded."""
        codec = self.codec
        with share(ANALYSIS_SHARE / (1 + REFINEMENT_TIME * self.n_steps)):
            y, hyper = codec.analyse(self.pixels, quality)
        if not self.n_steps:
            return y, hyper, None
        with torch.inference_mode(False):  # the caller's would leave no gradient
            refined = refine(codec.model, codec.coder, self.pixels, y, hyper, quality, self.n_steps)
        return refined.y, hyper, refined

    def file(self, coded: EncodedLatent | Refined, quality: int) -> bytes:
        """The file of a coded latent, or that of the samples themselves if it is not larger."""
        learned = self.container(quality, coded.segments, coded.symbol_check, self.attachments).to_bytes()
        exact = self.exact_file(quality)
        return learned if exact is None or len(exact) > len(learned) else exact

    def exact_file(self, quality: int) -> bytes | None:
        """The file that holds the samples themselves, of a picture that looks drawn."""
        if self.lossless is None or len(self.lossless) > MAX_ATTACHMENT_BYTES:
            return None
        attachments = (*self.attachments, (Attachment.SAMPLES, self.lossless))
        return self.container(quality, (b"",) * N_SEGMENTS, 0, attachments).to_bytes()

    def container(
        self,
        quality: int,
        segments: tuple[bytes, ...],
        symbol_check: int,
        attachments: tuple[tuple[Attachment, bytes], ...],
    ) -> Container:
        header = Header(
            self.codec.fingerprint_bytes,
            quality,
            self.pixels.shape[1],
            self.pixels.shape[0],
            Layout.GREY if self.pixels.ndim == 2 else Layout.RGB,
            self.picture.bit_depth,
        )
        return Container(header, segments=segments, symbol_check=symbol_check, attachments=attachments)


def lossless_pixels(said: Container) -> np.ndarray:
    """The samples that a file holds. Raises a FormatError."""
    if said.header.bit_depth != 8 or any(said.segments) or said.symbol_check:
        raise CorruptDataError("samples that do not belong to the picture")
    shape = (
        (said.header.height, said.header.width)
        if said.header.layout is Layout.GREY
        else (said.header.height, said.header.width, 3)
    )
    return decode_lossless(dict(said.attachments)[Attachment.SAMPLES], shape, "samples")


def load(model: str | Path = "small", *, device: str = "auto") -> Codec:
    """Load a model: the name of a shipped one, or a directory made by `ulcodec train export`.

    `device`: "auto" (CUDA if there is one), "cpu", "cuda", ... Raises ModelError for a model that is missing or broken,
    DeviceError for a device that cannot be had.
    """
    chosen_device = choose_device(device)
    # In inference mode, refinement, which takes gradients, could not use the weights.
    with torch.inference_mode(False), torch.device("cpu"):
        return codec_of(open_model(model), chosen_device)


def codec_of(stored: StoredModel, device: torch.device) -> Codec:
    return Codec(
        name=stored.name,
        fingerprint_bytes=stored.fingerprint[:4],
        model=stored.networks(device),
        coder=stored.coder(device),
        device=device,
        has_denoiser=stored.denoiser is not None,
    )


def unknown_model(fingerprint: bytes, context: str) -> UnknownModelError:
    known = ", ".join(f"{name} ({digits})" for digits, name in installed_fingerprints().items()) or "none"
    return UnknownModelError(
        f"the file was made by model {fingerprint.hex()}; {context}; installed: {known}. "
        "Install the ulcodec release that ships that model, or name its directory with --model"
    )


def sides(area: Crop) -> tuple[range, range]:
    """Rows and columns."""
    left, top, width, height = area
    return range(top, top + height), range(left, left + width)


def empty_pixels(said: Container, area: Crop) -> np.ndarray:
    shape = tuple(map(len, sides(area)))
    return np.empty(shape if said.header.layout is Layout.GREY else (*shape, 3), SAMPLE_TYPES[said.header.bit_depth])


def latent_grid(container: Container) -> tuple[int, int]:
    return grid_of(container.header.height, container.header.width)


def overlap(span: Span, wanted: range) -> tuple[slice, slice]:
    """What of a tile's pixels is wanted: where it lies in those of `span.outer`, and in the result."""
    first = max(span.inner.start * PATCH_PX, wanted.start)
    last = min(span.inner.stop * PATCH_PX, wanted.stop)
    origin = span.outer.start * PATCH_PX
    return slice(first - origin, last - origin), slice(first - wanted.start, last - wanted.start)


def checked_quality(quality: int) -> int:
    if not isinstance(quality, Integral) or not 0 <= quality <= 100:
        raise ValueError(f"quality must be a whole number from 0 to 100, got {quality}")
    return int(quality)


def checked_effort(effort: int) -> int:
    if not isinstance(effort, Integral) or not 1 <= effort <= len(EFFORT_STEPS):
        raise ValueError(f"effort must be a whole number from 1 to {len(EFFORT_STEPS)}, got {effort}")
    return int(effort)


def as_picture(image: ImageLike, max_pixels: int) -> Picture:
    """Any accepted picture."""
    if isinstance(image, Picture):
        picture = image
    elif isinstance(image, Tensor):
        picture = array_picture(tensor_samples(image))
    elif isinstance(image, np.ndarray):
        picture = array_picture(image)
    else:
        return load_image(image, max_pixels=max_pixels)
    if picture.pixels.shape[0] * picture.pixels.shape[1] > max_pixels:
        raise ImageError(f"the picture has more than {max_pixels} pixels")
    return picture


def array_picture(samples: np.ndarray) -> Picture:
    """[H, W], or [H, W, C] with C = 3, or with straight alpha 2 or 4."""
    if samples.ndim != 3 or samples.shape[2] not in (2, 4):
        return Picture(samples)
    alpha = Picture(np.ascontiguousarray(samples[:, :, -1])).pixels_8
    pixels = samples[:, :, 0] if samples.shape[2] == 2 else samples[:, :, :3]
    return Picture(np.ascontiguousarray(pixels), None if alpha.size and alpha.min() == 255 else alpha)


def tensor_samples(image: Tensor) -> np.ndarray:
    """torch [C, H, W] with C 1 to 4, uint8 or float in [0, 1] -> uint8 [H, W] or [H, W, C]."""
    if image.ndim != 3 or not 1 <= image.shape[0] <= 4:
        raise ImageError(f"expected a tensor [1 to 4, H, W], got {list(image.shape)}")
    if image.is_floating_point():
        if not image.isfinite().all():
            raise ImageError("the tensor holds values that are not finite")
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    elif image.dtype != torch.uint8:
        raise ImageError(f"expected a uint8 or float tensor, got {image.dtype}")
    samples: np.ndarray = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return samples[:, :, 0] if samples.shape[2] == 1 else samples
