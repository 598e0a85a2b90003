"""The networks of a model directory as ONNX graphs, for runtimes other than torch.

Each graph is a file `NAME.onnx` beside the tensors of the model. Weights are not stored again: the graphs refer to byte
ranges of the safetensors files, float16 or integers, and cast them to float32. So the files of a directory belong
together, and graphs are exported again after its tensors change.

All inputs and outputs are channels last, float32 unless stated. B pictures, H W pixels (multiples of 16), h w the
latent grid, C channels. `quality` of float networks is float32 [1] in [0, 1]; that of integer networks is int64 [1], a
level from 0 to 100.

| graph | inputs | outputs |
|---|---|---|
| `analysis` | `pixels` [B, H, W, 3] in [0, 1], `quality` | `latent` [B, h, w, C] and `hyper`, in bins |
| `synthesis` | `latent` in bins, `quality` | `picture` [B, 16 h, 16 w, 3] about [0, 1], not clipped |
| `thumbnail` | `latent` in bins, `quality` | `picture` [B, 2 h, 2 w, 3] |
| `hyper` | `hyper` [B, h4, w4, C_hyper] | `features` [B, 4 h4, 4 w4, hyper_width] |
| `prior`, or `prior-1` to `prior-P` | see `ExactPrior` | `mean` and `scale`; `features` if a later pass reads them |
| `refiner` | `latent`, `rounding_error`, `picture_error` [B, H, W, 3], `quality`, see `Refiner` | `step` in bins |
| `residual_analysis` | `latent` of a predicted frame in bins, `quality` | `hyper` in bins |
| `video_hyper`, `video_prior-1` ... | as those of pictures | |

The graphs of hyper-decoder and prior hold integers; see `exact_graphs`. They have no tiles: zeros surround the input.
"""

import json
import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ulcodec.coding.integer_layers import StoredIntegers
from ulcodec.coding.products import Int64Product
from ulcodec.errors import MissingPackageError, ModelError
from ulcodec.export.exact_graphs import ExactHyperDecoder, ExactPrior
from ulcodec.graphs.graph_files import config_sha256, listed_graphs
from ulcodec.io.files import atomic_write
from ulcodec.model.blocks import QualityTable
from ulcodec.model.config import PATCH_PX, ModelConfig
from ulcodec.model.decoder import Trunk
from ulcodec.model.encoder import Encoder, HyperEncoder
from ulcodec.model.refiner import Refiner
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.progress import tracked
from ulcodec.store.model_directory import StoredEntropyModel, StoredModel, StoredRefiner
from ulcodec.store.networks import load_network
from ulcodec.store.tensor_files import GRAPHS, TensorPlace, read_tensors, tensor_places

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 18

LARGEST_INLINE_BYTES = 4096
"""Size in float32 up to which tensors of the model are stored in the graph itself."""

STORED_TYPES = {torch.float16: "FLOAT16", torch.int8: "INT8", torch.int32: "INT32"}

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Graph:
    """A graph to export.

    `network` takes `inputs`, examples by name, and returns `outputs`. `sizes`: names of the inputs' dynamic sizes, by
    axis. `prefixes`: what comes before the names of its weights in the group of tensors `group`.
    """

    name: str
    network: nn.Module
    inputs: dict[str, Tensor]
    sizes: dict[str, dict[int, Any]]
    outputs: tuple[str, ...]
    group: str
    prefixes: tuple[str, ...] = ("",)

    @property
    def is_integer(self) -> bool:
        """Whether it is one of hyper-decoder and prior."""
        return self.group.endswith("coding")


def export_graphs(stored: StoredModel, directory: Path, networks: Collection[str] | None = None) -> None:
    """Write the graphs of a model into the directory that holds its tensors.

    `networks`: names of the graphs of float networks to write, None for all. Those of the integers are always written.
    Raises MissingPackageError without the packages of `ulcodec[export]`, and ModelError if the directory does not hold
    the tensors, or if the integers are not provably exact in float32.
    """
    check_packages()
    graphs = chosen_graphs(stored, networks)
    steps = tracked(graphs, "exporting graph {} of {}")
    write_graphs(directory, ((graph.name, _serialised(graph, _Shards(directory, graph.group))) for graph in steps))


def chosen_graphs(stored: StoredModel, networks: Collection[str] | None) -> list[Graph]:
    """Return the graphs of float networks of these names, or of all for None, and those of the integers."""
    return [graph for graph in all_graphs(stored) if networks is None or graph.is_integer or graph.name in networks]


def write_graphs(directory: Path, graphs: Iterable[tuple[str, bytes]]) -> None:
    """Write graphs by name into a model directory, and their list. Removes other graphs of an earlier list."""
    names = []
    for name, data in graphs:
        atomic_write(directory / f"{name}.onnx", data)
        names.append(name)
    stale = set(listed_graphs(directory)) - set(names)
    document = {"config_sha256": config_sha256(directory), "opset": OPSET, "graphs": sorted(names)}
    atomic_write(directory / f"{GRAPHS}.json", (json.dumps(document, indent=1) + "\n").encode())
    for name in stale:
        (directory / f"{name}.onnx").unlink(missing_ok=True)


