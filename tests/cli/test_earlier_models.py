"""Files of models that are not shipped: they open through packages.

The golden models are tiny ones that earlier versions of `ulcodec` trained, exported and encoded with: `tiny-b49b2ee2`
that of commit 85b3920, whose models had no video part, `tiny-38eb3cd9` that of 69b8abd. `latents.json` has the hashes
that those versions wrote.
"""

import hashlib
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_refused
from model_packages import install_by_hand
from PIL import Image

import ulcodec
import ulcodec.pillow
from ulcodec.datasets import UlcDecoder
from ulcodec.format.container import Container
from ulcodec.io.pictures import load_image
from ulcodec.metrics import psnr_db

pytest.importorskip("build", reason="needs build")
pytest.importorskip("skimage", reason="needs scikit-image")

GOLDEN = Path(__file__).parent.parent / "codec" / "golden"
EARLIER = sorted((GOLDEN / "earlier").iterdir())
DIGITS = {folder.name: folder.name.removeprefix("tiny-") for folder in EARLIER}
PICTURES = {"astronaut": (200, 240, 104, 136), "coffee": (100, 200, 61, 77), "chelsea": (80, 120, 40, 24)}
"""Name -> top, left, height, width of a crop of scikit-image's picture."""
LEAST_PSNR_DB = 23
VIDEO_MODEL = "tiny-38eb3cd9"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which pip has installed the packages of the golden models, built by the command line."""
    folder = tmp_path_factory.mktemp("earlier")
    for model in EARLIER:
        command = [sys.executable, "-m", "ulcodec_cli", "model", "package", str(model / "model"), "-o", "wheels"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    wheels = [str(wheel) for wheel in (folder / "wheels").glob("*.whl")]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", "site"]
    subprocess.run([*install, *wheels], cwd=folder, check=True, capture_output=True)
    return folder / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages are installed for this test."""
    monkeypatch.syspath_prepend(site)


def golden_latents(model: Path) -> dict[str, str]:
    return json.loads((model / "latents.json").read_text())


def sha256_of(latents: list[np.ndarray]) -> str:
    return hashlib.sha256(np.concatenate([part.astype("<i8").ravel() for part in latents]).tobytes()).hexdigest()


def source_crop(name: str) -> np.ndarray:
    top, left, height, width = PICTURES[name]
    pixels = load_image((files("skimage.data") / f"{name}.png").read_bytes()).pixels
    return pixels[top : top + height, left : left + width]


@pytest.mark.parametrize("model", EARLIER, ids=DIGITS)
@pytest.mark.usefixtures("installed")
def test_golden_files_decode_to_the_golden_latents(model: Path) -> None:
    for name, expected in golden_latents(model).items():
        file = model / f"{name}.ulc"
        codec = ulcodec.load_for(file, device="cpu")
        assert codec.fingerprint == DIGITS[model.name]
        if name in PICTURES:
            assert sha256_of(list(codec.decode_latents(Container.from_bytes(file.read_bytes())))) == expected
        else:
            frames = codec.decode_video(file).latents()
            assert sha256_of([part for latent, _, _ in frames for part in latent]) == expected


@pytest.mark.usefixtures("installed")
def test_one_command_decodes_files_of_all_models(run: Run, tmp_path: Path) -> None:
    (tmp_path / "coded").mkdir()
    for folder in (GOLDEN, *EARLIER):
        for file in folder.glob("*.ulc"):
            (tmp_path / "coded" / f"{folder.name}-{file.name}").write_bytes(file.read_bytes())
    assert run("decode", tmp_path / "coded", "-o", tmp_path / "decoded").code == 0
    decoded = [file.stem for file in (tmp_path / "decoded").iterdir() if file.suffix in (".png", ".mp4")]
    assert sorted(decoded) == sorted(file.stem for file in (tmp_path / "coded").iterdir())
    assert len(decoded) == 14
    for model in EARLIER:
        for name in PICTURES:
            pixels = np.asarray(Image.open(tmp_path / "decoded" / f"{model.name}-{name}.png"))
            assert psnr_db(source_crop(name), pixels) > LEAST_PSNR_DB
    workers = run("decode", tmp_path / "coded", "-o", tmp_path / "again", "--jobs", 2)
    assert (workers.code, workers.stderr) == (0, "")
    for file in (tmp_path / "decoded").glob("*.png"):
        difference = np.asarray(Image.open(file)).astype(int) - np.asarray(Image.open(tmp_path / "again" / file.name))
        assert np.abs(difference).max() <= 1, "float networks may differ with the number of threads"


def test_errors_name_the_package_until_it_is_installed(run: Run, tmp_path: Path, site: Path) -> None:
    folder = tmp_path / "coded"
    folder.mkdir()
    for place in (GOLDEN, *EARLIER):
        (folder / f"{place.name}.ulc").write_bytes((place / "coffee.ulc").read_bytes())
    digits = DIGITS[VIDEO_MODEL]
    assert_refused(
        run("decode", folder / f"{VIDEO_MODEL}.ulc"), f"made by model {digits}", f"ulcodec-model-NAME with {digits}"
    )
    assert_refused(
        run("decode", EARLIER[0] / "predicted.ulc", "-o", tmp_path / "a.mp4"), "ulcodec-model-NAME with 5a14ffd1"
    )
    some = run("decode", folder, "-o", tmp_path / "decoded")
    assert some.code == 1
    assert "1 done, 0 up to date, 2 failed" in some.stdout
    sys.path.insert(0, str(site))
    try:
        rest = run("decode", folder, "-o", tmp_path / "decoded")
    finally:
        sys.path.remove(str(site))
    assert rest.code == 0
    assert "2 done, 1 up to date, 0 failed" in rest.stdout


