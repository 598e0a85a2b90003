"""Pillow plugin: after `import ulcodec.pillow`, Pillow opens and saves `.ulc` files.

    import ulcodec.pillow
    Image.open("a.ulc")                      # reads size, mode and metadata; decodes on the first use of pixels
    image.save("b.ulc", quality=60)

Options of `save`: `quality`, `alpha_quality`, `strip`, `effort` as in `Codec.encode`, `model`, and Pillow's own
`icc_profile`, `exif` and `xmp`, by default those of the picture. `Image.draft(mode, size)` selects decoding at 1/8, if
that is large enough; `Image.thumbnail` calls it. `options` holds what `Image.open` has no arguments for.
"""

from dataclasses import dataclass
from typing import IO, Any

from PIL import Image, ImageFile

from ulcodec.errors import FormatError, UlcError
from ulcodec.format.attachments import metadata_field
from ulcodec.format.container import MAGIC, THUMBNAIL_PX, Attachment, Container, Layout
from ulcodec.info import model_for
from ulcodec.io.metadata import EXIF_PREFIX
from ulcodec.io.pictures import load_image
from ulcodec.store.installed import model_directory

FORMAT = "ULC"
ALPHA_KINDS = (Attachment.ALPHA, Attachment.ALPHA_ULC)
INFO_NAMES = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp", "cicp": "cicp"}


@dataclass
class Options:
    """Options of decoding: device, and realism from 0 to 1.

    `model`: that of all files, and for saving; None for the model that made a file, and `small` for saving.
    """

    model: str | None = None
    device: str = "auto"
    realism: float = 0.0


options = Options()


def codec(model: str | None, device: str, data: bytes = b"") -> Any:
    """Load a model, or the one that made a file."""
    from ulcodec.codec.loading import load_once

    return load_once(model_for(data).directory if model is None else model_directory(model), device)


class UlcImageFile(ImageFile.ImageFile):
    """A `.ulc` file as a Pillow image: verified when opened, decoded when loaded."""

    format = FORMAT
    format_description = "ulcodec picture"

    def _open(self) -> None:
        assert self.fp is not None
        self.file_bytes = self.fp.read()
        try:
            container = Container.from_bytes(self.file_bytes, max_pixels=None)
            fields: dict[str, Any] = {}
            for kind, data in container.attachments:
                if kind <= Attachment.XMP or kind is Attachment.CICP:
                    fields |= metadata_field(kind, data)
        except FormatError as error:
            raise SyntaxError(str(error)) from error
        if "exif" in fields:
            fields["exif"] = EXIF_PREFIX + fields["exif"]
        self.info.update({INFO_NAMES[name]: bytes(value) for name, value in fields.items()})
        self.info["quality"] = container.header.quality
        self._size = container.header.width, container.header.height
        has_alpha = any(kind in ALPHA_KINDS for kind, _ in container.attachments)
        deep_grey = container.header.layout is Layout.GREY and container.header.bit_depth == 16 and not has_alpha
        mode = "L" if container.header.layout is Layout.GREY else "RGB"
        self._mode = "I;16" if deep_grey else {"L": "LA", "RGB": "RGBA"}[mode] if has_alpha else mode
        self.reduced = False
        self.tile = []

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Select decoding at 1/8 if that gives at least `size`.

        Returns the mode, and the box of the picture in what will be loaded, in pixels; None if nothing changes.
        """
        small = (-(-self.width // THUMBNAIL_PX), -(-self.height // THUMBNAIL_PX))
        if size is None or not self.file_bytes or self.reduced or size[0] > small[0] or size[1] > small[1]:
            return None
        box = (0, 0, self.width / THUMBNAIL_PX, self.height / THUMBNAIL_PX)
        self._size, self.reduced = small, True
        return self.mode, box

    def load(self) -> Any:
        """Decode on the first call. Raises OSError for a file that cannot be decoded."""
        if self.file_bytes:
            data, self.file_bytes = self.file_bytes, b""
            try:
                loaded = codec(options.model, options.device, data)
                if self.reduced:
                    decoded = loaded.thumbnail(data, max_pixels=2**31).to_pil()
                else:
                    decoded = loaded.decode(data, realism=options.realism, max_pixels=2**31)
            except UlcError as error:
                raise OSError(str(error)) from error
            self.im = decoded.im
            if self.fp is not None and self._exclusive_fp:
                self.fp.close()
            self.fp = None
        return super().load()


def accept(prefix: bytes) -> bool:
    """Whether a file begins like a `.ulc` file."""
    return prefix.startswith(MAGIC)


def save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Save an image as `.ulc`. Raises OSError for a picture that cannot be coded."""
    arguments = image.encoderinfo
    model, quality = arguments.get("model", options.model) or "small", arguments.get("quality", 50)
    try:
        picture = load_image(with_metadata(image, arguments), upright=False, max_pixels=2**31)
        data = codec(model, options.device).encode(
            picture,
            quality=quality,
            alpha_quality=arguments.get("alpha_quality"),
            strip=arguments.get("strip", False),
            effort=arguments.get("effort"),
            max_pixels=2**31,
        )
    except UlcError as error:
        raise OSError(str(error)) from error
    file.write(data)


def with_metadata(image: Image.Image, arguments: dict[str, Any]) -> Image.Image:
    """Replace metadata of an image by that in the arguments of `save`."""
    copy = image.copy()
    for name in INFO_NAMES.values():
        if name in arguments:
            value = arguments[name]
            copy.info[name] = value.tobytes() if isinstance(value, Image.Exif) else value
    return copy


Image.register_open(FORMAT, UlcImageFile, accept)
Image.register_save(FORMAT, save)
Image.register_extension(FORMAT, ".ulc")
Image.register_mime(FORMAT, "image/x-ulc")
