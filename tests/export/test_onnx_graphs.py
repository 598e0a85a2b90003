"""Exported graphs: what onnxruntime computes with them is what torch computes, integer for integer in the prior."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ulcodec.codec.graph_networks import quality_input
from ulcodec.codec.networks import Array
from ulcodec.codec.tensors import channels_first, channels_last
from ulcodec.coding.fixed_point import MAX_LATENT, CodingParameters, CodingPrior
from ulcodec.coding.integer_prior import IntegerPrior
from ulcodec.coding.latents import hyper_grid, next_parameters
from ulcodec.errors import MissingPackageError, ModelError
from ulcodec.export.graphs import LARGEST_INLINE_BYTES, export_graphs
from ulcodec.graphs.graph_files import Graphs
from ulcodec.graphs.graph_prior import GraphPrior
from ulcodec.model.config import TINY, ModelConfig
from ulcodec.store.model_directory import (
    StoredEntropyModel,
    StoredModel,
    open_model,
    write_model,
)
from ulcodec.store.stored_integers import StoredIntegers, open_integers

pytest.importorskip("onnxscript", reason="needs onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

CPU = torch.device("cpu")
GRIDS = ((1, 1), (5, 7), (8, 4))
"""Latent grids: of one position, of sides that no cell divides, of whole cells."""

QUALITIES = (0, 37, 100)

Latents = tuple[NDArray[np.int32], NDArray[np.int32]]


@pytest.fixture(scope="module")
def directory(graph_model_dir: Path) -> Path:
    return graph_model_dir


@pytest.fixture(scope="module")
def stored(directory: Path) -> StoredModel:
    return open_model(directory)


@pytest.fixture(scope="module")
def graphs(directory: Path) -> Graphs:
    return Graphs(directory, n_threads=1)


def priors_of(directory: Path, graphs: Graphs, prefix: str) -> tuple[GraphPrior, IntegerPrior]:
    """The prior of pictures, or with the prefix video_ that of predicted frames: as graphs, and by its definition."""
    model: StoredEntropyModel | None = open_model(directory)
    integers: StoredIntegers | None = open_integers(directory).pictures
    if prefix:
        model, integers = open_model(directory).video, open_integers(directory).video
    assert model is not None
    assert integers is not None
    definition = IntegerPrior(model.config, model.coding, CPU, "int64")
    return GraphPrior(integers.config, integers.coding, graphs, prefix), definition


def random_latents(config: ModelConfig, grid: tuple[int, int], largest: int) -> Latents:
    """Draw a latent [2, h, w, C] and a hyper-latent [2 h4 w4, C_hyper] in sixteenths of a bin, of all magnitudes."""
    rng = np.random.default_rng(grid[0])

    def draw(grid: tuple[int, int], channels: int) -> NDArray[np.int32]:
        integers = rng.integers(-largest, largest + 1, (2, *grid, channels))
        return (integers >> rng.integers(0, 25, (2, *grid, 1))).astype(np.int32)

    hyper_16 = draw(hyper_grid(grid), config.hyper_channels)
    return draw(grid, config.latent_channels), hyper_16.reshape(-1, config.hyper_channels)


def walk(prior: CodingPrior, latents: Latents, quality: int) -> list[CodingParameters]:
    """Return the parameters of the elements of all passes of a file, one of which has none."""
    y_16, hyper_16 = latents
    state = prior.begin(hyper_16, quality, (y_16.shape[1], y_16.shape[2]))
    return [next_parameters(prior, y_16, state) for _ in range(4)]


def assert_same_parameters(graph_prior: CodingPrior, definition: CodingPrior, latents: Latents) -> None:
    for quality in QUALITIES:
        walks = zip(walk(graph_prior, latents, quality), walk(definition, latents, quality), strict=True)
        for actual, expected in walks:
            for part, expected_part in zip(actual, expected, strict=True):
                assert part.dtype == expected_part.dtype
                assert np.array_equal(part, expected_part)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("largest", [300, MAX_LATENT, 2**30])
@pytest.mark.parametrize("prefix", ["", "video_"])
def test_prior_is_exact(directory: Path, graphs: Graphs, prefix: str, largest: int, grid: tuple[int, int]) -> None:
    graph_prior, definition = priors_of(directory, graphs, prefix)
    latents = random_latents(graph_prior.config, grid, largest)
    for quality in QUALITIES:
        features = (prior.begin(latents[1], quality, grid).hyper_features for prior in (graph_prior, definition))
        assert np.array_equal(*map(np.asarray, features))
    assert_same_parameters(graph_prior, definition, latents)


@pytest.mark.parametrize("prefix", ["", "video_"])
@pytest.mark.parametrize("tile", [2, 3, 4])
def test_tiles_change_no_parameter(directory: Path, graphs: Graphs, prefix: str, tile: int) -> None:
    graph_prior, definition = priors_of(directory, graphs, prefix)
    graph_prior.tile = tile
    assert_same_parameters(graph_prior, definition, random_latents(graph_prior.config, (7, 9), 3000))


def test_prior_is_exact_without_optimisation(directory: Path, graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that computes the graph node by node gives the same integers."""
    make_options = onnxruntime.SessionOptions

    def plain_options() -> object:
        options = make_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", plain_options)
    plain, definition = priors_of(directory, Graphs(directory, n_threads=1), "")
    assert_same_parameters(plain, definition, random_latents(plain.config, (5, 7), MAX_LATENT))


