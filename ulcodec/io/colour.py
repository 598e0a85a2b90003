"""Colours of pictures: CICP (ITU-T H.273), PNG's gamma and primaries, and ICC profiles.

Where a format has no field for the colours of a picture, an ICC profile is made for them.
"""

import struct
from binascii import crc32
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ulcodec.format.cicp import SRGB_TRANSFER, UNSPECIFIED, Cicp
from ulcodec.io.metadata import png_chunks

Chromaticities = tuple[float, ...]
"""x and y of white, red, green, blue (CIE 1931)."""

D65, DCI_WHITE, C_WHITE, E_WHITE = (0.3127, 0.3290), (0.314, 0.351), (0.310, 0.316), (1 / 3, 1 / 3)
PRIMARIES: dict[int, Chromaticities] = {
    1: (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    4: (*C_WHITE, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*C_WHITE, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (*E_WHITE, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (*DCI_WHITE, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
"""Table 2 of H.273."""
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
PROFILE_WHITE = np.array([0.9642, 1.0, 0.8249])
"""D50, the white of profiles (ICC.1:2001-04)."""


def bt709_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    light: NDArray[np.float64] = np.where(
        signal < 0.0812429, signal / 4.5, ((signal + 0.0992968) / 1.0992968) ** (1 / 0.45)
    )
    return light


def srgb_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    light: NDArray[np.float64] = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return light


def power(exponent: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda signal: signal**exponent


LIGHT: dict[int, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    1: bt709_light, 6: bt709_light, 14: bt709_light, 15: bt709_light,
    4: power(2.2), 5: power(2.8), 8: power(1.0), SRGB_TRANSFER: srgb_light, 17: power(2.6),
}  # fmt: skip
"""Functions from signal to light, both 0 to 1, by transfer characteristics of H.273 that a profile can hold."""


def cicp_profile(cicp: Cicp, grey: bool) -> bytes | None:
    """An ICC profile of the same colours as code points. None if no profile can describe them."""
    primaries = PRIMARIES.get(1 if cicp.primaries == UNSPECIFIED else cicp.primaries)
    light = LIGHT.get(SRGB_TRANSFER if cicp.transfer == UNSPECIFIED else cicp.transfer)
    if primaries is None or light is None or not cicp.full_range:
        return None
    return profile_of(primaries, light, grey)


def profile_of(
    chromaticities: Chromaticities, light: Callable[[NDArray[np.float64]], NDArray[np.float64]], grey: bool
) -> bytes | None:
    """Make an ICC profile, version 2: matrix and curve (ICC.1:2001-04, 6.3.1). None for degenerate primaries."""
    curve = np.round(65535 * light(np.linspace(0, 1, 1024))).astype(">u2")
    tone = b"curv" + bytes(4) + struct.pack(">I", len(curve)) + curve.tobytes()
    tags = {b"desc": description(b"colours of the picture"), b"cprt": b"text" + bytes(4) + b"CC0\0"}
    tags[b"wtpt"] = xyz_tag(PROFILE_WHITE)
    if grey:
        tags[b"kTRC"] = tone
    else:
        try:
            columns = adapted_primaries(chromaticities)
        except (np.linalg.LinAlgError, ZeroDivisionError):
            return None
        tags |= {name: xyz_tag(columns[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone)
    return profile_file(tags, b"GRAY" if grey else b"RGB ")


def adapted_primaries(chromaticities: Chromaticities) -> NDArray[np.float64]:
    """XYZ of red, green and blue as columns, adapted from their white to D50 (Bradford). LinAlgError if degenerate."""
    white, *colours = (
        np.array([x, y, 1 - x - y]) for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True)
    )
    if not white[1] > 0:
        raise np.linalg.LinAlgError("a white without light")
    white = white / white[1]
    matrix = np.stack(colours, axis=1)
    matrix = matrix * np.linalg.solve(matrix, white)
    gain = (BRADFORD @ PROFILE_WHITE) / (BRADFORD @ white)
    adapted: NDArray[np.float64] = np.linalg.inv(BRADFORD) @ (gain[:, None] * BRADFORD) @ matrix
    return adapted


def xyz_tag(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values.clip(-4, 4)))


def description(text: bytes) -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(1 + 4 + 4 + 2 + 1 + 67)


def profile_file(tags: dict[bytes, bytes], space: bytes) -> bytes:
    """Serialise a display profile: header, table of tags, and each distinct content once, at multiples of 4."""
    table, body, places = struct.pack(">I", len(tags)), b"", dict[bytes, int]()
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        if content not in places:
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", places[content], len(content))
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(body), bytes(4), 0x02100000, b"mntr", space, b"XYZ ",
                       struct.pack(">6H", 2020, 1, 1, 0, 0, 0), b"acsp")  # fmt: skip
    white = struct.pack(">3i", *(round(value * 65536) for value in PROFILE_WHITE))
    return head.ljust(68, b"\0") + white.ljust(60, b"\0") + table + body


def png_profile(image: Image.Image, grey: bool) -> bytes | None:
    """Convert PNG's gAMA and cHRM to a profile; None if there are none, or if the picture is sRGB."""
    gamma, primaries = image.info.get("gamma"), image.info.get("chromaticity")
    if image.format != "PNG" or "srgb" in image.info or (gamma is None and primaries is None):
        return None
    chromaticities = tuple(float(value) for value in primaries) if primaries else PRIMARIES[1]
    # PNG writes 45455 for the curve of sRGB.
    light = srgb_light if not gamma or abs(gamma - 0.45455) < 0.005 else power(1 / gamma)
    if light is srgb_light and np.abs(np.array(chromaticities) - PRIMARIES[1]).max() < 0.002:
        return None
    return profile_of(chromaticities, light, grey)


def usable_profile(icc: object, grey: bool) -> bytes | None:
    """Return a profile unless it is broken, does not fit the picture's samples, or equals sRGB."""
    if not isinstance(icc, bytes):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        if profile.profile.xcolor_space.strip() != ("GRAY" if grey else "RGB"):
            return None
        if grey:
            return icc
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(
            Image.fromarray(colours), profile, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
    except (OSError, ImageCms.PyCMSError):
        return None
    return None if np.abs(np.asarray(converted).astype(int) - colours).max() <= 1 else icc


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Convert colours to sRGB, by their profile if it can be read."""
    profiles: list[Any] = [] if icc is None else [BytesIO(icc)]
    for profile in [*profiles, *([ImageCms.createProfile("LAB")] if image.mode == "LAB" else [])]:
        try:
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (OSError, ImageCms.PyCMSError):
            continue
        if converted is not None:
            return converted
    return image.convert("RGB")


def cicp_of(data: bytes) -> Cicp | None:
    """Read the CICP of a PNG, AVIF or HEIC file; None if there is none, or if the picture is sRGB."""
    cicp = None
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        for name, chunk in png_chunks(data):
            if name == b"IDAT":
                break
            cicp = Cicp.read(chunk[8:12]) if name == b"cICP" and len(chunk) == 16 else cicp
    elif data[4:8] == b"ftyp":
        cicp = next((Cicp(*struct.unpack_from(">HH", data, at)) for at in nclx_places(data)), None)
    return None if cicp is None or cicp.is_default else cicp


def nclx_places(data: bytes) -> Iterator[int]:
    """Positions of the primaries in each `colr` box of type `nclx` of an ISO base media file, in file order."""
    meta = data[: data.find(b"mdat")] if b"mdat" in data else data
    at = meta.find(b"colrnclx")
    while at >= 0:
        if at + 15 <= len(meta):
            yield at + 8
        at = meta.find(b"colrnclx", at + 1)


def with_cicp(file: bytes, cicp: Cicp) -> bytes:
    """Write CICP into a PNG or AVIF file."""
    if file.startswith(b"\x89PNG\r\n\x1a\n"):
        chunk = b"cICP" + bytes(cicp)
        return file[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", crc32(chunk)) + file[33:]
    changed = bytearray(file)
    for at in nclx_places(file):
        struct.pack_into(">HH", changed, at, cicp.primaries, cicp.transfer)
    return bytes(changed)
