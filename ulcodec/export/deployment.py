"""Deployments: directories with the ONNX graphs of a model, and the tensors that these refer to, without torch.

A deployment for decoding has the decoder and the prior; one for encoding has the encoder and the prior; one for video
has everything, as frames are predicted from decoded ones. Graphs may also be added to a whole model directory.
"""

from collections.abc import Mapping
from dataclasses import replace
from errno import EEXIST
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from ulcodec.codec.image import Codec
from ulcodec.codec.loading import codec_of, graph_codec
from ulcodec.codec.networks import Array
from ulcodec.codec.realism import POSTERIOR_MEAN
from ulcodec.coding.fixed_point import CodingPrior
from ulcodec.coding.latents import FILE_PASSES, hyper_grid, next_parameters
from ulcodec.errors import ModelError
from ulcodec.export.graphs import check_packages, chosen_graphs, export_graphs
from ulcodec.export.moved_graphs import has_current, move_graphs
from ulcodec.export.pipeline import is_model
from ulcodec.model.config import PATCH_PX
from ulcodec.model.tiles import whole_tile
from ulcodec.progress import tracked
from ulcodec.store.installed import model_directory
from ulcodec.store.model_directory import StoredModel, open_model, write_model
from ulcodec.store.tensor_files import GRAPHS

