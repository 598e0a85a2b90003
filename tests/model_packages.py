"""Folders that look like site-packages with packages of models."""

import json
import shutil
from pathlib import Path

from ulcodec.store.installed import model_at


def install_by_hand(
    site: Path,
    directory: Path,
    package: str | None = None,
    *,
    code: str = "",
    value: str | None = None,
    **document: object,
) -> Path:
    """Copy a model directory to a folder as an installed package, with an entry point; return the copy.

    `package`: its name, by default that of its model; `code`: contents of its `__init__.py`; `value`: of the entry
    point, by default the copy; `document`: entries of `config.json` to change.
    """
    copy = site / "new"
    shutil.copytree(directory, copy)
    (copy / "__init__.py").write_text(code)
    changed = {**json.loads((copy / "config.json").read_text()), **document}
    (copy / "config.json").write_text(json.dumps(changed))
    package = package or f"ulcodec-model-{model_at(copy).full_label}"
    module = package.replace("-", "_")
    info = site / f"{module}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[ulcodec.models]\n{package} = {module if value is None else value}\n")
    return copy.rename(site / module)
