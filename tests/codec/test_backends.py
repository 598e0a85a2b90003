"""The backend onnxruntime against torch: the same latents, nearly the same pictures, and what it leaves to torch."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_golden import CASES, CLIPS, GOLDEN, latent_sha256, sequence_sha256

import ulcodec
from ulcodec.codec import tiling
from ulcodec.codec.image import Codec, decode_batch, encode_batch
from ulcodec.codec.loading import default_backend
from ulcodec.codec.realism import Realism
from ulcodec.errors import DeviceError, MissingPackageError, ModelError
from ulcodec.format.container import Container
from ulcodec.graphs.graph_files import Graphs, config_sha256, listed_graphs
from ulcodec.graphs.graph_prior import GraphPrior

pytest.importorskip("onnxruntime", reason="needs onnxruntime")


@pytest.fixture(scope="module")
def in_torch(graph_model_dir: Path) -> Codec:
    return ulcodec.load(graph_model_dir, device="cpu", backend="torch")


@pytest.fixture(scope="module")
def in_graphs(graph_model_dir: Path) -> Codec:
    return ulcodec.load(graph_model_dir, backend="onnxruntime", n_threads=1)


@pytest.fixture(scope="module")
def small_in_graphs() -> Codec:
    return ulcodec.load("small", backend="onnxruntime", n_threads=1)


def assert_alike(one: np.ndarray, other: np.ndarray) -> None:
    """Samples may round differently, and a few of them may differ by one."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    difference = np.abs(one.astype(int) - other)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 0.01 * difference.size + 2


def assert_same_latents(one: Codec, other: Codec, data: bytes) -> None:
    latents = (codec.decode_latents(Container.from_bytes(data)) for codec in (one, other))
    assert all(np.array_equal(*parts) for parts in zip(*latents, strict=True))


