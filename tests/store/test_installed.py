"""Models that are installed: the shipped ones and packages."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_packages import install_by_hand

import ulcodec
from ulcodec.errors import ChecksumError, ModelError, UnknownModelError
from ulcodec.format.container import Container
from ulcodec.info import model_for
from ulcodec.store.installed import (
    EARLIER,
    InstalledModel,
    installed_models,
    model_at,
    model_directory,
    model_that_made,
    shipped_models,
)

OTHER_SHA256 = "00112233" + 56 * "4"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder on the path of modules."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def digits(tiny_model_dir: Path) -> str:
    """The fingerprint of the tiny model."""
    return json.loads((tiny_model_dir / "config.json").read_text())["coding_sha256"][:8]


@pytest.fixture
def copy(site: Path, tiny_model_dir: Path) -> Path:
    """The tiny model, installed as a package that must not be imported."""
    return install_by_hand(site, tiny_model_dir, code="raise SystemExit('imported')")


@pytest.fixture
def coded_tiny(tmp_path: Path, tiny_model_dir: Path) -> Path:
    file = tmp_path / "a.ulc"
    file.write_bytes(ulcodec.load(tiny_model_dir, device="cpu").encode(np.zeros((20, 30), np.uint8)))
    return file


def packaged() -> list[InstalledModel]:
    return [model for model in installed_models() if not model.is_shipped]


def test_package_is_found_by_fingerprint_and_names(copy: Path, digits: str) -> None:
    package = f"ulcodec-model-tiny-{digits}"
    for name in ("tiny", "Tiny", digits, f"tiny-{digits}", f"tiny_{digits}", package):
        assert model_directory(name) == copy
    [model] = packaged()
    assert model == InstalledModel("tiny", digits, digits, copy, package, "2.0")
    assert model_that_made(bytes.fromhex(digits)) == model
    assert model.label == f"tiny-{digits}"


def test_model_loads_by_its_fingerprint_and_for_its_file(copy: Path, digits: str, coded_tiny: Path) -> None:
    codec = ulcodec.load_for(coded_tiny, device="cpu")
    assert codec.fingerprint == digits
    data = coded_tiny.read_bytes()
    assert ulcodec.load(digits, device="cpu").decode(data) == codec.decode(data)
    assert model_for(data) == model_for(coded_tiny) == packaged()[0]
    info = ulcodec.info(data)
    assert (info["model"], info["package"]) == (f"tiny-{digits}", f"ulcodec-model-tiny-{digits}")


def test_folder_of_the_same_name_does_not_replace_the_model_of_a_file(
    copy: Path, digits: str, coded_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"tiny-{digits}").mkdir()
    (tmp_path / f"tiny-{digits}" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert model_directory(f"tiny-{digits}") == Path(f"tiny-{digits}"), "a name that a user gives may be a path"
    assert ulcodec.load_for(coded_tiny, device="cpu").fingerprint == digits


def test_package_of_a_sequence_is_found(site: Path, tiny_model_dir: Path, digits: str) -> None:
    """Several models can have the same pictures, and have names of their own."""
    one, two = (
        install_by_hand(site, tiny_model_dir, video={"sequence_sha256": start + 56 * "4"})
        for start in ("00112233", "44556677")
    )
    assert model_that_made(b"\x00\x11\x22\x33").directory == one
    for name in ("00112233", f"tiny-{digits}-00112233", "tiny-00112233"):
        assert model_directory(name) == one
    assert model_directory("44556677") == model_directory(f"tiny-{digits}-44556677") == two
    for name in ("tiny", digits, f"tiny-{digits}"):
        message = f"several installed models are '{name}'; choose one: tiny-{digits}-00112233, tiny-{digits}-44556677"
        with pytest.raises(ModelError, match=message):
            model_directory(name)
    assert model_that_made(bytes.fromhex(digits)).directory == one, "either decodes a picture"


def test_shipped_models_come_first(site: Path, tiny_model_dir: Path) -> None:
    shipped = shipped_models()[0]
    install_by_hand(site, tiny_model_dir, name="small", coding_sha256=shipped.fingerprint + 56 * "0")
    assert len(packaged()) == 1
    assert model_that_made(bytes.fromhex(shipped.fingerprint)) == shipped
    for name in ("small", *shipped.fingerprints, shipped.full_label):
        assert model_directory(name) == shipped.directory
    assert shipped.label == "small"


def test_path_is_not_the_name_of_a_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert model_directory("small") == shipped_models()[0].directory
    for path in ("./small", "small/", str(tmp_path / "small")):
        assert model_directory(path) == Path(path)
    monkeypatch.chdir("small")
    assert model_directory(".") == Path()
    with pytest.raises(ModelError, match="no model ''"):
        model_directory("")


def test_name_of_several_packages_needs_a_fingerprint(site: Path, copy: Path, tiny_model_dir: Path) -> None:
    other = install_by_hand(site, tiny_model_dir, coding_sha256="0123456789abcdef")
    with pytest.raises(ModelError, match="several installed models are 'tiny'; choose one: tiny-01234567, "):
        model_directory("tiny")
    assert model_directory("tiny-01234567") == model_directory("01234567") == other


def test_packages_are_looked_for_again_when_one_is_installed(site: Path, tiny_model_dir: Path) -> None:
    assert not packaged()
    install_by_hand(site, tiny_model_dir)
    os.utime(site, ns=(0, 1))  # the time of a folder may be coarse
    assert len(packaged()) == 1


def test_package_that_comes_first_on_the_path_counts(
    copy: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "first")
    first = install_by_hand(tmp_path / "first", tiny_model_dir)
    assert [model.directory for model in packaged()] == [first]
    assert first != copy


def unreadable_entry_points(copy: Path) -> None:
    (copy.with_name(copy.name + "-2.0.dist-info") / "entry_points.txt").write_bytes(b"[ulcodec.models]\n\xff = a")


def config(text: str) -> Callable[[Path], object]:
    return lambda copy: (copy / "config.json").write_text(text)


def config_of(**values: object) -> Callable[[Path], object]:
    def change(copy: Path) -> None:
        document = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**document, **values}))

    return change


def pipe(copy: Path) -> None:
    (copy / "config.json").unlink()
    os.mkfifo(copy / "config.json")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda copy: (copy / "config.json").unlink(), "config.json is missing"),
        (pipe, "config.json is missing"),
        (lambda copy: copy.rename(copy.with_name("elsewhere")), "config.json is missing"),
        (config("{"), "does not describe a model: JSONDecodeError"),
        (config("[" * 100_000), "does not describe a model: RecursionError"),
        (config(" " * 2**21), "more than 1048576 bytes"),
        (lambda copy: (copy / "config.json").write_bytes(b"\xff"), "does not describe a model: UnicodeDecodeError"),
        (config("[]"), "does not describe a model: TypeError"),
        (config_of(name="a/b"), "the name of a model has a to z.*; got 'a/b'"),
        (config_of(name=3), "does not describe a model"),
        (config_of(name="a" * 65), "at most 64"),
        (config_of(name="other"), "it holds the model of ulcodec-model-other-"),
        (config_of(coding_sha256=OTHER_SHA256), "it holds the model of ulcodec-model-tiny-00112233"),
        (config_of(coding_sha256="no"), "does not describe a model: ValueError"),
        (config_of(coding_sha256="0011"), "'0011' is too short"),
        (config_of(video=[]), "does not describe a model: AttributeError"),
        (unreadable_entry_points, "codec can't decode"),
    ],
)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_broken_package_is_left_out_with_one_warning(
    copy: Path, digits: str, damage: Callable[[Path], object], reason: str
) -> None:
    damage(copy)
    with pytest.warns(
        UserWarning, match=f"^the model package ulcodec-model-tiny-{digits} is left out: .*{reason}"
    ) as seen:
        listings = [list(installed_models()) for _ in range(3)]
    assert listings == 3 * [list(shipped_models())]
    assert len(seen) == 1


@pytest.mark.parametrize(
    "value", ["", ":", "!!!", "a b", "/etc", "../x", "not_there", "json.decoder", "json.decoder:JSONDecoder", "a = b"]
)
def test_entry_point_without_a_folder_is_left_out(
    site: Path, tiny_model_dir: Path, digits: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others are found, and nothing is imported."""
    install_by_hand(site, tiny_model_dir, "ulcodec-model-bad", value=value)
    install_by_hand(site, tiny_model_dir, code="print('imported')")
    with pytest.warns(UserWarning, match="the model package ulcodec-model-bad is left out: "):
        assert [model.fingerprint for model in packaged()] == [digits]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["[ulcodec.models]\nnoequals", "[ulcodec.models]\na = b\nc = d", "[ulcodec.models]"])
