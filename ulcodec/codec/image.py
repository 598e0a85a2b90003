"""The image codec: `encode_pictures` and `decode_containers` are the map of the project, stage by stage.

Encoding: prepare the picture, analyse it (networks), code its latent (entropy coder), write the file. Decoding inverts
the stages: read the file, decode its latent, synthesise the pixels (networks), restore the picture. One picture is a
batch of one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ulcodec.codec.bitrate import rate_control
from ulcodec.codec.clip_encoder import DEFAULT_GOP, ClipEncoder, WrittenPart
from ulcodec.codec.clips import ClipSource, open_clip
from ulcodec.codec.effort import Refined, refinement_of
from ulcodec.codec.extras import attach, cropped, detach, lossless_pixels
from ulcodec.codec.grouping import group_by_grid
from ulcodec.codec.inputs import ImageLike, as_picture, check_effort, check_quality
from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.networks import Array
from ulcodec.codec.pixels import grid_of, without_hidden
from ulcodec.codec.realism import POSTERIOR_MEAN, Realism
from ulcodec.codec.refiner import refine_once
from ulcodec.codec.tiling import analyse, synthesise, synthesise_thumbnail
from ulcodec.codec.video import Video
from ulcodec.coding.latents import (
    DecodedLatent,
    EncodedLatent,
    LatentCoder,
    conceal_latent,
    decode_cut_latent,
    decode_latents,
    encode_latent,
    encode_latents,
)
from ulcodec.errors import CorruptDataError, FormatError, ModelError
from ulcodec.format.attachments import from_full_range, significant_bits, to_full_range
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
from ulcodec.format.lossless import lossless_candidate
from ulcodec.format.sequence import MAX_TERM
from ulcodec.io.picture import Picture
from ulcodec.progress import share, tracked

ANALYSIS_SHARE, DECODING_SHARE, ALPHA_SHARE = 0.4, 0.5, 0.5
"""Rough share of time of the networks in encoding, of the entropy decoder in decoding, and of a lossy alpha channel."""

REFINEMENT_TIME, REFINER_TIME = 3.0, 1.1
"""Rough time of one refinement step, and of one that the refiner predicts, relative to encoding without refinement."""


class Recovery(NamedTuple):
    """A picture recovered from a damaged file, the number of its 4 segments used, and the error found, if any."""

    picture: Picture
    n_segments: int
    damage: FormatError | None


class Codec(LoadedModel):
    """A model ready to encode and decode. Made by `ulcodec.load`."""

    def encode(
        self,
        image: ImageLike,
        *,
        quality: int = 50,
        alpha_quality: int | None = None,
        strip: bool = False,
        effort: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> bytes:
        """Encode a picture to the bytes of a `.ulc` file.

        `image`: a path, a PIL image, a NumPy array uint8 or uint16 [H, W], [H, W, 3], or with straight alpha [H, W, 2]
        or [H, W, 4], or a torch tensor with channels first, uint8 or float in [0, 1]. `quality`: 0 (smallest file) to
        100. `alpha_quality`: quality of the alpha channel, None to keep it exactly. `strip`: drop EXIF and XMP.
        `effort`: 1 (fastest) to 9 (smallest file): how long to refine the latent, see `ulcodec.codec.effort`. None is 2
        for a model with a refiner, else 1.
        Raises ImageError for an invalid picture, ValueError for a quality or an effort out of range.
        """
        encoding = Encoding(self, as_picture(image, max_pixels), alpha_quality, strip, effort)
        return encoding.code_once(check_quality(quality))

    def decode(
        self, data: bytes, *, fraction: float = 1.0, realism: float | Realism = 0.0, max_pixels: int = MAX_PIXELS
    ) -> Image.Image:
        """Decode the bytes of a `.ulc` file to a PIL image (see `Picture.to_pil`), with ICC, EXIF and XMP in `info`.

        `fraction`, `realism`: see `decode_picture`. Raises FormatError or UnknownModelError.
        """
        return self.decode_picture(data, fraction=fraction, realism=realism, max_pixels=max_pixels).to_pil()

    def decode_array(
        self, data: bytes, *, fraction: float = 1.0, realism: float | Realism = 0.0, max_pixels: int = MAX_PIXELS
    ) -> np.ndarray:
        """Decode like `decode`, to an array uint8 or uint16 as encoded: [H, W] or [H, W, C] with C from 2 to 4."""
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
        """Decode like `decode`, to a `Picture`.

        `fraction`: decode only this share of the file's bytes, at least the first of the four segments; the prior's
        prediction replaces the rest, as in a truncated file. `crop`: decode only this part of the picture, to the same
        pixels as the whole; ImageError if it is not inside. `realism`: from 0 (the picture of least squared error) to
        1 (a sample with natural detail), or a `Realism`. Raises ValueError if it is out of range, ModelError if the
        model's denoiser was never trained.
        """
        realism = self.checked(realism)
        container = self.open(data, max_pixels)
        if crop is not None:
            check_crop(crop, container.header)
        if fraction < 1 and not container.is_lossless:
            container = container.within(int(fraction * len(data)))
        [picture] = decode_containers(self, [container], crop, realism)
        return picture

    def thumbnail(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
        """Decode the picture at 1/8 of its size, sides rounded up, without running the decoder's networks.

        Raises as `decode`.
        """
        container = self.open(data, max_pixels)
        fields = detach(container, partial(decode_alpha, self))
        alpha = fields.get("alpha")
        if alpha is not None:
            fields["alpha"] = np.asarray(Image.fromarray(alpha).reduce(THUMBNAIL_PX))
        if container.is_lossless:
            pixels = lossless_pixels(container)
            visible = pixels if alpha is None else without_hidden(pixels, alpha)
            return Picture(np.asarray(Image.fromarray(visible).reduce(THUMBNAIL_PX)), **fields)
        pixels = synthesise_thumbnail(self.networks, self.decode_latents(container), container.header)
        return Picture(from_full_range(pixels, container), **fields)

    def recover(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Recovery:
        """Decode a file up to its damage, if any; the prior's prediction conceals the rest.

        Raises FormatError if not even the first segment is sound, UnknownModelError as `decode`.
        """
        try:
            return Recovery(self.decode_picture(data, max_pixels=max_pixels), N_SEGMENTS, None)
        except FormatError as error:
            damage = error
        container = remains(data, max_pixels=max_pixels)
        self.check_fingerprint(container.header.fingerprint)
        if container.is_lossless:
            [picture] = decode_containers(self, [container])
            return Recovery(picture, N_SEGMENTS, damage)
        sound_segments = container.segments[: container.n_whole_segments]
        with share(DECODING_SHARE):
            latent, n_segments = conceal_latent(
                self.coder, sound_segments, container.header.quality, latent_grid(container)
            )
        [picture] = restore_pictures(self, [latent], [container])
        return Recovery(picture, n_segments, damage)

    def describe(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> dict[str, float]:
        """Measure the prior's bound on a file's description length: `bound_bits`, `payload_bits`, `file_bits`.

        The bound comes from the float prior with continuous scales, for the symbols in the file. A lossless file holds
        no symbols: its bound is 0.
        """
        container = self.open(data, max_pixels)
        bound = 0.0
        if not container.is_lossless:
            self.torch_networks("the prior's bound")
            from ulcodec.codec.bound import bound_bits

            latent, quality = self.decode_latents(container), container.header.quality
            bound = bound_bits(self, latent, quality, latent_grid(container))
        payload = 8.0 * sum(map(len, container.segments))
        return {"bound_bits": bound, "payload_bits": payload, "file_bits": 8.0 * len(data)}

    def encode_video(
        self,
        source: ClipSource,
        *,
        quality: int = 50,
        target_bitrate: float | None = None,
        frame_rate: Fraction | float = 25,
        gop: int = DEFAULT_GOP,
        effort: int = 1,
        start_s: float = 0.0,
        duration_s: float | None = None,
        max_pixels: int = MAX_PIXELS,
        written: WrittenPart | None = None,
    ) -> Iterator[bytes]:
        """Encode a clip to the pieces of a `.ulc` file, one after another: `file.writelines(codec.encode_video(...))`.

        `source`: a path, bytes or a binary file object of a video or an animation, whose audio and subtitles are
        copied; or an iterable of pictures as `encode` takes them, at `frame_rate` frames a second. `target_bitrate`:
        mean rate in bits a second, in place of a quality. `gop`: largest distance between two intra frames. `start_s`,
        `duration_s`: the part of the source in seconds. `written`: go on behind an unfinished file, see
        `ulcodec.codec.clip_encoder.WrittenPart`; its bytes are left out. `effort`: 1 to 9, see `encode`.
        Raises ImageError for a source that cannot be read, ValueError for an option out of range.
        """
        rate = rate_control(quality, target_bitrate)
        if not 1 <= gop <= MAX_TERM:
            raise ValueError(f"gop must be 1 to {MAX_TERM}, got {gop}")
        clip = open_clip(source, frame_rate, start_s=start_s, duration_s=duration_s, max_pixels=max_pixels)
        try:
            return ClipEncoder(self, clip, rate, gop=gop, effort=effort, written=written).pieces()
        except BaseException:
            clip.close()
            raise

    def decode_video(
        self, source: str | Path | bytes | BinaryIO, *, recover: bool = False, max_pixels: int = MAX_PIXELS
    ) -> Video:
        """Open a sequence to decode its frames: `for frame in codec.decode_video("clip.ulc")`; see `Video`."""
        return Video(self, source, recover=recover, max_pixels=max_pixels)

    def checked(self, realism: float | Realism) -> Realism:
        """Return how to sample detail. Raises ValueError, ModelError, see `decode_picture`."""
        realism = Realism.of(realism)
        if realism.share:
            self.torch_networks("realism")
        if realism.share and not self.has_denoiser:
            raise ModelError(f"the denoiser of model {self.name} was never trained: it decodes with realism 0 only")
        return realism

    def open(self, data: bytes, max_pixels: int = MAX_PIXELS) -> Container:
        """Parse a file. Raises a FormatError, or UnknownModelError for a file of another model."""
        container = Container.from_bytes(data, max_pixels=max_pixels)
        self.check_fingerprint(container.header.fingerprint)
        return container

    def analyse(self, pixels: np.ndarray, quality: int) -> tuple[Array, Array]:
        """Compute the latent [h, w, C] and hyper-latent of one picture, see `ulcodec.codec.tiling.analyse`."""
        y, hyper = analyse(self.networks, [pixels], quality)
        return y[0], hyper[0]

    def decode_latents(self, container: Container) -> DecodedLatent:
        """Decode a file's latent and hyper-latent, exactly as the encoder restored them."""
        with share(DECODING_SHARE):
            [latent] = decode_segments(self.coder, [container])
        return latent