Purpose = Literal["decoding", "encoding", "pictures", "video"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

DECODER, ENCODER = ("decoder.trunk.",), ("encoder.", "hyper_encoder.")
WEIGHTS: Mapping[Purpose, tuple[str, ...]] = {
    "decoding": DECODER, "encoding": ENCODER, "pictures": DECODER + ENCODER, "video": DECODER + ENCODER,
}  # fmt: skip
"""Prefixes of the float weights that a deployment needs."""

SYNTHESIS, ANALYSIS = ("synthesis", "thumbnail"), ("analysis",)
NETWORKS: Mapping[Purpose, tuple[str, ...]] = {
    "decoding": SYNTHESIS, "encoding": ANALYSIS, "pictures": SYNTHESIS + ANALYSIS,
    "video": (*SYNTHESIS, *ANALYSIS, "residual_analysis"),
}  # fmt: skip
"""Graphs of the float networks of a deployment. One with encoder and decoder also has the refiner, if there is one."""

GRID, QUALITY, LARGEST_16 = (9, 10), 50, 2000
"""Latent grid, quality and largest element of the latents on which graphs are compared with torch."""

TOLERANCE = 1e-3
"""Largest difference to torch of float networks, relative to 1 or to the largest value of their results."""


def export_deployment(model: str | Path, out_dir: Path, purpose: Purpose = "pictures", *, force: bool = False) -> None:
    """Write the graphs of a model with the tensors that they need, and compare them with torch.

    The directory of the model itself keeps all its tensors, and gets the graphs for video. Another directory gets the
    graphs that the model has, if they are current. Raises ModelError for a missing or broken model, if its prior is not
    provably exact in float32, or if a graph is damaged or differs from torch; FileExistsError for a directory that is
    neither empty nor, with `force`, a model; MissingPackageError.
    """
    check_packages()
    stored, directory = open_model(model), model_directory(model)
    is_own = out_dir.exists() and out_dir.samefile(directory)
    if is_own:
        purpose = "video"
    else:
        check_output(out_dir, force=force)
        write_model(out_dir, deployed(stored, purpose))
    stored = stored if purpose == "video" else replace(stored, video=None)
    graphs = chosen_graphs(stored, networks_of(stored, purpose))
    if not is_own and has_current(graphs, directory):
        move_graphs(graphs, directory, out_dir)
    else:
        export_graphs(stored, out_dir, networks_of(stored, purpose))
    try:
        compare_graphs(stored, out_dir, purpose)
    except BaseException:
        (out_dir / f"{GRAPHS}.json").unlink(missing_ok=True)  # without this list, no backend takes the graphs
        raise


def networks_of(stored: StoredModel, purpose: Purpose) -> tuple[str, ...]:
    """Names of the graphs of float networks of a deployment, see `NETWORKS`."""
    has_refiner = stored.refiner is not None and set(SYNTHESIS + ANALYSIS) <= set(NETWORKS[purpose])
    return NETWORKS[purpose] + ("refiner",) * has_refiner


def check_output(out_dir: Path, *, force: bool) -> None:
    """Raise FileExistsError for a directory that holds something else than a model, or a model without `force`."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    if not out_dir.is_dir() or not is_model(out_dir):
        raise FileExistsError(EEXIST, "is not empty and no model directory; choose another one", str(out_dir))
    if not force:
        raise FileExistsError(EEXIST, "exists already; --force overwrites it", str(out_dir))


def deployed(stored: StoredModel, purpose: Purpose) -> StoredModel:
    """Keep the tensors of a model that its graphs refer to. Torch cannot load the result."""
    left_out: tuple[str, ...] = ("denoiser",) if purpose == "video" else ("denoiser", "video")
    refiner = stored.refiner if "refiner" in networks_of(stored, purpose) else None
    if refiner is None:
        left_out += ("refiner",)
    document = {name: value for name, value in stored.document.items() if name not in left_out}
    weights = {name: weight for name, weight in stored.weights.items() if name.startswith(WEIGHTS[purpose])}
    video = stored.video if purpose == "video" else None
    if video is not None:
        video = replace(video, weights={n: weight for n, weight in video.weights.items() if n.startswith(ENCODER)})
    return replace(stored, weights=weights, document=document | {"deployment": purpose}, video=video, refiner=refiner)


def compare_graphs(stored: StoredModel, directory: Path, purpose: Purpose) -> None:
    """Raise ModelError unless the graphs of a directory compute what torch does, see `TOLERANCE`.

    The priors are compared integer for integer, on random latents; float networks on random pictures and latents.
    """
    codec, graphs = codec_of(stored, torch.device("cpu")), graph_codec(directory)
    priors = {"prior": (codec.coder.prior, graphs.coder.prior)}
    if purpose == "video" and stored.video is not None:
        priors["video_prior"] = (codec.residual_coder.prior, graphs.residual_coder.prior)
    for name, (prior, graph_prior) in tracked(list(priors.items()), "comparing with torch"):
        if not all(map(np.array_equal, parameters(prior), parameters(graph_prior))):
            raise ModelError(f"{directory}: the graphs of {name} differ from torch's integers")
    for name in networks_of(stored, purpose):
        for result, expected in zip(results(graphs, name), results(codec, name), strict=True):
            difference = float(np.abs(result - expected).max() / max(1.0, np.abs(expected).max()))
            if not difference <= TOLERANCE:
                raise ModelError(f"{directory}: the graph {name} differs from torch by {difference:.2g}")


def parameters(prior: CodingPrior) -> list[np.ndarray]:
    """What a prior predicts for all passes of random latents, integers of all magnitudes."""
    rng, config = np.random.default_rng(0), prior.config

    def draw(grid: tuple[int, int], channels: int) -> np.ndarray:
        integers = rng.integers(-LARGEST_16, LARGEST_16 + 1, (*grid, channels), dtype=np.int32)
        return integers >> rng.integers(0, 12, (*grid, channels), dtype=np.int32)

    y_16, hyper_16 = draw(GRID, config.latent_channels), draw(hyper_grid(GRID), config.hyper_channels)
    state = prior.begin(hyper_16.reshape(-1, config.hyper_channels), QUALITY, GRID)
    return [part for _ in FILE_PASSES for part in next_parameters(prior, y_16[None], state)]


def results(codec: Codec, name: str) -> tuple[Array, ...]:
    """What the networks of a graph compute of random inputs."""
    rng, networks, tile = np.random.default_rng(0), codec.networks, whole_tile(GRID)
    if name == "analysis":
        pictures = rng.random((1, *(PATCH_PX * side for side in GRID), 3), dtype=np.float32)
        return networks.analyse(pictures, QUALITY, tile, 0, precise=True)
    latent = 2 * rng.standard_normal((1, *GRID, networks.config.latent_channels), dtype=np.float32)
    if name == "refiner":
        picture = rng.standard_normal((1, *(PATCH_PX * side for side in GRID), 3), dtype=np.float32)
        return (networks.refine(latent, np.roll(latent, 1, axis=1), picture, QUALITY, tile, precise=True),)
    if name == "residual_analysis":
        return (networks.analyse_residual(latent, QUALITY),)
    if name == "thumbnail":
        return (networks.synthesise_thumbnail(latent, QUALITY),)
    return (networks.synthesise(latent, QUALITY, tile, POSTERIOR_MEAN, precise=True),)
