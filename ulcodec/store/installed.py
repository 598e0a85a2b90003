"""The models that are installed, their names and fingerprints: without torch, and without running what is installed.

`small` is in the package `ulcodec` itself. Every other model is a package of its own, `ulcodec-model-NAME-FINGERPRINT`,
with an entry point in the group `ulcodec.models` whose value is the Python package that is the model directory. If its
sequences have a fingerprint of their own, the name ends with that, since two models can have the same pictures.
`ulcodec.export.packages` builds the packages.
"""

import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulcodec.errors import ModelError, UnknownModelError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

WEIGHTS = Path(__file__).parent.parent / "weights"

GROUP = "ulcodec.models"
"""Group of the entry points of model packages."""

PACKAGE_PREFIX = "ulcodec-model-"

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""Names that a model package can have."""

EARLIER = (
    "small-40950afe", "small-28c0d06c", "small-3d7eef3b", "small-e6518767", "small-b74a1388", "small-73fbd6d2",
    "small-7f215211", "small-840601ac",
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
    def label(self) -> str:
        """The name that always means this model, without fingerprints for a shipped one."""
        return self.name if self.is_shipped else self.full_label

    @property
    def fingerprints(self) -> tuple[str, str]:
        return self.fingerprint, self.sequence_fingerprint

    def has_name(self, wanted: str) -> bool:
        """Whether this may be the model that a user means: by name, fingerprint or both."""
        return wanted in (self.name, *self.fingerprints, f"{self.name}-{self.fingerprint}")


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


def packaged_models() -> list[InstalledModel]:
    """The models in packages of their own. A warning names a package that cannot be read."""
    from importlib.metadata import entry_points  # takes 10 ms, and is rarely needed

    models = []
    for entry in entry_points(group=GROUP):
        try:
            models.append(packaged_model(entry))
        except ModelError as error:
            package = entry.value if entry.dist is None else entry.dist.name
            warnings.warn(f"the model package {package} is left out: {error}", stacklevel=2)
    return sorted(models, key=lambda model: model.full_label)


def packaged_model(entry: "EntryPoint") -> InstalledModel:
    """Describe the model of an entry point, without importing its package. Raises ModelError."""
    try:
        spec = find_spec(entry.module)
    except (ImportError, ValueError, AttributeError) as error:
        raise ModelError(f"{entry.module}: {error}") from error
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ModelError(f"there is no folder {entry.module}")
    package, version = (entry.module, None) if entry.dist is None else (entry.dist.name, entry.dist.version)
    return model_at(Path(folders[0]), package, version)


def model_at(directory: Path, package: str = "ulcodec", version: str | None = None) -> InstalledModel:
    """Describe the model of a directory by its `config.json`. Raises ModelError."""
    file = directory / "config.json"
    try:
        document: Any = json.loads(file.read_text())
        fingerprint = sha256_digits(document["coding_sha256"])
        sequence_fingerprint = sha256_digits(document.get("video", {}).get("sequence_sha256", fingerprint))
        name = package_name(document["name"])
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} does not describe a model: {type(error).__name__}: {error}") from error
    return InstalledModel(name, fingerprint, sequence_fingerprint, directory, package, version)


def sha256_digits(value: str) -> str:
    """The first 4 bytes of a SHA-256, or of its beginning. Raises ValueError, TypeError."""
    if len(bytes.fromhex(value)) < 4:
        raise ValueError(f"{value!r} is too short")
    return value[:8].lower()


def package_name(name: str) -> str:
    """The name of a model in labels and in the name of its package, as PyPI normalises names: `small_v2`, `small-v2`.

    Raises ModelError for a name that does not become letters and digits with hyphens between them.
    """
    normalised = re.sub(r"[-_.]+", "-", name).lower()
    if not NAME.fullmatch(normalised):
        raise ModelError(f"the name {name!r} of a model may have letters and digits, with hyphens between them")
    return normalised


def model_directory(model: str | Path) -> Path:
    """Find the directory of an installed model by its name or fingerprint, or of any model by its path.

    A shipped model comes before a path, and a path before a package. Raises ModelError if there is none, or if several
    packages have a model of this name.
    """
    for candidate in (WEIGHTS / str(model), Path(model)):
        if (candidate / "config.json").is_file():
            return candidate
    wanted, installed = re.sub(r"[-_.]+", "-", str(model)).lower(), list(installed_models())
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
        raise ModelError(f"several installed models are {str(model)!r}; choose one: {labels}")
    labels = ", ".join(found.label for found in installed) or "none"
    label = wanted if wanted in EARLIER else earlier_label(wanted)
    hint = "" if label is None else f": {install_command(label)}"
    raise ModelError(
        f"no model {str(model)!r}: it is neither an installed model ({labels}) nor a model directory{hint}"
    )


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
    label = earlier_label(digits)
    if label is not None:
        return f"It is not installed: {install_command(label)}"
    installed = ", ".join(f"{found.label} ({found.fingerprint})" for found in installed_models()) or "none"
    return (
        f"It is not installed, only {installed}. Install the package with these digits in its name, "
        f"{PACKAGE_PREFIX}NAME-{digits}, or a newer ulcodec, or give the directory of that model"
    )


def install_command(label: str) -> str:
    """Return the command that installs a model."""
    return f"pip install {PACKAGE_PREFIX}{label}"


def earlier_label(digits: str) -> str | None:
    """The label of a model that was shipped before, by one of its fingerprints; None for any other."""
    return next((label for label in EARLIER if digits in label.split("-")[1:]), None)


def earlier_package(fingerprint: bytes) -> str | None:
    """The package of a model that was shipped before, by one of its fingerprints; None for any other."""
    label = earlier_label(fingerprint.hex())
    return None if label is None else PACKAGE_PREFIX + label
