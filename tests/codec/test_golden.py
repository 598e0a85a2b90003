"""Golden files of the shipped model, which must decode to the same latents in every version.

`python tests/codec/test_golden.py --regenerate` writes new golden files. Do that only for a new model or a new format
version, and add a note under "Format" in CHANGELOG.md.
"""

import hashlib
import json
import sys
from dataclasses import replace
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.codec.loading import codec_of
from ulcodec.format.container import Container
from ulcodec.format.sequence import FRAME_FLAG
from ulcodec.format.sequence_reader import SequenceReader, parse_frame
from ulcodec.io.pictures import load_image
from ulcodec.metrics import psnr_db
from ulcodec.store.model_directory import open_model

GOLDEN = Path(__file__).parent / "golden"
CASES = {"astronaut": (20, 200, 240, 104, 136), "coffee": (80, 100, 200, 61, 77), "chelsea": (100, 80, 120, 40, 24)}
"""Name -> quality, top, left, height, width of a crop of scikit-image's picture."""

PICTURE, HEIGHT, WIDTH = "astronaut", 72, 88
CLIPS = {
    "clip": (45, ((60, 200), (61, 203), (61, 203), (62, 206))),
    "predicted": (80, ((60, 200), (61, 203), (62, 206), (62, 206), (63, 208), (63, 211), (60, 216), (64, 212))),
}
"""Golden sequences: quality, and top and left of each frame in the picture. `clip` has intra frames and a repetition,
`predicted` also frames with one and with two references."""

AS_PICTURES = "predicted_as_pictures"
"""The clip of `predicted`, coded by the model without its video part."""


def latent_sha256(codec: Codec, data: bytes) -> str:
    container = Container.from_bytes(data)
    latents = [latent.astype("<i8").ravel() for latent in codec.decode_latents(container)]
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


@pytest.mark.parametrize("name", CLIPS)
def test_golden_sequences_decode_to_the_golden_latents(small: Codec, name: str) -> None:
    expected = json.loads((GOLDEN / "latents.json").read_text())
    assert sequence_sha256(small, (GOLDEN / f"{name}.ulc").read_bytes()) == expected[name]


@pytest.mark.parametrize("name", CLIPS)
def test_golden_sequences_resemble_their_sources(small: Codec, name: str) -> None:
    frames, originals = list(small.decode_video(GOLDEN / f"{name}.ulc")), clip_frames(name)
    assert [frame.time_s for frame in frames] == [Fraction(number, 25) for number in range(len(originals))]
    assert min(psnr_db(original, frame.pixels) for original, frame in zip(originals, frames, strict=True)) > 24


def test_sequence_from_before_the_video_part_decodes_to_its_latents(small: Codec) -> None:
    """The pictures of a model decode the sequences that it made without an entropy model of predicted frames."""
    data, expected = (GOLDEN / f"{AS_PICTURES}.ulc").read_bytes(), json.loads((GOLDEN / "latents.json").read_text())
    video = small.decode_video(data)
    assert video.reader.header.fingerprint == small.fingerprint_bytes != small.sequence_fingerprint_bytes
    assert sequence_sha256(small, data) == expected[AS_PICTURES]
    assert min(map(psnr_db, clip_frames("predicted"), (frame.pixels for frame in video))) > 24


def test_golden_sequence_has_all_kinds_of_frames(small: Codec) -> None:
    with open(GOLDEN / "predicted.ulc", "rb") as file:
        reader = SequenceReader(file)
        frames = [parse_frame(record) for _, record in reader.records(reader.first_record) if record.tag & FRAME_FLAG]
    kinds = {(len(frame.references), frame.is_predicted, frame.payload is not None) for frame in frames}
    assert kinds >= {(0, False, True), (1, False, False), (1, True, True), (2, True, True)}


def sequence_sha256(codec: Codec, data: bytes) -> str:
    """Hash all latents of a sequence."""
    decoded = codec.decode_video(data).latents()
    latents = [part.astype("<i8").ravel() for latent, _, _ in decoded for part in latent]
    return hashlib.sha256(np.concatenate(latents).tobytes()).hexdigest()


def clip_frames(name: str) -> list[np.ndarray]:
    pixels = load_image((files("skimage.data") / f"{PICTURE}.png").read_bytes()).pixels
    return [pixels[top : top + HEIGHT, left : left + WIDTH] for top, left in CLIPS[name][1]]


def source_crop(name: str) -> np.ndarray:
    _, top, left, height, width = CASES[name]
    pixels = load_image((files("skimage.data") / f"{name}.png").read_bytes()).pixels
    return pixels[top : top + height, left : left + width]


def regenerate() -> None:
    codec = ulcodec.load(device="cpu")
    without_video = codec_of(replace(open_model("small"), video=None), torch.device("cpu"))
    hashes = {}
    for name, (quality, *_) in CASES.items():
        data = codec.encode(source_crop(name), quality=quality)
        (GOLDEN / f"{name}.ulc").write_bytes(data)
        hashes[name] = latent_sha256(codec, data)
    for name, clip, made_by in (*((name, name, codec) for name in CLIPS), (AS_PICTURES, "predicted", without_video)):
        data = b"".join(made_by.encode_video(clip_frames(clip), quality=CLIPS[clip][0], frame_rate=25))
        (GOLDEN / f"{name}.ulc").write_bytes(data)
        hashes[name] = sequence_sha256(made_by, data)
    (GOLDEN / "latents.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit("nothing done: use --regenerate to replace the golden files")
    regenerate()