@pytest.mark.parametrize("grid", GRIDS)
def test_float_networks_agree(stored: StoredModel, graphs: Graphs, grid: tuple[int, int]) -> None:
    model, quality = stored.networks(CPU), torch.tensor([0.6])
    pixels = np.random.default_rng(0).random((2, 16 * grid[0], 16 * grid[1], 3), dtype=np.float32)
    y, unit_latent = model.encoder(channels_first(pixels, "cpu"), quality)
    shapes = (2, *grid, TINY.latent_channels), (2, *hyper_grid(grid), TINY.hyper_channels)
    latent, hyper = graphs.run("analysis", shapes, pixels=pixels, quality=quality_input(60))
    assert_close(latent, y)
    assert_close(hyper, model.hyper_encoder(unit_latent, quality))
    [picture] = graphs.run("synthesis", [pixels.shape], latent=latent, quality=quality_input(60))
    assert_close(picture, model.decoder.trunk(y, quality)[1])
    small = (2, 2 * grid[0], 2 * grid[1], 3)
    [thumbnail] = graphs.run("thumbnail", [small], latent=latent, quality=quality_input(60))
    assert_close(thumbnail, model.decoder.trunk.thumbnail(y, quality))


def test_residual_analysis_agrees(stored: StoredModel, graphs: Graphs) -> None:
    assert stored.video is not None
    residual = np.random.default_rng(0).normal(size=(2, 5, 7, TINY.latent_channels)).astype(np.float32)
    quality = torch.tensor([0.3])
    unit_latent = channels_first(residual, "cpu") / stored.networks(CPU).encoder.log_gain.gain(quality)
    shape = (2, *hyper_grid((5, 7)), stored.video.config.hyper_channels)
    [hyper] = graphs.run("residual_analysis", [shape], latent=residual, quality=quality_input(30))
    assert_close(hyper, stored.video.networks(CPU).hyper_encoder(unit_latent, quality))


@pytest.mark.parametrize("grid", GRIDS)
def test_refiner_agrees(stored: StoredModel, graphs: Graphs, grid: tuple[int, int]) -> None:
    rng, refiner = np.random.default_rng(0), stored.refiner_network(CPU)
    assert refiner is not None
    shapes = {"latent": (2, *grid, TINY.latent_channels), "picture_error": (2, 16 * grid[0], 16 * grid[1], 3)}
    shapes["rounding_error"] = shapes["latent"]
    inputs = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    [step] = graphs.run("refiner", [shapes["latent"]], **inputs, quality=quality_input(30))
    names = ("latent", "rounding_error", "picture_error")
    assert_close(step, refiner(*(channels_first(inputs[name], "cpu") for name in names), torch.tensor([0.3])))


def assert_close(actual: Array, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(actual, channels_last(expected), atol=1e-4, rtol=0)


def test_graphs_do_not_repeat_the_weights(directory: Path) -> None:
    import onnx

    names = {file.stem for file in directory.glob("*.onnx")}
    video = {f"video_{name}" for name in ("hyper", "prior-1", "prior-2", "prior-3")}
    assert names == {"analysis", "synthesis", "thumbnail", "residual_analysis", "refiner", "hyper", "prior"} | video
    constants = onnx.load(directory / "analysis.onnx", load_external_data=False).graph.initializer
    own = [constant for constant in constants if constant.data_location != onnx.TensorProto.EXTERNAL]
    assert max(len(constant.raw_data) for constant in own) <= LARGEST_INLINE_BYTES
    assert {entry.value for constant in constants for entry in constant.external_data if entry.key == "location"} == {
        "weights-00000.safetensors"
    }


def test_no_trace_of_the_sources(directory: Path) -> None:
    for file in directory.glob("*.onnx"):
        assert b".py" not in file.read_bytes(), file


def test_another_model_in_the_directory(stored: StoredModel, directory: Path, tmp_path: Path) -> None:
    weights = {name: tensor + 1 for name, tensor in stored.weights.items()}
    write_model(tmp_path, replace(stored, weights=weights))
    with pytest.raises(ModelError, match="holds another encoder"):
        export_graphs(stored, tmp_path)


def test_missing_package(stored: StoredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingPackageError, match=r"ulcodec\[export\]"):
        export_graphs(stored, tmp_path)