def test_entry_points_that_are_not_one_are_left_out(site: Path, tiny_model_dir: Path, text: str) -> None:
    copy = install_by_hand(site, tiny_model_dir)
    (copy.with_name(copy.name + "-2.0.dist-info") / "entry_points.txt").write_text(text)
    with pytest.warns(UserWarning, match="is left out: "):
        assert not packaged()


def test_altered_package_is_refused(site: Path, tiny_model_dir: Path, coded_tiny: Path) -> None:
    """The fingerprint is that of the integers, whatever `config.json` says."""
    install_by_hand(site, tiny_model_dir, coding_sha256=OTHER_SHA256)
    with pytest.raises(ModelError, match="do not match their fingerprint"):
        ulcodec.load("00112233", device="cpu")
    with pytest.raises(UnknownModelError):
        ulcodec.load_for(coded_tiny)


def test_unknown_fingerprint_names_the_package() -> None:
    for label in EARLIER:
        fingerprints = label.removeprefix("small-").split("-")
        for digits in fingerprints:
            with pytest.raises(
                UnknownModelError, match=f"made by model {digits}. .*pip install ulcodec-model-{label}$"
            ):
                model_that_made(bytes.fromhex(digits))
        for name in (*fingerprints, label):
            with pytest.raises(ModelError, match=f"no model '{name}': .*: pip install ulcodec-model-{label}$"):
                model_directory(name)
    [shipped] = shipped_models()
    with pytest.raises(
        UnknownModelError, match=rf"only {shipped.full_label}\. .*ulcodec-model-NAME with 01234567 behind"
    ):
        model_that_made(b"\x01\x23\x45\x67")


