"""Direction of imports, and modules that must not import heavy packages."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from PIL import Image

from ulcodec.codec.image import Codec

ROOT = Path(__file__).parent.parent

FLOORS = [
    ("errors", "progress", "memory", "devices", "backends"),
    ("format",),
    ("io",),
    ("metrics", "diffusion"),
    ("model",),
    ("coding",),
    ("motion",),
    ("store",),
    ("graphs",),
    ("info",),
    ("codec",),
    ("pillow", "datasets", "train"),
    ("export", "bench"),
]
"""Packages and modules of `ulcodec` by floor, from the lowest. A file imports from the same floor and lower ones."""

WITHOUT_TORCH = (
    "errors",
    "progress",
    "backends",
    "format.container",
    "format.attachments",
    "format.lossless",
    "format.sequence_reader",
    "io.files",
    "io.pictures",
    "io.picture_files",
    "io.locations",
    "io.places",
    "io.video_target",
    "metrics.video",
    "coding.range_coder",
    "coding.tables",
    "coding.symbols",
    "coding.latents",
    "motion.coding",
    "motion.compensation",
    "motion.search",
    "store.installed",
    "store.stored_integers",
    "graphs.graph_prior",
    "codec.loading",
    "codec.video",
    "info",
    "train.settings",
)


def module_files() -> dict[str, Path]:
    """Map the dotted names of all modules in the package to their files, without the package itself."""
    modules = {}
    for file in (ROOT / "ulcodec").rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = file
    del modules["ulcodec"]
    return modules


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
    """Return the modules of the package that a file imports, as a whole or in part."""
    names = imported_names(file)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & set(MODULES)


def floor(module: str) -> int:
    package = module.split(".")[1]
    [number] = [i for i, packages in enumerate(FLOORS) if package in packages] or [-1]
    assert number >= 0, f"{module}: add it to FLOORS"
    return number


def test_the_documentation_draws_these_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = page.split("```text\n")[1].split("```")[0]
    assert [tuple(line.split()) for line in reversed(drawing.splitlines())] == FLOORS


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    names = imported_names(MODULES[module])
    assert not {name for name in names if name.split(".")[0] in ("ulcodec_cli", "cli", "benchmarks", "tests")}
    above = {name for name in imported_modules(MODULES[module]) if floor(name) > floor(module)}
    assert not above


def test_no_import_cycles() -> None:
    TopologicalSorter({name: imported_modules(file) - {name} for name, file in MODULES.items()}).prepare()


def test_training_does_not_import_the_codec() -> None:
    for name, file in MODULES.items():
        if name.startswith("ulcodec.train"):
            assert not {other for other in imported_modules(file) if other.startswith("ulcodec.codec")}, name


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


def modules_after(code: str) -> set[str]:
    """Return the modules that a new process has imported after `code`."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(finished.stdout.splitlines()[-1].split())


def test_codec_imports_no_heavy_package_but_torch() -> None:
    """torch's compiler takes seconds to import; plugins of Pillow are needed only for formats that Pillow lacks."""
    modules = modules_after("import ulcodec.codec; ulcodec.codec.load()")
    heavy = ("torch._dynamo", "torch._inductor", "torch.onnx", "sympy", "fsspec", "rich", "typer", "matplotlib", "av")
    assert not modules & {*heavy, "pillow_jxl", "pillow_heif", "ulcodec.train", "ulcodec.bench"}


COMMANDS_WITHOUT_MODEL = [
    (["info", "a.ulc"], 0),
    (["verify", "a.ulc"], 0),
    (["truncate", "a.ulc", "--fraction", "0.9", "-o", "b.ulc"], 0),
    (["encode", "--help"], 0),
    (["encode"], 2),
    (["unknown"], 2),
    (["encode", "a.png", "--unknown"], 2),
    (["encode", "a.png", "--quality", "101"], 2),
    (["encode", "a.png", "--target-bpp", "1", "--target-size", "5kB"], 2),
    (["encode", "a.png"], 2),
    (["encode", "a.png", "-o", "none/a.ulc"], 2),
    (["encode", "a.png", "-o", "c.ulc", "--model", "none"], 2),
    (["encode", "a.ulc", "-o", "c.ulc"], 2),
    (["encode", "none.png", "-o", "c.ulc"], 2),
    (["encode", "none/", "-r"], 2),
    (["encode", "a.png", "-o", "c.ulc", "--target-bitrate", "1M"], 2),
    (["encode", "a.png", "-o", "c.ulc", "--target-bitrate", "0"], 2),
    (["encode", "a.png", "-o", "c.ulc", "--start", "x"], 2),
    (["decode", "a.ulc", "-o", "c.png", "--frame", "1"], 2),
    (["decode", "a.ulc"], 2),
    (["decode", "none.ulc", "-o", "c.png"], 2),
    (["decode", "damaged.ulc", "-o", "c.png"], 2),
    (["decode", "a.ulc", "-o", "c.png", "--model", "none"], 2),
    (["decode", "a.ulc", "--format", "none"], 2),
    (["decode", "a.ulc", "-o", "c.png", "--crop", "0,0,99,99"], 2),
    (["decode", "a.ulc", "-o", "c.png", "--realism", "1", "--recover"], 2),
    (["compare", "none.png", "a.ulc"], 2),
    (["eval", "none"], 2),
    (["bench", "none"], 2),
    (["bench", "--codecs", "none"], 2),
    (["sample", "none", "-o", "c"], 2),
]
"""Arguments and exit codes of commands that need no model, or fail before they need it."""


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory, tiny_codec: Codec) -> Path:
    """Write a folder with a.png, a.ulc and damaged.ulc."""
    folder = tmp_path_factory.mktemp("files")
    image = Image.new("RGB", (20, 12), (90, 120, 60))
    image.save(folder / "a.png")
    data = tiny_codec.encode(image)
    (folder / "a.ulc").write_bytes(data)
    (folder / "damaged.ulc").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return folder


RUN_ALL = """
import sys
from ulcodec_cli.main import app
for arguments, code in {cases}:
    try:
        app(arguments, prog_name="ulcodec")
    except SystemExit as exit_:
        assert (exit_.code or 0) == code, (arguments, exit_.code)
    assert "torch" not in sys.modules, arguments
"""


def test_commands_without_a_model_do_not_import_torch(small_files: Path) -> None:
    code = RUN_ALL.format(cases=COMMANDS_WITHOUT_MODEL)
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=small_files, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
