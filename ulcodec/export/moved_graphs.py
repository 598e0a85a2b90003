"""Graphs of one model directory in another that holds the same tensors at other places."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ulcodec.errors import ModelError
from ulcodec.export.graphs import OPSET, Graph, write_graphs
from ulcodec.graphs.graph_files import config_sha256, has_graphs, listed_graphs
from ulcodec.store.tensor_files import GRAPHS, TensorPlace, read_document, tensor_places


def has_current(graphs: Sequence[Graph], directory: Path) -> bool:
    """Whether a directory lists all of these graphs, for its present model. Raises ModelError for a damaged list."""
    if not has_graphs(directory) or not {graph.name for graph in graphs} <= set(listed_graphs(directory)):
        return False
    document = read_document(directory, GRAPHS)
    return (document.get("config_sha256"), document.get("opset")) == (config_sha256(directory), OPSET)


def move_graphs(graphs: Sequence[Graph], source: Path, target: Path) -> None:
    """Write the graphs of directory `source` to `target`, with references to the same tensors there.

    Raises ModelError if a graph is missing or damaged, or refers to something else than a tensor of both directories.
    """
    places = {group: new_places(source, target, group) for group in {graph.group for graph in graphs}}
    moved = ((graph.name, with_places(source / f"{graph.name}.onnx", places[graph.group])) for graph in graphs)
    write_graphs(target, moved)


def new_places(source: Path, target: Path, group: str) -> dict[TensorPlace, TensorPlace]:
    """Map the places of the tensors of a group in `source` to their places in `target`, which may have fewer."""
    places = tensor_places(target, group)
    return {place: places[name] for name, place in tensor_places(source, group).items() if name in places}


def with_places(file: Path, places: Mapping[TensorPlace, TensorPlace]) -> bytes:
    """Replace the places that a graph refers to. Raises ModelError as `move_graphs`."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    try:
        model = ModelProto.FromString(file.read_bytes())
        for constant in model.graph.initializer:
            entries = {entry.key: entry for entry in constant.external_data}
            if entries:
                location, offset, length = entries["location"], entries["offset"], entries["length"]
                place = places[TensorPlace(location.value, int(offset.value), int(length.value))]
                location.value, offset.value, length.value = map(str, place)
    except (OSError, DecodeError, KeyError, ValueError) as error:
        raise ModelError(f"{file} is missing or damaged; export the graphs of its model again") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data
