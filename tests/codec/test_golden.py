"""Golden files of the shipped model, which must decode to the same latents in every version.

`python tests/codec/test_golden.py --regenerate` writes new golden files. Do that only for a new model or a new format
version, and add a note under "Format" in CHANGELOG.md.
"""

import hashlib
import json
import sys
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.format.container import Container
from ulcodec.io.pictures import load_image
from ulcodec.metrics import psnr_db

GOLDEN = Path(__file__).parent / "golden"
CASES = {"astronaut": (20, 200, 240, 104, 136), "coffee": (80, 100, 200, 61, 77), "chelsea": (100, 80, 120, 40, 24)}
"""Name -> quality, top, left, height, width of a crop of scikit-image's picture."""

CLIP = ("astronaut", 45, ((60, 200), (61, 203), (61, 203), (62, 206)), 72, 88)
"""Golden sequence: picture, quality, top and left of each frame, height, width. The third frame repeats the second."""


def latent_sha256(codec: Codec, data: bytes) -> str:
    container = Container.from_bytes(data)
    latents = [latent.cpu().numpy().astype("<i8").ravel() for latent in codec.decode_latents(container)]
    integers = np.concatenate(latents)
    return hashlib.sha256(integers.tobytes()).hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_golden_files_decode_to_the_golden_latents(small: Codec, name: str) -> None:
    expected = json.loads((GOLDEN / "latents.json").read_text())
    assert latent_sha256(small, (GOLDEN / f"{name}.ulc").read_bytes()) == expected[name]


@pytest.mark.parametrize("name", CASES)
def test_golden_files_resemble_their_sources(small: Codec, name: str) -> None:
    decoded = small.decode_array((GOLDEN / f"{name}.ulc").read_bytes()).astype(float)
    error = decoded - source_crop(name)
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 24


def test_golden_sequence_decodes_to_the_golden_latents(small: Codec) -> None:
    expected = json.loads((GOLDEN / "latents.json").read_text())
    assert sequence_sha256(small, (GOLDEN / "clip.ulc").read_bytes()) == expected["clip"]


def test_golden_sequence_resembles_its_source(small: Codec) -> None:
    frames = list(small.decode_video(GOLDEN / "clip.ulc"))
    assert [frame.time_s for frame in frames] == [0, Fraction(1, 25), Fraction(2, 25), Fraction(3, 25)]
    assert min(psnr_db(original, frame.pixels) for original, frame in zip(clip_frames(), frames, strict=True)) > 24


def sequence_sha256(codec: Codec, data: bytes) -> str:
    """Hash all latents of a sequence."""
    decoded = codec.decode_video(data).latents()
    latents = [part.cpu().numpy().astype("<i8").ravel() for latent, _ in decoded for part in latent]
    return hashlib.sha256(np.concatenate(latents).tobytes()).hexdigest()


def clip_frames() -> list[np.ndarray]:
    name, _, places, height, width = CLIP
    pixels = load_image((files("skimage.data") / f"{name}.png").read_bytes()).pixels
    return [pixels[top : top + height, left : left + width] for top, left in places]


def source_crop(name: str) -> np.ndarray:
    _, top, left, height, width = CASES[name]
    pixels = load_image((files("skimage.data") / f"{name}.png").read_bytes()).pixels
    return pixels[top : top + height, left : left + width]


def regenerate() -> None:
    codec = ulcodec.load(device="cpu")
    hashes = {}
    for name, (quality, *_) in CASES.items():
        data = codec.encode(source_crop(name), quality=quality)
        (GOLDEN / f"{name}.ulc").write_bytes(data)
        hashes[name] = latent_sha256(codec, data)
    data = b"".join(codec.encode_video(clip_frames(), quality=CLIP[1], frame_rate=25))
    (GOLDEN / "clip.ulc").write_bytes(data)
    hashes["clip"] = sequence_sha256(codec, data)
    (GOLDEN / "latents.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit("nothing done: use --regenerate to replace the golden files")
    regenerate()
