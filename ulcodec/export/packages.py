"""Model packages: wheels that make a model known to every `ulcodec` beside them, by its name and its fingerprint.

The distribution `ulcodec-model-NAME-FINGERPRINT` holds one Python package, which is the model directory, and an entry
point in the group `ulcodec.models`, by which `ulcodec.store.installed` finds it. It runs no code.
"""

import json
import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from errno import EEXIST, ENOTDIR
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ulcodec import __version__
from ulcodec.codec.loading import load
from ulcodec.errors import MissingPackageError, ModelError
from ulcodec.graphs.graph_files import has_graphs, has_present_graphs, is_deployment, listed_graphs
from ulcodec.io.files import atomic_write
from ulcodec.progress import share
from ulcodec.store.installed import GROUP, InstalledModel, model_at, model_directory
from ulcodec.store.tensor_files import GRAPHS, SHARD_NAME, read_consistently, read_document, stored_files

PICTURE_GROUPS = ("weights", "coding")
OPTIONAL_GROUPS = {"video": ("video_weights", "video_coding"), "refiner": ("refiner",)}
"""Groups of tensors of a model, and of its optional parts. A directory may hold others: of a checkpoint, or of a model
that was there before."""

COMPANIONS = ("README.md", "LICENSE")
"""Files that a package takes along if the directory has them: its page, and the terms of the weights."""

EPOCH_S = "315532800"
"""Time that the files of a wheel have, 1980: the same model gives the same bytes."""

LOADING_SHARE = 0.4
"""Rough share of time of loading the model; the rest is compression."""

PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = {name}
version = {version}
description = {description}
readme = "README.md"
requires-python = ">=3.10"
dependencies = [{dependency}]
{license}
[project.entry-points.{group}]
{label} = {module}

[tool.setuptools]
packages = [{module}]

[tool.setuptools.package-data]
{module} = ["*"]
"""

PAGE = """\
# {distribution}

