"""`ulcodec eval --fid` and `--fvd`, with small random networks in place of Inception and I3D."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, assert_refused
from PIL import Image, ImageFilter
from random_networks import write_i3d, write_inception

from ulcodec.metrics import feature_networks, frechet_distance
from ulcodec.metrics.feature_networks import inception
from ulcodec.metrics.sample_sets import picture_statistics

N_FRAMES = 10


@pytest.fixture
def inception_file(tmp_path: Path) -> Path:
    return write_inception(tmp_path)


@pytest.fixture
def i3d_file(tmp_path: Path) -> Path:
    return write_i3d(tmp_path)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "real", 0)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Write a set of blurred pictures, and one that is partly transparent."""
    folder = write_pictures(tmp_path / "drawn", 2)
    Image.new("RGBA", (5, 5), (1, 2, 3, 4)).save(folder / "clear.png")
    return folder


def noise(seed: tuple[int, ...], width: int, height: int) -> Image.Image:
    """Draw grey noise."""
    samples = np.random.default_rng(seed).normal(128, 60, (height, width))
    return Image.fromarray(samples.clip(0, 255).astype(np.uint8))


def write_pictures(folder: Path, blur: int, count: int = 30) -> Path:
    folder.mkdir()
    for number in range(count):
        picture = noise((blur, number), 40 + number % 3, 36).convert("RGB")
        picture.filter(ImageFilter.GaussianBlur(1 + blur)).save(folder / f"{number:02d}.png")
    return folder


def write_videos(folder: Path, step: int, count: int = 8) -> Path:
    """Write animations of a texture that moves by `step` pixels a frame."""
    folder.mkdir()
    for number in range(count):
        pixels = np.asarray(noise((step, number), 70, 40).filter(ImageFilter.GaussianBlur(1)))
        frames = [Image.fromarray(pixels[:, step * t : step * t + 32]) for t in range(N_FRAMES + number)]
        frames[0].save(folder / f"{number}.gif", save_all=True, append_images=frames[1:], duration=40)
    return folder


def test_fid_of_samples(run: Run, real: Path, drawn: Path, inception_file: Path) -> None:
    options = ("--fid", "--reference", real, "--inception", inception_file)
    same, other = run("eval", real, *options, "--json"), run("eval", drawn, *options, "--json")
    assert same.json["fid"] == pytest.approx(0, abs=1e-9)
    network = inception(inception_file)
    expected = frechet_distance(picture_statistics([drawn], network), picture_statistics([real], network))
    assert expected > 1e-4
    assert other.json == {
        **{"fid": pytest.approx(expected), "n_samples": 30, "n_reference": 30, "network": network.name},
        **{"n_features": 24, "size_px": None},
    }
    assert same.stderr == ""
    assert other.stderr == "ulcodec: left out of the samples: 1 transparent\n"
    text = run("eval", drawn, *options, "--size", "16").stdout
    assert "fid " in text
    assert "size px      16" in text
    half = run("eval", drawn, *options, "--limit", "12", "--json")
    assert (half.json["n_samples"], half.json["n_reference"]) == (12, 12)
    assert "ulcodec: warning: FID of 12 samples with 24 features is biased" in half.stderr


def test_several_sources_make_one_set(run: Run, real: Path, drawn: Path, inception_file: Path) -> None:
    options = ("--fid", "--reference", drawn, "--reference", real, "--inception", inception_file, "--json")
    both = run("eval", real, drawn, *options).json
    assert (both["n_samples"], both["n_reference"]) == (60, 60)
    assert both["fid"] == pytest.approx(0, abs=1e-9)


def test_fvd_of_samples(run: Run, tmp_path: Path, i3d_file: Path) -> None:
    slow, fast = write_videos(tmp_path / "slow", 1), write_videos(tmp_path / "fast", 2)
    options = ("--fvd", "--reference", slow, "--i3d", i3d_file, "--frames", N_FRAMES, "--json")
    same, other = run("eval", slow, *options), run("eval", fast, *options)
    assert same.json["fvd"] == pytest.approx(0, abs=1e-9)
    assert other.json["fvd"] > 1e-3
    assert {name: other.json[name] for name in ("n_samples", "n_reference", "n_frames", "n_features")} == {
        **{"n_samples": 8, "n_reference": 8, "n_frames": N_FRAMES, "n_features": 32}
    }
    assert "warning: FVD of 8 samples with 32 features" in other.stderr
    sized = run("eval", fast, *options, "--size", "16")
    assert sized.json["size_px"] == 16
    assert sized.json["fvd"] != other.json["fvd"]


def test_fvd_takes_sixteen_frames_unless_told(run: Run, tmp_path: Path, i3d_file: Path) -> None:
    videos = write_videos(tmp_path / "videos", 1)
    finished = run("eval", videos, "--fvd", "--reference", videos, "--i3d", i3d_file, "--json")
    assert (finished.json["n_frames"], finished.json["n_samples"]) == (16, 2)
    assert "left out of the reference: 6 too short" in finished.stderr


