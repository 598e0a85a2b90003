"""Models that are installed: the shipped ones and packages."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_packages import install_by_hand

import ulcodec
from ulcodec.errors import ChecksumError, ModelError, UnknownModelError
from ulcodec.format.container import Container
from ulcodec.info import label_of
from ulcodec.store.installed import (
    EARLIER,
    InstalledModel,
    installed_models,
    model_at,
    model_directory,
    model_that_made,
    shipped_models,
)

MINE = "ulcodec-model-tiny-mine"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder on the path of modules."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def copy(site: Path, tiny_model_dir: Path) -> Path:
    """The tiny model, installed as a package that must not be imported."""
    return install_by_hand(site, tiny_model_dir, MINE, code="raise SystemExit('imported')")


@pytest.fixture
def coded_tiny(tmp_path: Path, tiny_model_dir: Path) -> Path:
    file = tmp_path / "a.ulc"
    file.write_bytes(ulcodec.load(tiny_model_dir, device="cpu").encode(np.zeros((20, 30), np.uint8)))
    return file


def document_of(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())


def write_document(directory: Path, **values: object) -> None:
    (directory / "config.json").write_text(json.dumps({**document_of(directory), **values}))


def test_package_is_found_by_fingerprint_and_names(copy: Path) -> None:
    digits = document_of(copy)["coding_sha256"][:8]
    for name in ("tiny", "Tiny", digits, f"tiny-{digits}", f"tiny_{digits}"):
        assert model_directory(name) == copy
    [model] = [model for model in installed_models() if not model.is_shipped]
    assert model == InstalledModel("tiny", digits, digits, copy, MINE, "2.0")
    assert model_that_made(bytes.fromhex(digits)) == model
    assert model.label == f"tiny-{digits}"


def test_model_loads_by_its_fingerprint_and_for_its_file(copy: Path, coded_tiny: Path) -> None:
    codec = ulcodec.load_for(coded_tiny, device="cpu")
    assert codec.fingerprint == document_of(copy)["coding_sha256"][:8]
    data = coded_tiny.read_bytes()
    assert ulcodec.load(codec.fingerprint, device="cpu").decode(data) == codec.decode(data)
    assert label_of(data) == label_of(coded_tiny) == f"tiny-{codec.fingerprint}"
    assert (ulcodec.info(data)["model"], ulcodec.info(data)["package"]) == (label_of(data), MINE)


def test_package_of_a_sequence_is_found(site: Path, copy: Path, tiny_model_dir: Path) -> None:
    """Several models can have the same pictures, and have names of their own."""
    other = install_by_hand(site, tiny_model_dir, "other-package")
    write_document(copy, video={"sequence_sha256": "00112233" + 56 * "4"})
    write_document(other, video={"sequence_sha256": "44556677" + 56 * "4"})
    digits = document_of(copy)["coding_sha256"][:8]
    assert model_that_made(b"\x00\x11\x22\x33").directory == copy
    assert model_directory("00112233") == model_directory(f"tiny-{digits}-00112233") == copy
    assert model_directory("44556677") == model_directory(f"tiny-{digits}-44556677") == other
    for name in ("tiny", digits, f"tiny-{digits}"):
        message = f"several installed models are '{name}'; choose one: tiny-{digits}-00112233, tiny-{digits}-44556677"
        with pytest.raises(ModelError, match=message):
            model_directory(name)
    assert model_that_made(bytes.fromhex(digits)).directory == copy, "either decodes a picture"


def test_shipped_models_come_first(site: Path, copy: Path) -> None:
    shipped = shipped_models()[0]
    write_document(copy, name="small", coding_sha256=shipped.fingerprint + 56 * "0")
    assert model_that_made(bytes.fromhex(shipped.fingerprint)) == shipped
    for name in ("small", *shipped.fingerprints, shipped.full_label):
        assert model_directory(name) == shipped.directory
    assert shipped.label == "small"


def test_name_of_several_packages_needs_a_fingerprint(site: Path, copy: Path, tiny_model_dir: Path) -> None:
    other = install_by_hand(site, tiny_model_dir, "other-package")
    write_document(other, coding_sha256="0123456789abcdef")
    with pytest.raises(ModelError, match="several installed models are 'tiny'; choose one: tiny-01234567, "):
        model_directory("tiny")
    assert model_directory("tiny-01234567") == model_directory("01234567") == other


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda copy: (copy / "config.json").unlink(), "No such file"),
        (lambda copy: (copy / "config.json").write_text("{"), "does not describe a model: JSONDecodeError"),
        (lambda copy: (copy / "config.json").write_bytes(b"\xff"), "does not describe a model: UnicodeDecodeError"),
        (lambda copy: (copy / "config.json").write_text("[]"), "does not describe a model: TypeError"),
        (lambda copy: write_document(copy, name="a/b"), "the name 'a/b' of a model"),
        (lambda copy: write_document(copy, name=3), "does not describe a model"),
        (lambda copy: write_document(copy, coding_sha256="no"), "does not describe a model: ValueError"),
        (lambda copy: write_document(copy, coding_sha256="0011"), "'0011' is too short"),
        (lambda copy: write_document(copy, video=[]), "does not describe a model: AttributeError"),
    ],
)
def test_broken_package_is_left_out_with_a_warning(copy: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(copy)
    with pytest.warns(UserWarning, match=f"the model package {MINE} is left out: .*{reason}"):
        assert list(installed_models()) == list(shipped_models())


@pytest.mark.parametrize("value", ["not_there", "not_there.inner", "json.decoder:JSONDecoder"])
def test_entry_point_without_a_folder_is_left_out(site: Path, tiny_model_dir: Path, value: str) -> None:
    install_by_hand(site, tiny_model_dir, MINE, value=value)
    with pytest.warns(UserWarning, match=f"the model package {MINE} is left out: "):
        assert all(model.is_shipped for model in installed_models())


def test_altered_package_is_refused(copy: Path, coded_tiny: Path) -> None:
    """The fingerprint is that of the integers, whatever `config.json` says."""
    write_document(copy, coding_sha256="00112233" + 56 * "4")
    with pytest.raises(ModelError, match="do not match their fingerprint"):
        ulcodec.load("00112233", device="cpu")
    with pytest.raises(UnknownModelError):
        ulcodec.load_for(coded_tiny)


def test_unknown_fingerprint_names_the_package() -> None:
    for label in EARLIER:
        digits = label.removeprefix("small-")
        with pytest.raises(UnknownModelError, match=f"made by model {digits}. .*pip install ulcodec-model-{label}$"):
            model_that_made(bytes.fromhex(digits))
        for name in (digits, label):
            with pytest.raises(ModelError, match=f"no model '{name}': .*: pip install ulcodec-model-{label}$"):
                model_directory(name)
    with pytest.raises(UnknownModelError, match=r"only small \(77cdbe57\).* in its name, ulcodec-model-NAME-01234567,"):
        model_that_made(b"\x01\x23\x45\x67")


def test_damage_is_reported_before_an_unknown_model(coded_tiny: Path) -> None:
    """A damaged fingerprint is not the name of a package."""
    data = bytearray(coded_tiny.read_bytes())
    data[5] ^= 1
    coded_tiny.write_bytes(data)
    for source in (bytes(data), coded_tiny):
        with pytest.raises(ChecksumError):
            ulcodec.load_for(source)


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
        with pytest.raises(ModelError, match="may have letters and digits"):
            model_at(tmp_path)
