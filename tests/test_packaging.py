"""Contents of wheel and source distribution."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE_FILES = {
    "ulcodec/py.typed",
    "ulcodec/bench/report.html",
    *(file.relative_to(ROOT).as_posix() for file in (ROOT / "ulcodec" / "weights").rglob("*.*")),
}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from it, into one folder."""
    pytest.importorskip("build", reason="build is not installed")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


def test_wheel_contains_package_and_model_and_runs(distributions: Path, tmp_path: Path) -> None:
    [wheel] = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert names >= PACKAGE_FILES | {"ulcodec/codec/image.py", "ulcodec_cli/main.py"}
        assert not any(name.startswith(("tests", "benchmarks")) for name in names)
        archive.extractall(tmp_path)
    code = "import ulcodec; print(ulcodec.__file__, ulcodec.load('small').fingerprint)"
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(str(tmp_path))


def test_source_distribution_contains_package_and_model(distributions: Path) -> None:
    [source] = distributions.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert names >= PACKAGE_FILES | {"pyproject.toml", "README.md", "LICENSE", "cli/main.py"}