class Encoding:
    """One picture on its way into files of several qualities, which share its preparation."""

    def __init__(
        self,
        codec: Codec,
        picture: Picture,
        alpha_quality: int | None = None,
        strip: bool = False,
        effort: int | None = None,
        exact_if_smaller: bool = True,
    ) -> None:
        picture = (picture.without("exif", "xmp") if strip else picture).within_limits()
        self.codec, self.picture = codec, picture
        checked = check_effort(codec.default_effort if effort is None else effort)
        self.refinement = refinement_of(checked, has_refiner=codec.has_refiner)
        if self.refinement.n_steps:
            codec.torch_networks(f"effort {effort}")
        self.pixels, self.significant_bits = samples_to_code(picture)
        self.attachments = attach(picture, self._alpha_encoder(alpha_quality))
        if picture.bit_depth == 16 and self.significant_bits < picture.bit_depth:
            self.attachments += ((Attachment.SIGNIFICANT_BITS, bytes([self.significant_bits])),)
        self.lossless = lossless_candidate(picture.pixels, picture.alpha) if exact_if_smaller else None
        self.latents: dict[int, tuple[Array, Array, Refined | None]] = {}

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the latent."""
        return grid_of(*self.pixels.shape[:2])

    def code(self, quality: int, thrift: float = 1.0) -> bytes:
        """Encode to a file at a quality from 0 to 100; `thrift` as in `encode_latents`. Keeps the latent for more."""
        if quality not in self.latents:
            [y], [hyper] = analyse_encodings([self], quality)
            coded = refine_along_gradients([self], y[None], hyper[None], quality)
            refined = None if coded is None else coded[0]
            self.latents = {quality: (y if refined is None else refined.y, hyper, refined)}
        y, hyper, refined = self.latents[quality]
        if refined is not None:
            if thrift == 1:
                return self.file(refined, quality)
            thrift *= refined.thrift
        return self.file(encode_latent(self.codec.coder, y, hyper, quality, thrift), quality)

    def code_once(self, quality: int) -> bytes:
        """Encode to a file like `code`, in less memory: nothing is kept."""
        [data] = encode_pictures(self.codec, [self], quality)
        return data

    def file(self, latent: EncodedLatent | Refined, quality: int) -> bytes:
        """Serialise a coded latent, or the lossless samples if their file is not larger."""
        lossy = self._container(quality, latent.segments, latent.symbol_check).to_bytes()
        exact = self.exact_file(quality)
        return lossy if exact is None or len(exact) > len(lossy) else exact

    def exact_file(self, quality: int) -> bytes | None:
        """Serialise the lossless samples of a picture that looks drawn; None for a photograph."""
        if self.lossless is None or len(self.lossless) > MAX_ATTACHMENT_BYTES:
            return None
        container = self._container(quality, (b"",) * N_SEGMENTS, 0)
        samples = (Attachment.SAMPLES, self.lossless)
        return replace(container, attachments=(*container.attachments, samples)).to_bytes()

    def _container(self, quality: int, segments: tuple[bytes, ...], symbol_check: int) -> Container:
        height, width = self.pixels.shape[:2]
        layout = Layout.GREY if self.pixels.ndim == 2 else Layout.RGB
        header = Header(self.codec.fingerprint_bytes, quality, width, height, layout, self.picture.bit_depth)
        return Container(header, segments=segments, symbol_check=symbol_check, attachments=self.attachments)

    def _alpha_encoder(self, quality: int | None) -> Callable[[np.ndarray], bytes] | None:
        """A function that encodes an alpha channel to a `.ulc` file of a quality; None to keep alpha exactly."""
        if quality is None:
            return None

        def encode(alpha: np.ndarray) -> bytes:
            with share(ALPHA_SHARE):
                return Encoding(self.codec, Picture(alpha), effort=1, exact_if_smaller=False).code_once(
                    check_quality(quality)
                )

        return encode


def samples_to_code(picture: Picture) -> tuple[np.ndarray, int]:
    """The samples of a picture without hidden colours, in the whole range of their type; and the bits that they use."""
    visible = picture.pixels if picture.alpha is None else without_hidden(picture.pixels, picture.alpha)
    bits = significant_bits(visible)
    return to_full_range(visible, bits), bits


# The road of a picture into a file, and back


def encode_batch(
    codec: Codec,
    images: Sequence[ImageLike],
    *,
    quality: int = 50,
    alpha_quality: int | None = None,
    strip: bool = False,
    effort: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[bytes]:
    """Encode pictures of any sizes; pictures of one latent grid share a batch. See `Codec.encode`."""
    check_quality(quality)
    encodings = [Encoding(codec, as_picture(image, max_pixels), alpha_quality, strip, effort) for image in images]
    return encode_pictures(codec, encodings, quality)


def decode_batch(
    codec: Codec, files: Sequence[bytes], *, realism: float | Realism = 0.0, max_pixels: int = MAX_PIXELS
) -> list[Picture]:
    """Decode files of any sizes; files of one latent grid share a batch. Errors and `realism` as `Codec.decode`."""
    realism = codec.checked(realism)
    return decode_containers(codec, [codec.open(data, max_pixels) for data in files], realism=realism)


def encode_pictures(codec: Codec, encodings: Sequence[Encoding], quality: int) -> list[bytes]:
    """Encode prepared pictures: analyse, code the latents, write the files.

    A picture to refine along gradients goes alone.
    """
    files = [b""] * len(encodings)
    kinds = [
        (encoding.grid, index if encoding.refinement.n_steps else None) for index, encoding in enumerate(encodings)
    ]
    for indices in tracked(group_by_grid(codec.networks.positions_at_once, kinds)):
        group = [encodings[index] for index in indices]
        y, hyper = analyse_encodings(group, quality)
        coded = code_latents(group, y, hyper, quality)
        for index, encoding, latent in zip(indices, group, coded, strict=True):
            files[index] = encoding.file(latent, quality)
    return files


def decode_containers(
    codec: Codec, containers: Sequence[Container], crop: Crop | None = None, realism: Realism = POSTERIOR_MEAN
) -> list[Picture]:
    """Decode parsed files, or a crop of each: decode the latents, synthesise pixels, restore the pictures."""
    pictures: dict[int, Picture] = {}
    kinds = [
        (latent_grid(file), file.header.quality, file.symbol_check is None, file.is_lossless) for file in containers
    ]
    for indices in tracked(group_by_grid(codec.networks.positions_at_once, kinds)):
        group = [containers[index] for index in indices]
        if group[0].is_lossless:
            restored = [restore_lossless(codec, container, crop) for container in group]
        else:
            with share(DECODING_SHARE):
                latents = decode_segments(codec.coder, group)
            restored = restore_pictures(codec, latents, group, crop, realism)
        pictures.update(zip(indices, restored, strict=True))
    return [pictures[index] for index in range(len(containers))]


def analyse_encodings(encodings: Sequence[Encoding], quality: int) -> tuple[Array, Array]:
    """Compute the latents of prepared pictures of one latent grid, see `ulcodec.codec.tiling.analyse`.

    Where the effort asks for it, they are refined by the refiner.
    """
    codec, refinement = encodings[0].codec, encodings[0].refinement
    pictures = [encoding.pixels for encoding in encodings]
    time = 1 + REFINEMENT_TIME * refinement.n_steps + REFINER_TIME * refinement.by_refiner
    with share(ANALYSIS_SHARE / time):
        y, hyper = analyse(codec.networks, pictures, quality)
    if refinement.by_refiner:
        with share(REFINER_TIME / (time - ANALYSIS_SHARE)):
            y = refine_once(codec, pictures, y, hyper, quality)
    return y, hyper


def code_latents(
    encodings: Sequence[Encoding], y: Array, hyper: Array, quality: int
) -> Sequence[EncodedLatent | Refined]:
    """Entropy-code latents [B, h, w, C], refined first where the effort asks for gradients. May overwrite `y`."""
    refined = refine_along_gradients(encodings, y, hyper, quality)
    return refined or encode_latents(encodings[0].codec.coder, y, hyper, quality, overwrite_y=True)


def refine_along_gradients(encodings: Sequence[Encoding], y: Array, hyper: Array, quality: int) -> list[Refined] | None:
    """Refine latents [B, h, w, C] along gradients and code them; None if the effort does not ask for that."""
    codec, refinement = encodings[0].codec, encodings[0].refinement
    if not refinement.n_steps:
        return None
    from ulcodec.codec.refinement import refine_picture

    triples = zip(encodings, y, hyper, strict=True)
    return [
        refine_picture(codec, encoding.pixels, latent, hyper_latent, quality, refinement.n_steps)
        for encoding, latent, hyper_latent in triples
    ]


def decode_segments(coder: LatentCoder, containers: Sequence[Container]) -> list[DecodedLatent]:
    """Decode the latents of files of one latent grid and quality, either all complete or all cut."""
    quality, grid = containers[0].header.quality, latent_grid(containers[0])
    if containers[0].symbol_check is None:
        return [decode_cut_latent(coder, container.segments, quality, grid) for container in tracked(containers)]
    checks = [container.symbol_check or 0 for container in containers]
    return decode_latents(coder, [container.segments for container in containers], checks, quality, grid)


def restore_pictures(
    codec: Codec,
    latents: Sequence[DecodedLatent],
    containers: Sequence[Container],
    crop: Crop | None = None,
    realism: Realism = POSTERIOR_MEAN,
) -> list[Picture]:
    """Synthesise pictures from latents of one grid and quality, with the metadata and alpha of their files."""
    extras = [detach(container, partial(decode_alpha, codec)) for container in containers]
    headers = [container.header for container in containers]
    decoded = synthesise(codec.networks, latents, headers, crop, realism)
    restored = []
    for pixels, container, fields in zip(decoded, containers, extras, strict=True):
        if "alpha" in fields:
            fields["alpha"] = cropped(fields["alpha"], crop)
        restored.append(Picture(from_full_range(pixels, container), **fields))
    return restored


def restore_lossless(codec: Codec, container: Container, crop: Crop | None = None) -> Picture:
    """Restore the picture, or a crop of it, of a file that holds lossless samples."""
    picture = Picture(lossless_pixels(container), **detach(container, partial(decode_alpha, codec)))
    alpha = None if picture.alpha is None else cropped(picture.alpha, crop)
    return replace(picture, pixels=cropped(picture.pixels, crop), alpha=alpha)


def decode_alpha(codec: Codec, data: bytes, header: Header) -> np.ndarray:
    """Decode an alpha channel's `.ulc` file: plain 8-bit grey, of the size of its picture."""
    container = codec.open(data, header.n_pixels)
    alpha = container.header
    is_plain = alpha.layout is Layout.GREY and alpha.bit_depth == 8 and not container.attachments
    if not is_plain or (alpha.width, alpha.height) != (header.width, header.height):
        raise CorruptDataError("an alpha channel that does not belong to its picture")
    with share(ALPHA_SHARE):
        [picture] = decode_containers(codec, [container])
    return picture.pixels


def latent_grid(container: Container) -> tuple[int, int]:
    """Height and width of a file's latent."""
    return grid_of(container.header.height, container.header.width)