def test_damage_of_the_front_is_reported_before_an_unknown_model(coded_tiny: Path) -> None:
    """A damaged fingerprint is not the name of a package."""
    data = bytearray(coded_tiny.read_bytes())
    data[5] ^= 1
    coded_tiny.write_bytes(data)
    for source in (bytes(data), coded_tiny):
        with pytest.raises(ChecksumError):
            ulcodec.load_for(source)
    data[5] ^= 1
    data[-5] ^= 1
    with pytest.raises(UnknownModelError):
        ulcodec.load_for(bytes(data))


def test_info_names_the_package_of_an_earlier_model(coded_tiny: Path) -> None:
    container = Container.from_bytes(coded_tiny.read_bytes())
    header = replace(container.header, fingerprint=bytes.fromhex("840601ac"))
    info = ulcodec.info(replace(container, header=header).to_bytes())
    assert (info["model"], info["package"]) == (None, "ulcodec-model-small-840601ac")


def test_names_are_those_of_packages(tmp_path: Path) -> None:
    for name, normalised in (("small_v2", "small-v2"), ("Small.V2", "small-v2"), ("a__b", "a-b")):
        (tmp_path / "config.json").write_text(json.dumps({"name": name, "coding_sha256": 64 * "0"}))
        assert model_at(tmp_path).name == normalised
    for name in ("", "-", "ä", "a b", "-a"):
        (tmp_path / "config.json").write_text(json.dumps({"name": name, "coding_sha256": 64 * "0"}))
        with pytest.raises(ModelError, match="has a to z, 0 to 9 and hyphens"):
            model_at(tmp_path)
