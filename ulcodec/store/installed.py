"""The models that are installed, their names and fingerprints: without torch, and without running what is installed.

`small` is in the package `ulcodec` itself. Every other model is a package of its own, `ulcodec-model-NAME-FINGERPRINT`,
with one entry point in the group `ulcodec.models`, whose value is the folder that is the model directory. If its
sequences have a fingerprint of their own, the name ends with that, since two models can have the same pictures.
`ulcodec.export.packages` builds the packages.
"""

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulcodec.errors import ModelError, UnknownModelError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

WEIGHTS = Path(__file__).parent.parent / "weights"

GROUP = "ulcodec.models"
"""Group of the entry points of model packages."""

PACKAGE_PREFIX = "ulcodec-model-"

NAME = re.compile(r"(?!.{65})[a-z0-9]+(-[a-z0-9]+)*")
"""Names that a packaged model can have."""

MAX_CONFIG_BYTES = 2**20
"""Size of `config.json` up to which it is read."""

EARLIER = (
    "small-40950afe", "small-28c0d06c", "small-3d7eef3b", "small-e6518767", "small-b74a1388", "small-73fbd6d2",
    "small-7f215211", "small-840601ac", "small-77cdbe57-45c7ca5e",
)  # fmt: skip
"""Labels of the models that `ulcodec` shipped before."""


@dataclass(frozen=True)
class InstalledModel:
    """A model that is installed. Fingerprints are those in files, 8 hexadecimal digits.

    `sequence_fingerprint`: that of sequences with predicted frames; `package`, `version`: the package that has the
    model.
    """

    name: str
    fingerprint: str
    sequence_fingerprint: str
    directory: Path
    package: str = "ulcodec"
    version: str | None = None

    @property
    def is_shipped(self) -> bool:
        """Whether `ulcodec` itself has the model."""
        return self.package == "ulcodec"

    @property
    def full_label(self) -> str:
        """The name with the fingerprint, and that of sequences if it is another."""
        return "-".join([self.name, *dict.fromkeys(self.fingerprints)])

    @property
    def own_package(self) -> str:
        """The name of the package that has this model and nothing else."""
        return PACKAGE_PREFIX + self.full_label

    @property
    def label(self) -> str:
        """The name that always means this model, without fingerprints for a shipped one."""
        return self.name if self.is_shipped else self.full_label

    @property
    def fingerprints(self) -> tuple[str, str]:
        return self.fingerprint, self.sequence_fingerprint

    def has_name(self, wanted: str) -> bool:
        """Whether this may be the model that a user means: by name, fingerprint or both."""
        return wanted in (self.name, *self.fingerprints, *(f"{self.name}-{digits}" for digits in self.fingerprints))


def installed_models() -> Iterator[InstalledModel]:
    """Iterate over the installed models, the shipped ones first.

    A warning names a package that cannot be read.
    """
    yield from shipped_models()
    yield from packaged_models()


@cache
def shipped_models() -> tuple[InstalledModel, ...]:
    """The models in the package `ulcodec`. Raises ModelError for a broken installation."""
    directories = [file.parent for file in sorted(WEIGHTS.glob("*/config.json"))]
    return tuple(replace(model_at(directory), name=directory.name) for directory in directories)


def packaged_models() -> tuple[InstalledModel, ...]:
    """The models in packages of their own. A warning names a package that cannot be read.

    They are looked for once, and again when a folder of `sys.path` changes.
    """
    return _packaged_models(tuple(map(_state, sys.path)))


def _state(folder: str) -> tuple[str, int]:
    try:
        return folder, os.stat(folder or ".").st_mtime_ns
    except OSError:
        return folder, 0


@lru_cache(maxsize=1)
def _packaged_models(_: tuple[tuple[str, int], ...]) -> tuple[InstalledModel, ...]:
    from importlib.metadata import distributions  # takes 10 ms, and is rarely needed

    models: dict[str, InstalledModel] = {}
    for distribution in distributions():
        try:
            if GROUP in (distribution.read_text("entry_points.txt") or ""):
                model = packaged_model(distribution)
                models.setdefault(model.full_label, model)
        except Exception as error:  # importlib.metadata raises anything for damaged files
            warnings.warn(f"the model package {_title(distribution)} is left out: {error}", stacklevel=3)
    return tuple(models[label] for label in sorted(models))


def _title(distribution: "Distribution") -> str:
    """The name of a distribution, or its folder if it cannot tell."""
    try:
        return distribution.metadata["Name"]
    except Exception:
        return f"in {distribution.locate_file('')}"


