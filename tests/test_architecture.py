"""Imports point down, and what must be light stays light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = [
    (
        "errors",
        "schedule",
        "diffusion",
        "metrics",
        "images",
        "container",
        "attachments",
        "range_coder",
        "entropy",
        "devices",
        "memory",
        "catalogue",
        "info",
        "sources",
    ),
    ("model",),
    ("latent_coding", "data", "store", "arrays"),
    ("refinement", "realism"),
    ("codec", "train"),
    ("evaluation", "calibration", "sampling", "batch", "bench", "rate_control", "pillow"),
]
WITHOUT_TORCH = (
    "errors",
    "metrics",
    "images",
    "container",
    "attachments",
    "range_coder",
    "entropy",
    "catalogue",
    "info",
)


def module_files() -> dict[str, Path]:
    """Every module of the package but the package itself, by dotted name."""
    found = {}
    for file in (ROOT / "ulcodec").rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = file
    del found["ulcodec"]
    return found


MODULES = module_files()


def imported_names(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imported_modules(file: Path) -> set[str]:
    """Modules of the package that a file imports, whether it names the module or something in it."""
    names = imported_names(file)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & set(MODULES)


def layer(module: str) -> int:
    part = module.split(".")[1]
    [number] = [i for i, parts in enumerate(LAYERS) if part in parts] or [-1]
    assert number >= 0, f"{module}: give it a layer"
    return number


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    names = imported_names(MODULES[module])
    assert not {name for name in names if name.split(".")[0] in ("ulcodec_cli", "cli", "benchmarks", "tests")}
    above = {name for name in imported_modules(MODULES[module]) if layer(name) > layer(module)}
    assert not above


def test_no_import_cycles() -> None:
    TopologicalSorter({name: imported_modules(file) - {name} for name, file in MODULES.items()}).prepare()


def test_codec_and_training_do_not_know_each_other() -> None:
    assert not {name for name in imported_modules(MODULES["ulcodec.codec"]) if name.startswith("ulcodec.train")}
    for name, file in MODULES.items():
        assert not (name.startswith("ulcodec.train") and "ulcodec.codec" in imported_modules(file)), name


@pytest.mark.parametrize(
    "code",
    [
        "import ulcodec",
        "import ulcodec; ulcodec.info, ulcodec.UlcError, ulcodec.__version__",
        "import " + ", ".join(f"ulcodec.{name}" for name in WITHOUT_TORCH),
        "from ulcodec_cli.main import app; app(['--help'], standalone_mode=False)",
        "from ulcodec_cli.main import app; app(['train', 'stage1', '--help'], standalone_mode=False)",
    ],
)
def test_torch_is_not_imported(code: str) -> None:
    check = f"import sys; {code}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)
