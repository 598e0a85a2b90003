"""What a file may cost in memory: nothing before its checksums, then in proportion to the pixels that it declares."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.format.container import Container

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")

MIB = 2**20
BASE_MIB = 192
"""Threads' stacks and arenas, libraries that load at the first use."""

BYTES_PER_PIXEL = 300

DECODE_UNDER_A_LIMIT = """
import resource, sys, torch, ulcodec
from ulcodec.errors import FormatError
torch.set_num_threads(1)
codec, data, allowance = ulcodec.load(sys.argv[1], device="cpu"), open(sys.argv[2], "rb").read(), int(sys.argv[3])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + allowance, used + allowance))
try:
    print(codec.decode_array(data).shape)
except FormatError as error:
    print(type(error).__name__)
"""


def forged(coded: bytes, width: int, height: int) -> bytes:
    """A file of empty segments with other sides and right checksums."""
    container = Container.from_bytes(coded)
    header = dataclasses.replace(container.header, width=width, height=height)
    return dataclasses.replace(container, header=header, segments=(b"",) * 4).to_bytes()


def decode(model: Path | str, file: Path, data: bytes, allowance: int) -> str:
    file.write_bytes(data)
    command = [sys.executable, "-c", DECODE_UNDER_A_LIMIT, str(model), str(file), str(allowance)]
    finished = subprocess.run(command, capture_output=True, text=True)
    return finished.stdout.strip() or finished.stderr


@pytest.fixture(scope="module")
def coded(tiny_codec: Codec) -> bytes:
    return tiny_codec.encode(np.zeros((16, 16, 3), dtype=np.uint8))


def test_a_damaged_bomb_costs_nothing(tmp_path: Path, tiny_model_dir: Path, coded: bytes) -> None:
    bomb = bytearray(forged(coded, 2**14, 2**14))
    bomb[-1] ^= 1
    assert decode(tiny_model_dir, tmp_path / "bomb.ulc", bytes(bomb), MIB) == "ChecksumError"


@pytest.mark.parametrize("model", ["tiny", "small"])
@pytest.mark.parametrize("sides", [(1024, 1024), (16, 2**17)])
def test_cost_is_proportional_to_the_declared_pixels(
    tmp_path: Path, tiny_model_dir: Path, coded: bytes, sides: tuple[int, int], model: str
) -> None:
    """Whatever comes out, a picture or a FormatError, it comes within the allowance."""
    allowance = BASE_MIB * MIB + BYTES_PER_PIXEL * sides[0] * sides[1]
    data = forged(coded, *sides)
    if model == "small":
        container = Container.from_bytes(data)
        header = dataclasses.replace(container.header, fingerprint=ulcodec.load().fingerprint_bytes)
        data = dataclasses.replace(container, header=header).to_bytes()
    outcome = decode(tiny_model_dir if model == "tiny" else "small", tmp_path / "bomb.ulc", data, allowance)
    assert outcome in (f"({sides[1]}, {sides[0]}, 3)", "CorruptDataError", "ArithmeticMismatchError")
