"""Folders that look like site-packages with packages of models."""

import shutil
from pathlib import Path


def install_by_hand(site: Path, directory: Path, package: str, *, code: str = "", value: str | None = None) -> Path:
    """Copy a model directory to a folder as an installed package, with an entry point; return the copy.

    `code`: contents of its `__init__.py`; `value`: of the entry point, by default the copy.
    """
    module = package.replace("-", "_")
    copy = Path(shutil.copytree(directory, site / module))
    (copy / "__init__.py").write_text(code)
    info = site / f"{module}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[ulcodec.models]\n{package} = {value or module}\n")
    return copy
