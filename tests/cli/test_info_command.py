"""`ulcodec info`."""

import subprocess
import sys
from pathlib import Path

from command_line import Run


def test_info_prints_sizes_and_bound(coded: Path, tiny_model_dir: Path, run: Run) -> None:
    plain = run("info", coded)
    assert plain.code == 0
    assert str(coded.stat().st_size) in plain.stdout
    assert "bound" not in plain.stdout
    both = run("info", coded, "--bound", "--model", tiny_model_dir, "--json").json
    assert both["file_bits"] == 8 * coded.stat().st_size
    assert 0 < both["bound_bits"] < both["file_bits"]


def test_info_does_not_import_torch(coded: Path) -> None:
    code = f"import sys; from ulcodec_cli.main import app; app(['info', {str(coded)!r}], standalone_mode=False); "
    check = code + "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)
