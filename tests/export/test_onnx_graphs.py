"""Exported graphs: what onnxruntime computes with them is what torch computes, integer for integer in the prior."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ulcodec.coding.integer_layers import scale_latent, shift_and_round
from ulcodec.coding.integer_prior import MEAN_BITS, CodingParameters, IntegerPrior
from ulcodec.coding.latents import hyper_grid
from ulcodec.coding.products import ACTIVATION_BITS
from ulcodec.export.graphs import export_graphs
from ulcodec.model.config import TINY, ModelConfig
from ulcodec.model.prior import N_SCALES
from ulcodec.model.reveal import PassElements, pass_map
from ulcodec.model.tiles import whole_tile
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.store.model_directory import (
    StoredEntropyModel,
    StoredModel,
    open_model,
    quantised_entropy_model,
    quantised_model,
    write_model,
)

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

CPU = torch.device("cpu")
GRIDS = ((1, 1), (5, 7), (8, 4))
"""Latent grids: of one position, of sides that no cell divides, of whole cells."""

GAINS = ("estimate", "mean_gain", "scale_offset", "hyper_gain")

Run = Callable[..., list[Tensor]]


def random_entropy_model(config: ModelConfig) -> EntropyModel:
    """Make an entropy model with random weights in all layers."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = EntropyModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.05)
                parameter.copy_(parameter.half())
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def directory(shared_prior_model: UnifiedLatentModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model with a shared prior, a video part with a network for each pass, and the graphs of both."""
    directory = tmp_path_factory.mktemp("graphs") / "model"
    config = replace(TINY, hyper_channels=16, prior_blocks=(0, 1, 2, 1))
    video = quantised_entropy_model(random_entropy_model(config))
    stored = replace(quantised_model("tiny", shared_prior_model, {}), video=video)
    write_model(directory, stored)
    export_graphs(stored, directory)
    return directory


@pytest.fixture(scope="module")
def stored(directory: Path) -> StoredModel:
    return open_model(directory)


@pytest.fixture(scope="module")
def run(directory: Path) -> Run:
    """Return a function that computes a graph, by its name, with onnxruntime."""
    return graph_runner(directory)


def graph_runner(directory: Path, n_threads: int = 1) -> Run:
    sessions: dict[str, Any] = {}

    def run(name: str, **inputs: Tensor) -> list[Tensor]:
        if name not in sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = n_threads
            sessions[name] = onnxruntime.InferenceSession(
                directory / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
            )
        feeds = {key: value.contiguous().numpy() for key, value in inputs.items()}
        return [torch.from_numpy(output) for output in sessions[name].run(None, feeds)]

    return run


class GraphPrior:
    """What a host computes with the graphs of hyper-decoder and prior: the parameters of one pass after the other."""

    def __init__(self, model: StoredEntropyModel, run: Run, kind: str):
        self.config, self.run, self.kind = model.config, run, kind
        self.tables = {name: model.coding[f"table.{name}"].long() for name in GAINS}

    def hyper_features(self, hyper_16: Tensor, quality: int, grid: tuple[int, int]) -> Tensor:
        """Compute the features [B, h, w, hyper_width] of a hyper-latent [B, h4, w4, C_hyper]."""
        hyper = scale_latent(hyper_16, self.tables["hyper_gain"][quality])
        [features] = self.run(f"{self.kind}hyper", hyper=hyper.float())
        return features[:, : grid[0], : grid[1]]

    def passes(self, y_16: Tensor, hyper_16: Tensor, quality: int) -> Iterator[CodingParameters]:
        height, width = y_16.shape[1:3]
        row, column = torch.arange(height)[:, None], torch.arange(width)
        features = self.hyper_features(hyper_16, quality, (height, width))
        carried: dict[str, Tensor] = {}
        for reveal_pass in self.config.reveal_passes:
            known = pass_map(self.config, (height, width)).permute(1, 2, 0) < reveal_pass
            estimate = scale_latent(torch.where(known, y_16, 0), self.tables["estimate"][quality])
            name = f"{self.kind}prior" if self.config.shared_prior else f"{self.kind}prior-{reveal_pass}"
            mean, scale, *kept = self.run(
                name,
                estimate=estimate.float(),
                hyper_features=features,
                cell=8 * (reveal_pass - 1) + 4 * (row % 2) + column % 4,
                quality=torch.tensor([quality]),
                **carried,
            )
            carried = {"carried": part for part in kept}
            mean_16 = shift_and_round(mean.long() * self.tables["mean_gain"][quality], MEAN_BITS + ACTIVATION_BITS)
            index = shift_and_round(scale.long() + self.tables["scale_offset"][quality], ACTIVATION_BITS)
            elements = PassElements(self.config, reveal_pass, CPU)
            yield CodingParameters(
                elements.gather(mean_16.int()), elements.gather(index.clamp(0, N_SCALES - 1).to(torch.uint8))
            )


def random_latents(model: StoredEntropyModel, grid: tuple[int, int], largest: int) -> tuple[Tensor, Tensor]:
    """Draw a latent [2, h, w, C] and a hyper-latent [2, h4, w4, C_hyper] in sixteenths of a bin, of all magnitudes."""
    generator = torch.Generator().manual_seed(grid[0])
    shapes = (*grid, model.config.latent_channels), (*hyper_grid(grid), model.config.hyper_channels)

    def draw(shape: tuple[int, ...]) -> Tensor:
        integers = torch.randint(-largest, largest + 1, (2, *shape), generator=generator)
        return (integers >> torch.randint(0, 25, (2, *shape[:2], 1), generator=generator)).int()

    y_16, hyper_16 = (draw(shape) for shape in shapes)
    return y_16, hyper_16


def assert_same_parameters(model: StoredEntropyModel, run: Run, kind: str, y_16: Tensor, hyper_16: Tensor) -> None:
    """Compare all passes with the integer prior, at three levels of quality."""
    prior, grid = IntegerPrior(model.config, model.coding, CPU, "int64"), (y_16.shape[1], y_16.shape[2])
    for quality in (0, 37, 100):
        state = prior.begin(hyper_16.flatten(0, 2), quality, grid)
        graphs = GraphPrior(model, run, kind)
        features = graphs.hyper_features(hyper_16, quality, grid)
        assert torch.equal(features, state.hyper_features.float())
        for mean_16, table_index in graphs.passes(y_16, hyper_16, quality):
            expected = prior(y_16, state, whole_tile(grid))
            state.advance()
            assert torch.equal(mean_16, expected.mean_16)
            assert torch.equal(table_index, expected.table_index)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("largest", [300, 2**24])
@pytest.mark.parametrize("kind", ["", "video_"])
def test_prior_is_exact(stored: StoredModel, run: Run, kind: str, largest: int, grid: tuple[int, int]) -> None:
    model = stored.video if kind else stored
    assert model is not None
    assert_same_parameters(model, run, kind, *random_latents(model, grid, largest))
