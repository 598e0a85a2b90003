"""The Python code of the README runs unchanged with the shipped model."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = Path(__file__).parent.parent / "README.md"


def test_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    Image.fromarray(picture).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        names: dict[str, object] = {}
        exec(block, names)
        assert isinstance(names["picture"], Image.Image)
        assert names["picture"].size == (96, 80)
    assert 0 < float(capsys.readouterr().out) < 24
    assert (tmp_path / "photo.ulc").stat().st_size > 24
