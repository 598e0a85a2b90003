"""EXIF and XMP as bytes: find them in files, read and remove the orientation, strip files of metadata."""

import re
import struct
from collections.abc import Iterator

from PIL import ExifTags, Image

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
ENTRY_BYTES = 12
XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))([1-8])")
XMP_JPEG_NAME = b"http://ns.adobe.com/xap/1.0/\0"
DESCRIPTIVE_TAGS = {
    0x010E, 0x010F, 0x0110, ORIENTATION_TAG, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298,
    0x8769, 0x8825, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F,
}  # fmt: skip
"""Tags of a TIFF file that describe the picture, not the storage of its samples."""
RESOLUTION_TAGS = {0x011A, 0x011B, 0x0128, ORIENTATION_TAG}


def tiff_structure(data: bytes) -> bytes | None:
    """Cut EXIF to begin at its TIFF header; None if its first directory cannot be read."""
    starts = [at for mark in (b"II*\0", b"MM\0*") if (at := data.find(mark, 0, 32)) >= 0]
    exif = data[min(starts) :] if starts else b""
    return exif if directory(exif) is not None else None


def directory(exif: bytes) -> tuple[str, int, int] | None:
    """Byte order for `struct`, offset of the first directory, number of its entries; None if it is incomplete."""
    if len(exif) < 8:
        return None
    order = "<" if exif[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(f"{order}I", exif, 4)
    if offset + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(f"{order}H", exif, offset)
    return (order, offset, count) if offset + 2 + ENTRY_BYTES * count <= len(exif) else None


def entries(exif: bytes) -> Iterator[tuple[int, int, int]]:
    """Position, tag and value (as a 16-bit number) of each entry of the first directory."""
    order, offset, count = directory(exif) or ("<", 0, 0)
    for position in range(offset + 2, offset + 2 + ENTRY_BYTES * count, ENTRY_BYTES):
        tag, kind = struct.unpack_from(f"{order}HH", exif, position)
        (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", exif, position + 8)
        yield position, tag, value


def orientation_of(exif: bytes | None, xmp: bytes | None) -> int:
    """Read the orientation, 1 to 8, from EXIF, or from XMP if EXIF has none; 1 if neither has one."""
    for _, tag, value in entries(exif or b""):
        if tag == ORIENTATION_TAG and value in range(1, 9):
            return value
    match = XMP_ORIENTATION.search(xmp or b"")
    return int(match[2]) if match else 1


def upright_exif(exif: bytes) -> bytes | None:
    """Remove the orientation from EXIF, with every other byte in its place; None if nothing else remains."""
    order, offset, count = directory(exif) or ("<", 0, 0)
    start, stop = offset + 2, offset + 2 + ENTRY_BYTES * count
    kept = [exif[at : at + ENTRY_BYTES] for at, tag, _ in entries(exif) if tag != ORIENTATION_TAG]
    if len(kept) == count:
        return exif
    if not kept:
        return None
    following = exif[stop : stop + 4]
    table = b"".join(kept) + following
    return (
        exif[:offset]
        + struct.pack(f"{order}H", len(kept))
        + table
        + bytes(stop + len(following) - start - len(table))
        + exif[stop + len(following) :]
    )


def upright_xmp(xmp: bytes) -> bytes:
    """Set the orientation in XMP to upright."""
    return XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def exif_of(image: Image.Image) -> bytes | None:
    """Find the EXIF of a file, also where TIFF and ImageMagick store it; None if there is none."""
    data = image.info.get("exif")
    if isinstance(data, bytes) and data:
        return data
    for name in ("Raw profile type exif", "Raw profile type APP1"):
        profile = raw_profile(image.info.get(name))
        if profile and not profile.startswith(XMP_JPEG_NAME):
            return profile
    return tiff_exif(image) if image.format == "TIFF" else None


def xmp_of(image: Image.Image) -> bytes | None:
    """Find the XMP packet of a file; None if there is none."""
    data = image.info.get("xmp")
    if isinstance(data, bytes) and data:
        return data
    for name in ("Raw profile type xmp", "Raw profile type APP1"):
        profile = raw_profile(image.info.get(name))
        if profile and (name.endswith("xmp") or profile.startswith(XMP_JPEG_NAME)):
            return profile.removeprefix(XMP_JPEG_NAME)
    return None


def raw_profile(text: object) -> bytes | None:
    """Decode ImageMagick's text chunks: a name, the number of bytes, and hexadecimal digits."""
    if not isinstance(text, str):
        return None
    lines = text.split("\n")
    try:
        return bytes.fromhex("".join(lines[3:]))
    except ValueError:
        return None


def tiff_exif(image: Image.Image) -> bytes | None:
    """Convert the descriptive tags of a TIFF file to EXIF; None if they hold only the resolution."""
    try:
        tags = image.getexif()
        kept = Image.Exif()
        for tag in DESCRIPTIVE_TAGS & set(tags):
            directory_of_tag = tags.get_ifd(tag) if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) else None
            kept[tag] = tags[tag] if directory_of_tag is None else directory_of_tag
        if set(kept) <= RESOLUTION_TAGS and kept.get(ORIENTATION_TAG, 1) == 1:
            return None
        return kept.tobytes()
    except Exception:  # `tobytes` fails on unexpected types of values
        return b"unreadable"


def without_metadata(data: bytes) -> bytes | None:
    """Strip a PNG, JPEG or WebP file to samples, alpha and palette; None for other formats."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data[:8] + b"".join(part for name, part in png_chunks(data) if name[:1].isupper() or name == b"tRNS")
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd8" + b"".join(part for marker, part in jpeg_parts(data) if marker not in JPEG_METADATA)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        parts = b"".join(part for name, part in webp_chunks(data) if name not in (b"EXIF", b"XMP ", b"ICCP"))
        return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts
    return None


JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""APP1 to APP15 and comments, except APP14, which defines the colours of CMYK."""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and whole chunks of a PNG file."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield data[position + 4 : position + 8], data[position : position + 12 + length]
        position += 12 + length


def jpeg_parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers and whole segments of a JPEG file up to the samples; all the rest is one segment."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, position + 2)
        yield data[position + 1], data[position : position + 2 + length]
        position += 2 + length
    yield 0xDA, data[position:]


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and whole chunks of a WebP file."""
    position = 12
    while position + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, position + 4)
        stop = position + 8 + length + length % 2
        yield data[position : position + 4], data[position:stop]
        position = stop


def gain_map_of(data: bytes, xmp: bytes | None) -> bool:
    """Whether a file declares a gain map: Ultra HDR JPEG, AVIF (`tmap`), Apple's HEIC."""
    in_xmp = b"hdrgm:Version" in (xmp or b"")
    marks: tuple[bytes, ...] = (b"urn:iso:std:iso:ts:21496:-1", b"tmap", b"aux:hdrgainmap")
    is_iso_media = data[4:8] == b"ftyp"
    return in_xmp or any(mark in data[: 2**16] for mark in (marks if is_iso_media else marks[:1]))
