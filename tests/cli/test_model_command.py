"""`ulcodec model`."""

import stat
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_refused
from safetensors.numpy import load_file

import ulcodec
from ulcodec.coding.products import PRODUCTS
from ulcodec.errors import ModelError
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import save_model


def test_model_describe_lists_parts_and_integer_products(run: Run) -> None:
    described = run("model", "describe", "--config", "tiny", "--json").json
    assert described["config"] == "tiny"
    assert all(row["parameters"] > 0 and row["kmac_per_px"] > 0 for row in described["parts"])
    table = run("model", "describe", "--config", "tiny").stdout.splitlines()
    products = described["products"]
    tried = {trial["name"]: trial for trial in products["trials"]}
    assert tried[products["chosen"]]["is_exact"]
    assert tried.keys() == PRODUCTS.keys()
    assert len(table) == 1 + len(described["parts"]) + 2 + len(tried)
    assert any(line.startswith("Integer products on cpu: ") for line in table)
    assert_refused(run("model", "describe", "--config", "none"), "none")


def test_model_describe_describes_a_model(run: Run, tiny_model_dir: Path) -> None:
    described = run("model", "describe", "--model", str(tiny_model_dir), "--json").json
    assert described["parts"] == run("model", "describe", "--config", "tiny", "--json").json["parts"]
    assert_refused(run("model", "describe", "--model", "none"), "none")


def test_export_onnx_writes_a_deployment(shared_prior_model: UnifiedLatentModel, tmp_path: Path, run: Run) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    save_model(tmp_path / "tiny", "tiny", shared_prior_model, {})
    output = tmp_path / "deployment"
    finished = run("model", "export-onnx", tmp_path / "tiny", "-o", output, "--for", "decoding")
    assert (finished.code, finished.stderr) == (0, "")
    assert finished.stdout.startswith(f"{output}: 4 graphs, ")
    assert {file.stem for file in output.glob("*.onnx")} == {"synthesis", "thumbnail", "hyper", "prior"}
    weights = load_file(output / "weights-00000.safetensors")
    assert {name.split(".")[1] for name in weights} == {"trunk"}
    assert stat.S_IMODE((output / "weights-00000.safetensors").stat().st_mode) & stat.S_IROTH

    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = ulcodec.load(tmp_path / "tiny", device="cpu").encode(pixels)
    codec = ulcodec.load(output, backend="onnxruntime", n_threads=1)
    assert codec.decode_array(data).shape == pixels.shape
    with pytest.raises(ModelError, match="has no graph analysis: export the model again, with this part"):
        codec.encode(pixels)
    with pytest.raises(ModelError, match="holds ONNX graphs for decoding: load it with onnxruntime"):
        ulcodec.load(output, backend="torch")

    assert_refused(run("model", "export-onnx", tmp_path / "tiny", "-o", output), "--force overwrites it")
    (output / "mine.onnx").write_bytes(b"mine")
    finished = run("model", "export-onnx", tmp_path / "tiny", "-o", output, "--for", "encoding", "--force")
    assert finished.code == 0
    assert ": 3 graphs, " in finished.stdout, "mine.onnx is not one of them"
    assert {file.stem for file in output.glob("*.onnx")} == {"analysis", "hyper", "prior", "mine"}
    codec = ulcodec.load(output, backend="onnxruntime", n_threads=1)
    assert codec.encode(pixels)
    with pytest.raises(ModelError, match="has no graph synthesis"):
        codec.decode(data)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    assert_refused(run("model", "export-onnx", tmp_path / "tiny", "-o", tmp_path / "notes", "--force"), "not empty")
    assert run("model", "export-onnx", tmp_path / "tiny", "-o", tmp_path / "x", "--for", "printing").code == 2
    assert_refused(run("model", "export-onnx", "none", "-o", tmp_path / "x"), "no model 'none'")
    assert not (tmp_path / "x").exists()
