"""`ulcodec decode` of one file: recovery, crop, depth and option values."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_refused
from PIL import Image

from ulcodec.io.pictures import load_image


def test_recover_decodes_a_damaged_file(coded: Path, tiny_model_dir: Path, run: Run) -> None:
    data = coded.read_bytes()
    coded.write_bytes(data[:-6] + bytes([data[-6] ^ 1]) + data[-5:])
    target = coded.with_name("recovered.png")
    assert_refused(run("decode", coded, "-o", target, "--model", tiny_model_dir), "checksum")
    assert not target.exists()
    finished = run("decode", coded, "-o", target, "--model", tiny_model_dir, "--recover", "--json")
    assert finished.code == 0
    assert finished.json["n_segments"] == 3
    assert "3 of 4 segments" in finished.stderr
    assert load_image(target).pixels.shape == (37, 51, 3)


def test_crop_option_decodes_the_crop_of_the_picture(
    photo: Path, coded: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    for name, options in (("whole.png", ()), ("part.png", ("--crop", "5,6,20,10"))):
        assert run("decode", coded, "-o", tmp_path / name, "--model", tiny_model_dir, *options).code == 0
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "part.png") as part:
        np.testing.assert_array_equal(np.asarray(whole)[6:16, 5:25], np.asarray(part))
    outside = ("decode", coded, "-o", tmp_path / "none.png", "--model", tiny_model_dir, "--crop", "40,0,20,20")
    assert_refused(run(*outside), "not inside 51x37")


def test_depth_option_sets_the_output_depth(tmp_path: Path, tiny_model_dir: Path, run: Run) -> None:
    samples = (np.add.outer(np.arange(40), np.arange(50)) * 700).astype(np.uint16)
    Image.fromarray(samples).save(tmp_path / "deep.png")
    assert run("encode", tmp_path / "deep.png", "--model", tiny_model_dir).code == 0
    coded = tmp_path / "deep.ulc"
    assert run("info", coded, "--json").json["bit_depth"] == 16
    modes = []
    for depth in ((), ("--depth", 8), ("--depth", 16)):
        run("decode", coded, "-o", tmp_path / "out.png", "--force", "--model", tiny_model_dir, *depth)
        with Image.open(tmp_path / "out.png") as image:
            modes.append(image.mode)
    assert modes == ["I;16", "L", "I;16"]


@pytest.mark.parametrize("option", ["--fraction", "--realism"])
def test_fraction_and_realism_refuse_nan(coded: Path, run: Run, option: str) -> None:
    finished = run("decode", coded, option, "nan", "--json")
    assert finished.code == 2
    assert option in json.loads(finished.stdout)["error"]
