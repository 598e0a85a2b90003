"""Memory of a decode: bounded before the checksums are verified, then in proportion to the declared pixels."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.format.container import Container

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc need Linux")

MIB = 2**20
BASE_MIB = 192
"""Allowance for stacks and arenas of threads, and for libraries that load at their first use."""

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


def forge(coded: bytes, width: int, height: int) -> bytes:
    """Return a file of empty segments with other sides and right checksums."""
    container = Container.from_bytes(coded)
    header = dataclasses.replace(container.header, width=width, height=height)
    return dataclasses.replace(container, header=header, segments=(b"",) * 4).to_bytes()


def decode(model: Path | str, file: Path, data: bytes, allowance: int) -> str:
    """Decode a file in a process that may allocate `allowance` further bytes. Return the shape or the error."""
    file.write_bytes(data)
    command = [sys.executable, "-c", DECODE_UNDER_A_LIMIT, str(model), str(file), str(allowance)]
    finished = subprocess.run(command, capture_output=True, text=True)
    return finished.stdout.strip() or finished.stderr


@pytest.fixture(scope="module")
def coded(tiny_codec: Codec) -> bytes:
    return tiny_codec.encode(np.zeros((16, 16, 3), dtype=np.uint8))


def test_damaged_file_takes_less_than_a_mebibyte(tmp_path: Path, tiny_model_dir: Path, coded: bytes) -> None:
    bomb = bytearray(forge(coded, 2**14, 2**14))
    bomb[-1] ^= 1
    assert decode(tiny_model_dir, tmp_path / "bomb.ulc", bytes(bomb), MIB) == "ChecksumError"


@pytest.mark.parametrize("model", ["tiny", "small"])
@pytest.mark.parametrize("sides", [(1024, 1024), (16, 2**17)])
def test_memory_is_proportional_to_the_declared_pixels(
    tmp_path: Path, tiny_model_dir: Path, coded: bytes, sides: tuple[int, int], model: str
) -> None:
    """The decode ends with a picture or a FormatError within the allowance."""
    allowance = BASE_MIB * MIB + BYTES_PER_PIXEL * sides[0] * sides[1]
    data = forge(coded, *sides)
    if model == "small":
        container = Container.from_bytes(data)
        header = dataclasses.replace(container.header, fingerprint=ulcodec.load().fingerprint_bytes)
        data = dataclasses.replace(container, header=header).to_bytes()
    outcome = decode(tiny_model_dir if model == "tiny" else "small", tmp_path / "bomb.ulc", data, allowance)
    assert outcome in (f"({sides[1]}, {sides[0]}, 3)", "CorruptDataError", "ArithmeticMismatchError")