def pictures(picture: np.ndarray) -> list[np.ndarray]:
    """Colour, grey, with alpha, of 16 bits, and of odd sides."""
    alpha = np.full((*picture.shape[:2], 1), 200, np.uint8)
    return [picture, picture[:, :, 0], np.dstack((picture, alpha)), picture.astype(np.uint16) * 257, picture[:37, :51]]


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("number", range(5))
def test_either_backend_decodes_files_of_the_other(
    in_torch: Codec, in_graphs: Codec, picture: np.ndarray, number: int
) -> None:
    original = pictures(picture)[number]
    files = [codec.encode(original, quality=60) for codec in (in_torch, in_graphs)]
    assert len(files[0]) == pytest.approx(len(files[1]), rel=0.01)
    for data in files:
        assert_same_latents(in_torch, in_graphs, data)
        decoded = in_graphs.decode_array(data)
        assert decoded.dtype == original.dtype
        if original.dtype == np.uint16:
            decoded = (decoded // 257).astype(np.uint8)
            expected = (in_torch.decode_array(data) // 257).astype(np.uint8)
        else:
            expected = in_torch.decode_array(data)
        assert_alike(decoded, expected)


@pytest.mark.usefixtures("in_float32")
def test_refined_files_are_alike(in_torch: Codec, in_graphs: Codec, picture: np.ndarray) -> None:
    files = [codec.encode(picture[:70], quality=60, effort=2) for codec in (in_torch, in_graphs)]
    assert len(files[0]) == pytest.approx(len(files[1]), rel=0.01)
    one, other = (in_torch.decode_latents(Container.from_bytes(data)).y_16 for data in files)
    assert (one == other).mean() > 0.99
    assert files[0] != in_torch.encode(picture[:70], quality=60, effort=1)


@pytest.mark.usefixtures("in_float32")
def test_options_of_decoding(in_torch: Codec, in_graphs: Codec, picture: np.ndarray) -> None:
    data = in_torch.encode(picture, quality=60)
    assert_alike(in_graphs.thumbnail(data).samples, in_torch.thumbnail(data).samples)
    for options in ({"fraction": 0.5}, {"crop": (19, 5, 40, 50)}):
        one, other = (codec.decode_picture(data, **options).samples for codec in (in_graphs, in_torch))
        assert_alike(one, other)
    damaged = bytearray(data)
    damaged[-20] ^= 1
    recoveries = [codec.recover(bytes(damaged)) for codec in (in_graphs, in_torch)]
    assert recoveries[0].n_segments == recoveries[1].n_segments < 4
    assert_alike(recoveries[0].picture.samples, recoveries[1].picture.samples)


def test_batches_equal_single_pictures(in_graphs: Codec, picture: np.ndarray) -> None:
    originals = [picture, picture[::-1], picture[:37, :51]]
    files = encode_batch(in_graphs, originals, quality=60)
    assert files == [in_graphs.encode(original, quality=60) for original in originals]
    decoded = [part.samples for part in decode_batch(in_graphs, files)]
    for samples, data in zip(decoded, files, strict=True):
        assert np.array_equal(samples, in_graphs.decode_array(data))


def test_tiles_change_nothing(in_graphs: Codec, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    large = np.tile(picture, (2, 2, 1))
    whole = in_graphs.encode(large, quality=60)
    pixels = in_graphs.decode_array(whole)
    monkeypatch.setattr(tiling, "CODEC_TILE", 4)
    prior = in_graphs.coder.prior
    assert isinstance(prior, GraphPrior)
    monkeypatch.setattr(prior, "tile", 3)
    assert_alike(in_graphs.decode_array(whole), pixels)
    assert_same_latents(in_graphs, in_graphs, whole)
    in_tiles = in_graphs.encode(large, quality=60)
    assert len(in_tiles) == pytest.approx(len(whole), rel=0.01)
    assert_alike(in_graphs.decode_array(in_tiles), pixels)


def test_predicted_frames(in_torch: Codec, in_graphs: Codec, picture: np.ndarray) -> None:
    frames = [np.roll(picture, shift, axis=1) for shift in (0, 1, 2, 4)]
    for encoder in (in_torch, in_graphs):
        data = b"".join(encoder.encode_video(frames, quality=60))
        assert any(is_residual for _, is_residual, _ in in_graphs.decode_video(data).latents())
        decoded = [[frame.pixels for frame in codec.decode_video(data)] for codec in (in_graphs, in_torch)]
        assert len(decoded[0]) == len(frames)
        for one, other in zip(*decoded, strict=True):
            assert_alike(one, other)


@pytest.mark.parametrize("name", [*CASES, *CLIPS])
def test_golden_files_decode_to_the_golden_latents(small_in_graphs: Codec, name: str) -> None:
    expected = json.loads((GOLDEN / "latents.json").read_text())
    hashed = latent_sha256 if name in CASES else sequence_sha256
    assert hashed(small_in_graphs, (GOLDEN / f"{name}.ulc").read_bytes()) == expected[name]


@pytest.mark.parametrize("name", CASES)
def test_shipped_graphs_agree_with_torch(small_in_graphs: Codec, small: Codec, name: str) -> None:
    """Torch computes in bfloat16 where that is faster."""
    data = (GOLDEN / f"{name}.ulc").read_bytes()
    one, other = (codec.decode_array(data).astype(int) for codec in (small_in_graphs, small))
    assert np.abs(one - other).max() <= 4
    assert np.abs(one - other).mean() < 0.2


def test_what_needs_torch(in_graphs: Codec, picture: np.ndarray) -> None:
    data = in_graphs.encode(picture)
    for name, call in {
        "effort 3": lambda: in_graphs.encode(picture, effort=3),
        "an effort above 1 for videos": lambda: in_graphs.encode_video([picture] * 2, effort=2),
        "realism": lambda: in_graphs.decode(data, realism=0.5),
        "the prior's bound": lambda: in_graphs.describe(data),
        "access to the networks": lambda: in_graphs.model,
        "access to the device": lambda: in_graphs.device,
    }.items():
        with pytest.raises(ModelError, match=f"^{name}.* needs torch"):
            call()


def test_realism_is_refused_by_the_networks(in_graphs: Codec) -> None:
    tile = tiling.tiles((2, 2), 96, 0)[0]
    with pytest.raises(ModelError, match="realism needs torch"):
        in_graphs.networks.synthesise(np.zeros((1, 2, 2, 32), np.float32), 50, tile, Realism(1.0))


def test_wrong_arguments(graph_model_dir: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, torch, onnxruntime, got 'tensorflow'"):
        ulcodec.load(graph_model_dir, backend="tensorflow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_threads must be at least 1, got 0"):
        ulcodec.load(graph_model_dir, backend="onnxruntime", n_threads=0)
    with pytest.raises(DeviceError, match="onnxruntime runs on the CPU, not on 'cuda', which needs"):
        ulcodec.load(graph_model_dir, device="cuda", backend="onnxruntime")
    with pytest.raises(ModelError, match="holds no ONNX graphs; write them with ulcodec model export-onnx"):
        ulcodec.load(tiny_model_dir, backend="onnxruntime")


def test_graphs_of_another_version(graph_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(graph_model_dir, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"name": "tiny"', '"name": "other"', 1))
    with pytest.raises(ModelError, match="another version of the model; export them again"):
        ulcodec.load(tmp_path / "model", backend="onnxruntime")


def test_damaged_graph_is_one_line(graph_model_dir: Path, tmp_path: Path, picture: np.ndarray) -> None:
    shutil.copytree(graph_model_dir, tmp_path / "model")
    codec = ulcodec.load(tmp_path / "model", backend="onnxruntime")
    graph = tmp_path / "model" / "analysis.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"analysis\.onnx"):
        codec.encode(picture)


def constants(*results: np.ndarray) -> bytes:
    """A graph without inputs that returns these results."""
    from onnx import helper, numpy_helper

    nodes = [helper.make_node("Identity", [f"c{n}"], [f"o{n}"]) for n in range(len(results))]
    tensors = [numpy_helper.from_array(result, f"c{n}") for n, result in enumerate(results)]
    outputs = [helper.make_tensor_value_info(f"o{n}", tensor.data_type, None) for n, tensor in enumerate(tensors)]
    names = ("pixels", "quality")
    inputs = [helper.make_tensor_value_info(name, 1, None) for name in names]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )


LATENT, HYPER = np.zeros((1, 5, 6, 32), np.float32), np.zeros((1, 2, 2, 8), np.float32)
HOSTILE = {
    "one result": [LATENT],
    "three results": [LATENT, HYPER, HYPER],
    "broadcast": [LATENT[:, :1, :1], HYPER],
    "scalar": [LATENT[0, 0, 0, 0], HYPER],
    "double": [LATENT.astype(np.float64), HYPER],
    "strings": [LATENT.astype(str).astype(object), HYPER],
    "not finite": [LATENT + np.float32(np.nan), HYPER],
}


@pytest.mark.parametrize("results", HOSTILE.values(), ids=HOSTILE)
def test_hostile_graph_is_one_line(
    graph_model_dir: Path, tmp_path: Path, picture: np.ndarray, results: list[np.ndarray], capfd: Any
) -> None:
    shutil.copytree(graph_model_dir, tmp_path / "model")
    (tmp_path / "model" / "analysis.onnx").write_bytes(constants(*results))
    codec = ulcodec.load(tmp_path / "model", backend="onnxruntime", n_threads=1)
    with pytest.raises(ModelError, match=r"analysis\.onnx: its results are not"):
        codec.encode(picture)
    assert capfd.readouterr() == ("", "")


def test_runtime_prints_no_lines_of_its_own(graph_model_dir: Path, capfd: Any) -> None:
    graphs = Graphs(graph_model_dir, n_threads=1)
    with pytest.raises(ModelError, match=r"hyper\.onnx: "):
        graphs.run("hyper", [(1, 4, 4, 16)], hyper=np.zeros((1, 1, 1, 7), np.float32))
    with pytest.raises(ModelError, match=r"prior\.onnx: "):  # fails within the graph
        graphs.run(
            "prior",
            [],
            estimate=np.zeros((1, 1, 1, 32), np.float32),
            hyper_features=np.zeros((1, 1, 1, 16), np.float32),
            cell=np.full((1, 1), 10**6),
            quality=np.array([50]),
        )
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_graph_that_is_no_file(graph_model_dir: Path, tmp_path: Path, picture: np.ndarray) -> None:
    shutil.copytree(graph_model_dir, tmp_path / "model")
    codec = ulcodec.load(tmp_path / "model", backend="onnxruntime")
    (tmp_path / "model" / "analysis.onnx").unlink()
    for _ in range(2):
        with pytest.raises(ModelError, match=r"analysis\.onnx is missing"):
            codec.encode(picture)
        if not (tmp_path / "model" / "analysis.onnx").exists():
            os.mkfifo(tmp_path / "model" / "analysis.onnx")


def test_list_of_graphs_names_no_other_files(graph_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(graph_model_dir, tmp_path / "model")
    file = tmp_path / "model" / "graphs.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "graphs": ["prior-1", "../victim", "/victim", "", ".x", 5, ["a"]]}))
    assert listed_graphs(tmp_path / "model") == ["prior-1"]
    file.write_text("[" * 10**5)
    with pytest.raises(ModelError, match=r"graphs\.json"):
        ulcodec.load(tmp_path / "model", backend="onnxruntime")


def test_deployments_are_loaded_by_onnxruntime(graph_model_dir: Path, tmp_path: Path) -> None:
    """Torch is installed here, and cannot load them."""
    assert default_backend(graph_model_dir) == "torch"
    shutil.copytree(graph_model_dir, tmp_path / "model")
    config, graphs = tmp_path / "model" / "config.json", tmp_path / "model" / "graphs.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "deployment": "video"}))
    graphs.write_text(json.dumps({**json.loads(graphs.read_text()), "config_sha256": config_sha256(config.parent)}))
    assert default_backend(tmp_path / "model") == "onnxruntime"
    assert encoded(ulcodec.load(tmp_path / "model"))


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_too_little_memory_is_a_memory_error(graph_model_dir: Path) -> None:
    script = """
import resource, sys, numpy as np, ulcodec
codec = ulcodec.load(sys.argv[1], backend="onnxruntime", n_threads=1)
codec.encode(np.zeros((32, 32, 3), np.uint8))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
pixels = np.zeros((1536, 1536, 3), np.uint8)
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
try:
    codec.encode(pixels)
except MemoryError:
    print("MemoryError")
"""
    command = [sys.executable, "-c", script, str(graph_model_dir)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (finished.stdout, finished.returncode) == ("MemoryError\n", 0), finished.stderr


def test_missing_packages(graph_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"ulcodec\[onnx\]"):
        ulcodec.load(graph_model_dir, backend="onnxruntime")


def encoded(codec: Codec) -> bytes:
    return codec.encode(np.zeros((32, 48, 3), np.uint8))


def test_pickled_codec_opens_its_own_sessions(in_graphs: Codec) -> None:
    expected = encoded(in_graphs)
    assert encoded(pickle.loads(pickle.dumps(in_graphs))) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_forked_process_opens_its_own_sessions(graph_model_dir: Path) -> None:
    codec = ulcodec.load(graph_model_dir, backend="onnxruntime", n_threads=2)
    expected = encoded(codec)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(encoded, (codec,)).get(timeout=120) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_forked_process_may_drop_the_codec(graph_model_dir: Path) -> None:
    script = """
import os, sys, numpy as np, ulcodec
codec = ulcodec.load(sys.argv[1], backend="onnxruntime", n_threads=3)
codec.encode(np.zeros((32, 32, 3), np.uint8))
if (child := os.fork()) == 0:
    del codec
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    command = [sys.executable, "-c", script, str(graph_model_dir)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (finished.stdout, finished.returncode) == ("0\n", 0), finished.stderr


def test_threads_share_a_codec(graph_model_dir: Path, picture: np.ndarray) -> None:
    parts = [picture[:side, : side + 9] for side in (16, 33, 50, 70)]
    alone = ulcodec.load(graph_model_dir, backend="onnxruntime", n_threads=1)
    expected = [alone.encode(part) for part in parts]
    codec = ulcodec.load(graph_model_dir, backend="onnxruntime", n_threads=1)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(codec.encode, parts * 3)) == expected * 3


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from ulcodec_cli.main import app
app(sys.argv[1:], prog_name="ulcodec")
"""


def run_without_torch(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process in which torch cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_line_without_torch(picture: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(picture).save(tmp_path / "a.png")
    for arguments in (
        ("encode", tmp_path / "a.png", "--backend", "onnxruntime"),
        ("decode", tmp_path / "a.ulc", "-o", tmp_path / "b.png", "--backend", "onnxruntime"),
        ("compare", tmp_path / "a.png", tmp_path / "a.ulc", "--json"),
        ("info", tmp_path / "a.ulc"),
        ("verify", tmp_path / "a.ulc"),
    ):
        finished = run_without_torch(*arguments)
        assert (finished.returncode, finished.stderr) == (0, "")
    with Image.open(tmp_path / "b.png") as decoded:
        assert decoded.size == (96, 80)
    for arguments, word in {
        ("encode", tmp_path / "a.png", "--force", "--effort", "3"): "torch",
        ("info", tmp_path / "a.ulc", "--bound"): "torch",
        ("model", "describe"): "torch",
        ("decode", tmp_path / "a.ulc", "--force", "--backend", "torch"): "ulcodec[torch]",
        ("decode", tmp_path / "a.ulc", "--force", "--backend", "mlx"): "auto, torch, onnxruntime",
    }.items():
        finished = run_without_torch(*arguments)
        assert finished.returncode == 2
        assert word in finished.stderr
        assert "Traceback" not in finished.stderr