def test_fid_of_reconstructions(run: Run, real: Path, inception_file: Path, tiny_model_dir: Path) -> None:
    options = ("--model", tiny_model_dir, "--qualities", "10,90", "--limit", "4")
    plain = run("eval", real, *options, "--json").json
    finished = run("eval", real, *options, "--fid", "--inception", inception_file, "--json")
    [curve], [plain_curve] = finished.json["curves"].values(), plain["curves"].values()
    assert [{**point, "fid": None} for point in curve] == [{**point, "fid": None} for point in plain_curve]
    assert all(point["fid"] > 0 for point in curve)
    assert finished.json["network"] == inception(inception_file).name
    assert "fid" not in plain_curve[0]
    assert "warning: FID of 4 samples with 24 features" in finished.stderr
    table = run("eval", real, *options, "--fid", "--inception", inception_file).stdout
    assert table.splitlines()[1].split() == ["quality", "bpp", "PSNR", "dB", "FID"]
    assert f"{curve[1]['fid']:.2f}" == table.splitlines()[3].split()[3]
    assert run("eval", real, *options).stdout.splitlines()[1].endswith("PSNR dB")


def test_fid_of_reconstructions_is_that_of_the_decoded_pictures(
    run: Run, real: Path, tmp_path: Path, inception_file: Path, tiny_model_dir: Path
) -> None:
    """The same number as that of the files that `decode` writes."""
    decoded, coded = tmp_path / "decoded", tmp_path / "coded"
    assert run("encode", real, "-r", "-o", f"{coded}/", "--model", tiny_model_dir, "--quality", "40").code == 0
    assert run("decode", coded, "-r", "-o", f"{decoded}/", "--model", tiny_model_dir).code == 0
    network = ("--fid", "--inception", inception_file, "--json")
    expected = run("eval", decoded, "--reference", real, *network).json["fid"]
    [curve] = run("eval", real, "--model", tiny_model_dir, "--qualities", "40", *network).json["curves"].values()
    assert curve[0]["fid"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fid", "--fvd", "--reference", "b"], "--fid is for pictures and --fvd for videos"),
        (["--fvd"], "--fvd compares videos with other videos"),
        (["--reference", "b"], "--reference needs --fid or --fvd"),
        (["--inception", "a.pt"], "--inception needs --fid"),
        (["--fvd", "--reference", "b", "--inception", "a.pt"], "--inception needs --fid"),
        (["--fid", "--i3d", "a.pt"], "--i3d needs --fvd"),
        (["--fid", "--frames", "16"], "--frames needs --fvd"),
        (["--fid", "--size", "64"], "--size needs --reference"),
        (["--fid", "--reference", "b", "--model", "small"], "--model does not apply with --reference"),
        (["--fid", "--reference", "b", "--against", "small"], "--against does not apply"),
        (["--fid", "--reference", "b", "--qualities", "5"], "--qualities does not apply"),
        (["--fvd", "--reference", "b", "--crop", "5"], "--crop does not apply"),
        (["--fvd", "--reference", "b", "--frames", "8"], "value for '--frames'"),
        (["--fid", "--reference", "b", "--size", "0"], "value for '--size'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(run: Run, options: list[str], message: str) -> None:
    finished = run("eval", "a", *options)
    assert finished.code == 2
    assert finished.stdout == ""
    assert message in " ".join(finished.stderr.split())
    assert "Traceback" not in finished.stderr


def test_unusable_sets_and_networks_are_one_line(
    run: Run, real: Path, tmp_path: Path, inception_file: Path, i3d_file: Path
) -> None:
    compare = ("eval", real, "--fid", "--inception", inception_file, "--reference")
    assert_refused(run(*compare, tmp_path / "none"), "none")
    (tmp_path / "empty").mkdir()
    assert_refused(run(*compare, tmp_path / "empty"), "FID needs two or more pictures in each set, got 0")
    assert_refused(run(*compare, real / "00.png"), "got 1")
    videos = ("eval", real, "--fvd", "--reference", real, "--i3d", i3d_file)
    assert_refused(run(*videos), "FVD needs two or more videos of 16 frames in each set, got 0")
    one = ("eval", real / "00.png", "--fid", "--inception", inception_file)
    assert_refused(run(*one), "FID needs two or more pictures, got 1")
    assert_refused(run("eval", real, "--fid", "--reference", real, "--inception", i3d_file), "cannot take samples")
    assert_refused(run("eval", real, "--fid", "--inception", tmp_path / "none.pt"), "none.pt: No such file")
    assert_refused(run("eval", real, "--fid", "--inception", real / "00.png"), "00.png is not a TorchScript file")


def test_absent_weights_are_one_line(run: Run, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    url = (tmp_path / "absent").as_uri()
    absent = feature_networks.Weights("i3d_torchscript.pt", url, "0" * 64, "--i3d")
    monkeypatch.setattr(feature_networks, "I3D_WEIGHTS", absent)
    finished = run("eval", real, "--fvd", "--reference", real, "--json")
    assert finished.code == 2
    assert url in finished.json["error"]
    assert "--i3d" in finished.json["error"]
    [line] = finished.stderr.splitlines()
    assert line == f"ulcodec: error: {finished.json['error']}"
