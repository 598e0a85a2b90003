"""Runs of a float prior on the latents that files restore."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ulcodec.codec.networks import Array
from ulcodec.codec.tensors import latent_tensor, quality_tensor
from ulcodec.coding.fixed_point import Grid
from ulcodec.coding.latents import DecodedLatent, LatentCoder, encode_latent, hyper_grid
from ulcodec.model.likelihood import estimate_restored, predict_all_passes
from ulcodec.model.reveal import pass_map
from ulcodec.model.unified import EntropyModel
from ulcodec.progress import tracked

Source = TypeVar("Source", contravariant=True)
QualitiesOf = Callable[[Source], Sequence[int]]
"""Gives the qualities at which to code a source."""


class Coding(Protocol[Source]):
    """An entropy model in use: its float networks, its integers, and the latents of what it codes.

    `analyse` computes the latent [h, w, C] and the hyper-latent of a source at a quality. `Codec` is one for pictures.
    """

    @property
    def model(self) -> EntropyModel: ...
    @property
    def coder(self) -> LatentCoder: ...
    @property
    def device(self) -> torch.device: ...
    def analyse(self, pixels: Source, quality: int, /) -> tuple[Array, Array]: ...


class FileLatent(NamedTuple):
    """The latent that a file restores, its grid, and its quality."""

    latent: DecodedLatent
    grid: Grid
    quality: int


def encoded(coding: Coding[Source], source: Source, quality: int) -> FileLatent:
    """Encode a source, and return the latent that its file restores."""
    y, hyper = coding.analyse(source, quality)
    return FileLatent(encode_latent(coding.coder, y, hyper, quality).latent, (y.shape[0], y.shape[1]), quality)


def recorded_inputs(
    coding: Coding[Source], layers: Iterable[str], sources: Sequence[Source], qualities_of: QualitiesOf[Source]
) -> Iterator[dict[str, Tensor]]:
    """Run the float prior on the files of sources, and yield the inputs of layers, by their names.

    Each dictionary holds those of the layers that `run_layers` has run since the one before, float32 [1, C, h, w].
    """
    inputs: dict[str, Tensor] = {}

    def record(name: str) -> RemovableHandle:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs[name] = arguments[0].float()

        return coding.model.get_submodule(name).register_forward_pre_hook(hook)

    handles = [record(name) for name in layers]
    try:
        for source in tracked(sources):
            for quality in qualities_of(source):
                for _ in run_layers(coding.model, encoded(coding, source, quality)):
                    yield inputs
                    inputs.clear()
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def run_layers(model: EntropyModel, file: FileLatent) -> Iterator[None]:
    """Run every layer of the float prior on a file's latent, with all channels, so that hooks see the inputs.

    Yields after the hyper-decoder and after each reveal pass. A layer that all passes share runs in each of them.
    """
    (latent, grid, quality), prior, device = file, model.prior, next(model.parameters()).device
    q, y = quality_tensor(quality, device), latent_tensor(latent.y_16, grid, device)
    passes, carried = pass_map(model.config, grid, device), None
    features = model.hyper_decoder(latent_tensor(latent.hyper_16, hyper_grid(grid), device), q, grid)
    yield
    for reveal_pass, network in zip(model.config.reveal_passes, prior.networks, strict=True):
        known = (passes < reveal_pass).float()[None]
        estimate = estimate_restored(y * known, prior.log_gain.gain(q))
        _, carried = network(estimate, known, q, features, carried)
        yield


def exact_means(model: EntropyModel, file: FileLatent) -> Tensor:
    """Predict the means of a file's elements by the float prior: [1, C, h, w]."""
    (latent, grid, quality), device = file, next(model.parameters()).device
    q = quality_tensor(quality, device)
    with torch.inference_mode():
        features = model.hyper_decoder(latent_tensor(latent.hyper_16, hyper_grid(grid), device), q, grid)
        return predict_all_passes(model, latent_tensor(latent.y_16, grid, device), q, features).mean
