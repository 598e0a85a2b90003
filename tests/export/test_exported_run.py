"""Export of a trained run: the codec, its tables, and the files in and beside the model directory."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from stage1_runs import N_IMAGES
from typer.testing import CliRunner

import ulcodec
from ulcodec.export.pipeline import export
from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.train.stage1 import resume_stage1
from ulcodec_cli.main import app


def test_trained_model_encodes_and_decodes(finished_run: Path, tmp_path: Path, picture: np.ndarray) -> None:
    sha256 = export(finished_run, tmp_path / "model", name="mine", sources=()).sha256
    codec = ulcodec.load(tmp_path / "model", device="cpu")
    assert (codec.name, codec.fingerprint) == ("mine", sha256[:8])
    data = codec.encode(picture, quality=80)
    assert codec.decode_array(data).shape == picture.shape
    description = codec.describe(data)
    assert description["payload_bits"] < 1.03 * description["bound_bits"] + 4 * 16
    provenance = read_document(tmp_path / "model", "config")["provenance"]
    assert provenance["progress"]["n_images"] == N_IMAGES
    assert provenance["training"]["objective"] == "codec"
    ema = read_tensors(finished_run / "checkpoint", "ema")
    exported_weights = dict(codec.model.named_parameters())
    assert all(torch.equal(exported_weights[name], weight.half().float()) for name, weight in ema.items())
    assert export(finished_run, tmp_path / "again", name="mine", sources=()).sha256 == sha256


def test_export_fits_tables_and_measures_the_integer_cost(finished_run: Path, tmp_path: Path) -> None:
    unfitted = export(finished_run, tmp_path / "unfitted", sources=()).sha256
    arguments = ["train", "export", str(finished_run), "-o", str(tmp_path / "model")]
    model_line, tables_line, cost_line = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert model_line.endswith(f"fingerprint {ulcodec.load(tmp_path / 'model', device='cpu').fingerprint}")
    assert unfitted[:8] not in model_line
    assert "tables fitted" in tables_line
    costs = [float(number) for number in re.findall(r"([+-][0-9.]+) % at quality", cost_line)]
    assert len(costs) == 3
    assert all(-20 < cost < 3 for cost in costs)
    finished = CliRunner().invoke(app, [*arguments, "--force", "--data", str(tmp_path / "none")])
    assert (finished.exit_code, "means and tables not fitted to files: no pictures" in finished.stdout) == (0, True)


def test_export_keeps_other_files(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    other_files = {"a.old/weights.txt": "last month", "model.old/a": "1", "model.partial/b": "2"}
    for name, text in other_files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    sha256 = export(finished_run, out, sources=()).sha256
    other_files |= {"model/README.txt": "mine", "model/other/config.json": "{}"}
    (out / "other").mkdir()
    for name in ("model/README.txt", "model/other/config.json"):
        (tmp_path / name).write_text(other_files[name])
    assert export(finished_run, out, sources=()).sha256 == sha256
    assert {name: (tmp_path / name).read_text() for name in other_files} == other_files
    assert {file.name for file in out.iterdir() if file.name not in ("README.txt", "other")} == {
        "config.json", "coding-00000.safetensors", "weights-00000.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_export_into_other_folders_is_refused(finished_run: Path, tmp_path: Path, force: list[str]) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "config.json").write_text('{"name": "mine"}')
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(run)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for out in (pictures, tmp_path, run, run / "checkpoint", run / "constant", tmp_path / "file", tmp_path / "link"):
        finished = CliRunner().invoke(app, ["train", "export", str(run), "-o", str(out), *force])
        assert finished.exit_code == 2
        assert re.fullmatch("ulcodec: error: .*(another|not a directory).*\\n", finished.stderr), finished.stderr
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_export_during_a_checkpoint_write(finished_run: Path, photographs: Path, tmp_path: Path) -> None:
    """A complete version that is not yet renamed is read from its staging folder. The writer's folders stay."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    checkpoint = run / "checkpoint"
    staging, ready = checkpoint / f".ulcodec-{'0' * 16}.tmp", checkpoint / f".ulcodec-{'1' * 16}.ready"
    staging.mkdir()
    (staging / "config.json").write_text("{")
    ready.mkdir()
    names = sorted(file.name for file in checkpoint.glob("*.*") if file.is_file())
    for name in names:
        (checkpoint / name).rename(ready / name)
    (ready / "contents.list").write_text("\n".join(names))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert export(run, tmp_path / "a", name="mine", sources=()) == export(
        finished_run, tmp_path / "b", name="mine", sources=()
    )
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    resume_stage1(run, data=(photographs,))
    assert {file.name for file in checkpoint.iterdir()} == set(names)