@pytest.mark.usefixtures("installed")
def test_list_and_info_show_the_packages(run: Run) -> None:
    models = {row["model"]: row for row in run("model", "list", "--json").json["models"]}
    assert set(models) == {"small", "tiny-b49b2ee2", "tiny-38eb3cd9-5a14ffd1"}
    row = models["tiny-38eb3cd9-5a14ffd1"]
    assert (row["fingerprint"], row["sequence_fingerprint"]) == ("38eb3cd9", "5a14ffd1")
    assert (row["package"], row["version"]) == ("ulcodec-model-tiny-38eb3cd9-5a14ffd1", "1.0")
    assert row["bytes"] > 1e6
    table = run("model", "list").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["model", *models]
    for name in ("coffee", "predicted"):
        info = run("info", GOLDEN / "earlier" / VIDEO_MODEL / f"{name}.ulc", "--json").json
        assert (info["model"], info["package"]) == (row["model"], row["package"])


@pytest.mark.usefixtures("installed")
def test_commands_take_the_model_of_the_file(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "coffee.png"
    Image.fromarray(source_crop("coffee")).save(source)
    coded = EARLIER[0] / "coffee.ulc"
    assert run("compare", source, coded, "--json").json["psnr_db"] > LEAST_PSNR_DB
    assert run("info", coded, "--bound", "--json").json["bound_bits"] > 100
    clip = EARLIER[0] / "predicted.ulc"
    assert run("compare", clip, clip, "--json").json["n_frames"] == 8
    assert run("decode", clip, "--frame", "3", "-o", tmp_path / "3.png").code == 0
    assert run("decode", coded, "--thumbnail", "-o", tmp_path / "small.png").code == 0
    assert Image.open(tmp_path / "small.png").size == (10, 8)
    finished = run("decode", coded, "--json", "-o", tmp_path / "c.png").json
    assert finished["model"] == run("info", coded, "--json").json["model"] == "tiny-38eb3cd9-5a14ffd1"
    assert_refused(
        run("decode", coded, "--model", "small", "-o", tmp_path / "b.png"), "Load the installed model tiny-3"
    )


@pytest.mark.usefixtures("installed")
def test_packaged_models_encode(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "coffee.png"
    Image.fromarray(source_crop("coffee")).save(source)
    for name in ("b49b2ee2", "tiny-b49b2ee2", "tiny-38eb3cd9", "5a14ffd1"):
        assert run("encode", source, "--model", name, "-o", tmp_path / f"{name}.ulc").code == 0
    assert run("info", tmp_path / "5a14ffd1.ulc", "--json").json["fingerprint"] == "38eb3cd9"
    assert_refused(run("encode", source, "--model", "tiny"), "choose one: tiny-38eb3cd9-5a14ffd1, tiny-b49b2ee2")


def test_broken_package_is_one_line_among_many_files(
    run: Run, tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = install_by_hand(tmp_path, EARLIER[0] / "model", "ulcodec-model-bad", value="not there")
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(copy.parent)
    (tmp_path / "coded").mkdir()
    for number in range(3):
        (tmp_path / "coded" / f"{number}.ulc").write_bytes((EARLIER[1] / "coffee.ulc").read_bytes())
    finished = run("decode", tmp_path / "coded", "-o", tmp_path / "decoded")
    assert finished.code == 0
    [line] = finished.stderr.splitlines()
    assert line.startswith(
        "ulcodec: warning: the model package ulcodec-model-bad is left out: expected one entry point"
    )


def test_damaged_file_of_a_missing_model_names_the_model(run: Run, tmp_path: Path) -> None:
    data = bytearray((EARLIER[1] / "astronaut.ulc").read_bytes())
    data[-9] ^= 1
    (tmp_path / "a.ulc").write_bytes(data)
    assert_refused(run("decode", tmp_path / "a.ulc", "--recover"), f"made by model {DIGITS[EARLIER[1].name]}")
    assert_refused(run("decode", tmp_path / "a.ulc"), "checksum")


@pytest.mark.usefixtures("installed")
def test_sequence_on_standard_input_finds_its_model(site: Path, tmp_path: Path) -> None:
    data = (EARLIER[0] / "predicted.ulc").read_bytes()
    code = f"import sys; sys.path.append({str(site)!r}); from ulcodec_cli.__main__ import main; main()"
    for options in (["--format", "y4m", "-o", "-"], ["-o", str(tmp_path / "%d.png")], ["--frame", "1", "-o", "-"]):
        command = [sys.executable, "-c", code, "decode", "-", *options]
        finished = subprocess.run(command, input=data, capture_output=True)
        assert (finished.returncode, finished.stderr) == (0, b"")
    assert len(list(tmp_path.glob("*.png"))) == 8


@pytest.mark.usefixtures("installed")
def test_pillow_and_datasets_take_the_model_of_each_file() -> None:
    paths = [folder / f"{name}.ulc" for name in PICTURES for folder in (*EARLIER, GOLDEN)]
    tensors = UlcDecoder(device="cpu").decode([path.read_bytes() for path in paths])
    for path, tensor in zip(paths, tensors, strict=True):
        assert psnr_db(source_crop(path.stem), tensor.numpy().transpose(1, 2, 0)) > LEAST_PSNR_DB
        with Image.open(path, formats=[ulcodec.pillow.FORMAT]) as picture:
            assert psnr_db(source_crop(path.stem), np.asarray(picture)) > LEAST_PSNR_DB