def check_packages() -> None:
    """Raise MissingPackageError if a package is missing that the export needs."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError('exporting graphs needs packages: pip install "ulcodec[export]"') from error


def all_graphs(stored: StoredModel) -> Iterator[Graph]:
    """Iterate over the graphs of a model. Raises ModelError as `export_graphs`."""
    model = stored.networks(CPU)
    trunk = model.decoder.trunk
    yield _analysis(model.encoder, model.hyper_encoder)
    yield _synthesis("synthesis", _Synthesis(trunk), stored.config)
    yield _synthesis("thumbnail", _Thumbnail(trunk), stored.config)
    yield from _integer_graphs(stored, "")
    yield _residual_analysis(model, stored.video)
    if stored.refiner is not None:
        yield _refiner(stored, stored.refiner)
    if stored.video is not None:
        yield from _integer_graphs(stored.video, "video_")


# Float networks


class _Analysis(nn.Module):
    def __init__(self, encoder: Encoder, hyper_encoder: HyperEncoder):
        super().__init__()
        self.encoder, self.hyper_encoder = encoder, hyper_encoder

    def forward(self, pixels: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        latent, unit_latent = self.encoder(_channels_first(pixels), quality)
        return _channels_last(latent), _channels_last(self.hyper_encoder(_whole_cells(unit_latent), quality))


class _Synthesis(nn.Module):
    def __init__(self, trunk: Trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, latent: Tensor, quality: Tensor) -> Tensor:
        return _channels_last(self.trunk(_channels_first(latent), quality)[1])


class _Thumbnail(_Synthesis):
    def forward(self, latent: Tensor, quality: Tensor) -> Tensor:
        return _channels_last(self.trunk.thumbnail(_channels_first(latent), quality))


class _ResidualAnalysis(nn.Module):
    def __init__(self, log_gain: QualityTable, hyper_encoder: HyperEncoder):
        super().__init__()
        self.log_gain, self.hyper_encoder = log_gain, hyper_encoder

    def forward(self, latent: Tensor, quality: Tensor) -> Tensor:
        unit_latent = _channels_first(latent) / self.log_gain.gain(quality)
        return _channels_last(self.hyper_encoder(_whole_cells(unit_latent), quality))


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _whole_cells(x: Tensor) -> Tensor:
    """Pad [B, C, h, w] as the hyper-encoder does: an operation of fixed kind, whether or not it pads."""
    for axis in (2, 3):
        size = x.shape[axis]
        x = x.index_select(axis, torch.arange((size + 3) // 4 * 4).clamp(max=size - 1))
    return x


def _analysis(encoder: Encoder, hyper_encoder: HyperEncoder) -> Graph:
    sizes = {0: _size("batch"), 1: PATCH_PX * _size("rows"), 2: PATCH_PX * _size("columns")}
    inputs = {"pixels": torch.zeros(2, 5 * PATCH_PX, 6 * PATCH_PX, 3), "quality": torch.zeros(1)}
    return Graph(
        "analysis", _Analysis(encoder, hyper_encoder), inputs, {"pixels": sizes}, ("latent", "hyper"), "weights"
    )


def _synthesis(name: str, network: nn.Module, config: ModelConfig) -> Graph:
    inputs = {"latent": torch.zeros(2, 5, 6, config.latent_channels), "quality": torch.zeros(1)}
    return Graph(name, network, inputs, {"latent": _grid_sizes()}, ("picture",), "weights", ("decoder.",))


def _residual_analysis(model: UnifiedLatentModel, video: StoredEntropyModel | None) -> Graph:
    hyper_encoder = model.hyper_encoder if video is None else video.networks(CPU).hyper_encoder
    network = _ResidualAnalysis(model.encoder.log_gain, hyper_encoder)
    inputs = {"latent": torch.zeros(2, 5, 6, model.config.latent_channels), "quality": torch.zeros(1)}
    group = "weights" if video is None else "video_weights"
    return Graph("residual_analysis", network, inputs, {"latent": _grid_sizes()}, ("hyper",), group)


class _Refiner(Refiner):
    def forward(  # type: ignore[override]
        self, latent: Tensor, rounding_error: Tensor, picture_error: Tensor, quality: Tensor
    ) -> Tensor:
        latent, rounding_error, picture_error = map(_channels_first, (latent, rounding_error, picture_error))
        return _channels_last(super().forward(latent, rounding_error, picture_error, quality))


def _refiner(stored: StoredModel, refiner: StoredRefiner) -> Graph:
    network = load_network(lambda: _Refiner(stored.config, refiner.config), refiner.weights, CPU)
    latent, picture = torch.zeros(2, 5, 6, stored.config.latent_channels), torch.zeros(2, 5 * PATCH_PX, 6 * PATCH_PX, 3)
    inputs = {"latent": latent, "rounding_error": latent.clone(), "picture_error": picture, "quality": torch.zeros(1)}
    grid = _grid_sizes()
    sizes = {"latent": grid, "rounding_error": grid}
    sizes["picture_error"] = {0: grid[0], 1: PATCH_PX * grid[1], 2: PATCH_PX * grid[2]}
    return Graph("refiner", network, inputs, sizes, ("step",), "refiner")


# Integer networks


def _integer_graphs(model: StoredEntropyModel, kind: str) -> Iterator[Graph]:
    """Iterate over the graphs of hyper-decoder and prior. `kind` begins the names of graphs and groups."""
    config, integers = model.config, StoredIntegers(model.coding, Int64Product, CPU)
    group, sizes = f"{kind}coding", _grid_sizes()
    hyper = {"hyper": torch.zeros(2, 2, 3, config.hyper_channels)}
    yield Graph(f"{kind}hyper", ExactHyperDecoder(integers), hyper, {"hyper": sizes}, ("features",), group, ("hyper.",))
    for number, prefix in enumerate(dict.fromkeys(config.prior_networks), start=1):
        inputs = {
            "estimate": torch.zeros(2, 5, 6, config.latent_channels),
            "hyper_features": torch.zeros(2, 5, 6, config.hyper_width),
            "cell": torch.zeros(5, 6, dtype=torch.int64),
            "quality": torch.zeros(1, dtype=torch.int64),
        }
        if number > 1:
            inputs["carried"] = torch.zeros(2, 5, 6, config.prior_width)
        all_sizes = {name: sizes for name, value in inputs.items() if value.ndim == 4}
        all_sizes["cell"] = {0: sizes[1], 1: sizes[2]}
        network = ExactPrior(config, integers, prefix)
        outputs = ("mean", "scale", "features") if network.has_successor else ("mean", "scale")
        name = f"{kind}prior" if config.shared_prior else f"{kind}prior-{number}"
        yield Graph(name, network, inputs, all_sizes, outputs, group, (f"prior.{prefix}", f"table.{prefix}"))


# Serialisation


def _size(name: str) -> Any:
    return torch.export.Dim(name, min=1)


def _grid_sizes() -> dict[int, Any]:
    return {0: _size("batch"), 1: _size("rows"), 2: _size("columns")}


class _Shards:
    """Tensors of a group in a model directory, and where their bytes are."""

    def __init__(self, directory: Path, group: str):
        self._tensors, self._places = read_tensors(directory, group), tensor_places(directory, group)

    def find(self, names: Sequence[str], value: Tensor) -> tuple[torch.dtype, TensorPlace] | None:
        """Return dtype and place of the tensor that has one of these names, or None.

        Raises ModelError if it does not have the given values.
        """
        for name in set(names) & set(self._tensors):
            tensor = self._tensors[name]
            if not torch.equal(tensor.float(), value):
                raise ModelError(f"the model directory holds another {name} than the model to export")
            return tensor.dtype, self._places[name]
        return None


def _serialised(graph: Graph, shards: _Shards) -> bytes:
    """Export a graph to bytes, with references to the tensors in the model directory."""
    import onnx_ir as ir

    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.network.eval(),
            kwargs=graph.inputs,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes={name: graph.sizes.get(name) for name in graph.inputs},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model
    _register_constants(model.graph)
    for value in list(model.graph.initializers.values()):
        names = [prefix + str(value.name) for prefix in graph.prefixes]
        assert value.const_value is not None
        found = shards.find(names, torch.from_numpy(value.const_value.numpy()))
        if found and value.const_value.nbytes > LARGEST_INLINE_BYTES:
            _refer(model.graph, value, *found)
    _strip(model)
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def _register_constants(graph: "ir.Graph") -> None:
    """Register constants that the optimizer of onnxscript forgets: bounds of values that are clamped twice."""
    for node in graph:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.producer() is None:
                graph.initializers.setdefault(str(value.name), value)


def _refer(graph: "ir.Graph", value: "ir.Value", dtype: torch.dtype, place: TensorPlace) -> None:
    """Replace a constant of a graph by a cast of bytes in another file."""
    import onnx_ir as ir

    assert value.name is not None
    assert value.shape is not None
    name, stored_type = f"{value.name}.stored", ir.DataType[STORED_TYPES[dtype]]
    constant = ir.ExternalTensor(place.file, place.offset, place.n_bytes, stored_type, shape=value.shape, name=name)
    stored = ir.Value(name=name, shape=value.shape, type=ir.TensorType(stored_type), const_value=constant)
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
    value.replace_all_uses_with(cast.outputs[0])
    del graph.initializers[value.name]
    graph.register_initializer(stored)
    graph.insert_before(graph[0], cast)


def _strip(model: "ir.Model") -> None:
    """Remove what the exporter notes about sources."""
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter says of every model."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", ".*it shares the same shape constraints", UserWarning)
            yield
    finally:
        logger.setLevel(level)
