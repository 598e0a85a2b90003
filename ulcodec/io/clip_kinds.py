"""Tell videos and animations from still pictures, by the beginning of a file and its name."""

from pathlib import Path

from PIL import Image

from ulcodec.io.pictures import open_image

HEAD_BYTES = 64
"""Bytes at the beginning of a file that tell its format."""
TRANSPORT_SUFFIXES = frozenset({".ts", ".mts", ".m2ts", ".m2t", ".trp"})
"""Extensions of MPEG transport streams, whose first byte alone says little."""
VIDEO_SUFFIXES = TRANSPORT_SUFFIXES - {".ts"} | {
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".ivf",
    ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm",
    ".rmvb", ".vob", ".webm", ".wmv", ".y4m",
}  # fmt: skip
"""Usual extensions of video files. Most files that end in .ts are no videos."""
ANIMATION_SUFFIXES = frozenset({".apng", ".gif", ".webp"})
"""Usual extensions of animations. A still WebP has one of them too."""
VIDEO_MAGIC = (
    *(b"YUV4MPEG2", b"\x1a\x45\xdf\xa3", b"OggS", b"FLV\x01", b"DKIF", b"\0\0\1\xba", b"\0\0\1\xb3"),
    *(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x06\x0e\x2b\x34\x02\x05\x01\x01"),
)
"""First bytes of YUV4MPEG2, Matroska, Ogg, FLV, IVF, MPEG program and video streams, ASF and MXF."""
PICTURE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
STILL_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif", b"mif1", b"mif2", b"msf1"})
ANIMATED_BRANDS = frozenset({b"avif", b"avis"})
ANIMATED_FORMATS = frozenset({"GIF", "PNG", "WEBP", "AVIF"})


def is_video(head: bytes, name: str) -> bool:
    """Whether a file is a video rather than a picture, by its first `HEAD_BYTES` bytes and its name."""
    suffix = Path(name).suffix.lower()
    if head[4:8] == b"ftyp":
        return head[8:12] not in STILL_BRANDS | ANIMATED_BRANDS
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    if head.startswith(PICTURE_MAGIC):
        return False
    if suffix in TRANSPORT_SUFFIXES:
        return b"G" in (head[:1], head[4:5])
    return head.startswith(VIDEO_MAGIC) or suffix in VIDEO_SUFFIXES


def may_be_animation(head: bytes) -> bool:
    """Whether a file may be an animation, by its first `HEAD_BYTES` bytes."""
    return head.startswith((b"GIF8", b"\x89PNG")) or head[8:12] in ANIMATED_BRANDS | {b"WEBP"}


def is_animation(data: bytes) -> bool:
    """Whether a file is an animated GIF, PNG, WebP or AVIF: one of more than one frame."""
    try:
        image = open_image(data)
        return image.format in ANIMATED_FORMATS and len(frame_numbers(image)) > 1
    except Exception:  # decoders of damaged files raise almost anything
        return False


def frame_numbers(image: Image.Image) -> range:
    """Numbers of the frames of an animation. A PNG may begin with a picture that is no frame."""
    return range(int(getattr(image, "default_image", False)), getattr(image, "n_frames", 1))