def packaged_model(distribution: "Distribution") -> InstalledModel:
    """Describe the model of a package, without importing it. Raises ModelError."""
    values = [entry.value for entry in distribution.entry_points if entry.group == GROUP]
    if len(values) != 1 or not values[0].isidentifier():
        raise ModelError(f"expected one entry point in {GROUP} that names a folder, got {values}")
    model = model_at(
        Path(str(distribution.locate_file(values[0]))).absolute(),
        normalised(distribution.metadata["Name"]),
        distribution.version,
    )
    if model.package != model.own_package:
        raise ModelError(f"it holds the model of {model.own_package}")
    return model


def model_at(directory: Path, package: str = "ulcodec", version: str | None = None) -> InstalledModel:
    """Describe the model of a directory by its `config.json`. Raises ModelError."""
    file = directory / "config.json"
    try:
        if not file.is_file():  # a pipe would block
            raise ModelError(f"{file} is missing")
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelError(f"{file} has more than {MAX_CONFIG_BYTES} bytes")
        document: Any = json.loads(file.read_text())
        fingerprint = sha256_digits(document["coding_sha256"])
        sequence_fingerprint = sha256_digits(document.get("video", {}).get("sequence_sha256", fingerprint))
        name = normalised(document["name"])
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} does not describe a model: {type(error).__name__}: {error}") from error
    if not NAME.fullmatch(name):
        raise ModelError(f"{file}: the name of a model has a to z, 0 to 9 and hyphens, at most 64; got {name[:80]!r}")
    return InstalledModel(name, fingerprint, sequence_fingerprint, directory, package, version)


def sha256_digits(value: str) -> str:
    """The first 4 bytes of a SHA-256, or of its beginning. Raises ValueError, TypeError."""
    if len(bytes.fromhex(value)) < 4:
        raise ValueError(f"{value!r} is too short")
    return value[:8].lower()


def normalised(name: str) -> str:
    """A name as the package index compares names: `small-v2` for `Small_v2`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def model_directory(model: str | Path) -> Path:
    """Find the directory of an installed model by its name or fingerprint, or of any model by its path.

    A shipped model comes before a path, and a path before a package: `small` is the shipped model, and `./small` a
    directory. Raises ModelError if there is none, or if several packages have a model of this name.
    """
    name = str(model)
    is_path = Path(name).name != name
    for candidate in (Path(name),) if is_path else (WEIGHTS / name, Path(name)):
        if name and (candidate / "config.json").is_file():
            return candidate
    wanted, installed = normalised(name).removeprefix(PACKAGE_PREFIX), list(installed_models())
    named = [found for found in installed if found.has_name(wanted)]
    meant = (
        [found for found in installed if found.full_label == wanted][:1]
        or [found for found in named if found.is_shipped][:1]
        or named
    )
    if len(meant) == 1:
        return meant[0].directory
    if meant:
        labels = ", ".join(found.label for found in meant)
        raise ModelError(f"several installed models are {name!r}; choose one: {labels}")
    labels = ", ".join(found.label for found in installed) or "none"
    package = earlier_package(wanted)
    hint = "" if package is None else f": pip install {package}"
    raise ModelError(f"no model {name!r}: it is neither an installed model ({labels}) nor a model directory{hint}")


def model_of(fingerprint: bytes) -> InstalledModel | None:
    """The installed model that writes a fingerprint into its files, if there is one."""
    return next((model for model in installed_models() if fingerprint.hex() in model.fingerprints), None)


def model_that_made(fingerprint: bytes) -> InstalledModel:
    """The installed model that writes a fingerprint. Raises UnknownModelError, which names the package to install."""
    model = model_of(fingerprint)
    if model is None:
        raise UnknownModelError(f"the file was made by model {fingerprint.hex()}. {advice(fingerprint)}")
    return model


def advice(fingerprint: bytes) -> str:
    """Say which model to load for a file with this fingerprint, or what to install."""
    digits, model = fingerprint.hex(), model_of(fingerprint)
    if model is not None:
        return f"Load the installed model {model.label}"
    package = earlier_package(digits)
    if package is not None:
        return f"It is not installed: pip install {package}"
    installed = ", ".join(found.full_label for found in installed_models()) or "none"
    return (
        f"It is not installed, only {installed}. Install its package, {PACKAGE_PREFIX}NAME with {digits} behind it, "
        "or a newer ulcodec, or load the directory of that model"
    )


def earlier_package(wanted: str) -> str | None:
    """The package of a model that was shipped before, by its label or a fingerprint; None for any other."""
    return next((PACKAGE_PREFIX + label for label in EARLIER if wanted in (label, *label.split("-")[1:])), None)