The model `{name}` of [ulcodec](https://pypi.org/project/ulcodec/) with the fingerprint {fingerprint}{of_sequences}.
Where this package is installed, `ulcodec decode` and `ulcodec.load_for` open the files that the model has made, and
`ulcodec encode --model {label}` makes more of them.
"""


def build_package(
    model: str | Path,
    out_dir: Path,
    *,
    version: str = "1.0",
    license: str | None = None,
    force: bool = False,
) -> Path:
    """Build the wheel of a model, and return its path in `out_dir`, which is made if it is not there.

    `model`: directory or name; it is loaded first. A `README.md` and a `LICENSE` in its directory become those of the
    package. `version`: of the package, not of the model, which the fingerprint names; `license`: an SPDX expression.
    The bytes of the wheel depend on these, on the model, on the versions of ulcodec and setuptools, and on the umask.

    Raises ModelError for a missing or broken model, a deployment, or a name that no package can have, ValueError for a
    version or a licence that does not parse, FileExistsError for a wheel that is there unless `force`,
    MissingPackageError, OSError.
    """
    check_packages()
    version, license = checked(version, license)
    directory = model_directory(model)
    if is_deployment(directory):
        raise ModelError(f"{directory} is a deployment, a part of a model: package the whole model")
    if out_dir.exists() and not out_dir.is_dir():
        raise NotADirectoryError(ENOTDIR, "is not a directory", str(out_dir))
    with TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        read_consistently(directory, lambda: copy_model(directory, project / "model"))
        described = model_at(project / "model")
        target = out_dir / f"{module_of(described)}-{version}-py3-none-any.whl"
        if target.exists() and not force:
            raise FileExistsError(EEXIST, "exists already; --force overwrites it", str(target))
        package = (project / "model").rename(project / module_of(described))
        with share(LOADING_SHARE, "loading the model"):
            check_model(package, directory)
        describe_project(project, described, version, license)
        wheel = built(project, Path(folder))
        out_dir.mkdir(parents=True, exist_ok=True)
        atomic_write(target, wheel.read_bytes())
    return target


def check_model(copy: Path, directory: Path) -> None:
    """Load the copy of a model. Raises ModelError, which names the directory itself."""
    try:
        load(copy, device="cpu")
    except ModelError as error:
        raise ModelError(str(error).replace(str(copy), str(directory))) from error


def check_packages() -> None:
    """Raise MissingPackageError without the packages that build wheels."""
    if not all(map(find_spec, ("build", "setuptools", "packaging.licenses"))):
        raise MissingPackageError('a model package needs packages: pip install "ulcodec[package]"')


def checked(version: str, license: str | None) -> tuple[str, str | None]:
    """Write a version and a licence as packages have them. Raises ValueError if they do not parse."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(version)), None if license is None else canonicalize_license_expression(license)
    except (InvalidVersion, InvalidLicenseExpression) as error:
        raise ValueError(str(error)) from error


def module_of(model: InstalledModel) -> str:
    """The name of the Python package of a model."""
    return model.own_package.replace("-", "_")


def copy_model(directory: Path, copy: Path) -> None:
    """Copy the files of a model, and nothing else that its directory may hold. Raises ModelError, OSError."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    document, groups = read_document(directory, "config"), set(PICTURE_GROUPS)
    groups.update(*(OPTIONAL_GROUPS[part] for part in OPTIONAL_GROUPS.keys() & document.keys()))
    files = {name: file for name, file in stored_files(directory).items() if is_of_model(name, groups)}
    if has_present_graphs(directory):
        graphs = [f"{GRAPHS}.json", *(f"{name}.onnx" for name in listed_graphs(directory))]
        files |= {name: directory / name for name in graphs}
    elif has_graphs(directory):
        warnings.warn(f"{directory}: the ONNX graphs are those of another version, and are left out", stacklevel=2)
    files |= {name: directory / name for name in COMPANIONS if (directory / name).is_file()}
    for name, file in files.items():
        (copy / name).write_bytes(file.read_bytes())
        (copy / name).chmod(0o644)  # a wheel keeps modes


def is_of_model(name: str, groups: Collection[str]) -> bool:
    """Whether a file of this name describes a model, or has its tensors, which are in these groups."""
    match = SHARD_NAME.fullmatch(name)
    return name == "config.json" if match is None else match["group"] in groups


def describe_project(project: Path, model: InstalledModel, version: str, license: str | None) -> None:
    """Write what makes a folder with the files of a model a project that can be built."""
    distribution, package = model.own_package, project / module_of(model)
    sequences = model.sequence_fingerprint
    of_sequences = "" if sequences == model.fingerprint else f", in sequences {sequences}"
    own_page, terms = (package / name for name in COMPANIONS)
    page = PAGE.format(distribution=distribution, of_sequences=of_sequences, label=model.full_label, **vars(model))
    pages = [page.encode()]  # in UTF-8, which the builder checks
    if own_page.exists():
        pages.append(own_page.read_bytes())
        own_page.unlink()
    license_lines = [] if license is None else [f"license = {quoted(license)}\n"]
    if terms.exists():
        terms.rename(project / terms.name)
        license_lines.append(f"license-files = [{quoted(terms.name)}]\n")
    values: Mapping[str, Any] = {
        "name": quoted(distribution),
        "version": quoted(version),
        "description": quoted(f"The model {model.name} of ulcodec with the fingerprint {model.fingerprint}"),
        "dependency": quoted(f"ulcodec>={__version__}"),
        "license": "".join(license_lines),
        "group": quoted(GROUP),
        "label": quoted(model.full_label),
        "module": quoted(module_of(model)),
    }
    (project / "pyproject.toml").write_text(PROJECT.format_map(values))
    (project / "README.md").write_bytes(b"\n".join(pages))
    (package / "__init__.py").write_text(f'"""{values["description"][1:-1]}: a model directory."""\n')


def quoted(text: str) -> str:
    """A string of TOML. Its characters are those of names, versions and licences."""
    return json.dumps(text)


def built(project: Path, folder: Path) -> Path:
    """Build the wheel of a project into a folder. Raises ModelError with the last line of the builder if it fails."""
    from build import BuildBackendException, BuildException, ProjectBuilder
    from pyproject_hooks import quiet_subprocess_runner

    def run(cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
        quiet_subprocess_runner(cmd, cwd, {**(extra_environ or {}), "SOURCE_DATE_EPOCH": EPOCH_S})

    try:
        return Path(ProjectBuilder(project, runner=run).build("wheel", folder))
    except (BuildException, BuildBackendException) as error:
        output = getattr(getattr(error, "exception", None), "output", None) or b""
        reason = output.decode(errors="replace").strip() or str(error)
        raise ModelError(f"the wheel cannot be built: {reason.splitlines()[-1]}") from error
