"""Hidden units that died: found, and drawn anew so that the codec stays as it is.

A unit whose ReLU is zero at every position of every picture has no gradient, and does not come back by itself. Most of
those in the older blocks of `small` had died (docs/lab-notes/dead-units.md); they cost decoding time and give nothing.
Others recycle them during the run (Sokar et al. 2023, arXiv 2302.12902); here it is done when a run starts from a
model. Units that leak keep a gradient, and count as dead if they are never above zero.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.model.blocks import BottleneckBlock, conv
from ulcodec.model.prior import PriorBlock
from ulcodec.train.loop import Loop
from ulcodec.train.step import LossFunction

N_BATCHES = 8
"""Of training crops that show which units are dead."""


def hidden_layers(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.Conv2d]]:
    """Each layer that feeds hidden units of a residual block, and the layer that reads them."""
    for block in model.modules():
        if isinstance(block, BottleneckBlock | PriorBlock):
            yield block.reduce, block.spatial
            yield block.spatial, block.expand


@torch.no_grad()
def dead_units(model: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    """For each of `hidden_layers` which units are nowhere above zero while `run` runs the model: bool [hidden].

    Layers that do not run have none.
    """
    largest: list[list[Tensor]] = []

    def watch(found: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda reader, inputs: found.append(inputs[0].amax((0, 2, 3)))

    handles = []
    for _, reader in hidden_layers(model):
        largest.append([])
        handles.append(reader.register_forward_pre_hook(watch(largest[-1])))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [
        torch.stack(found).amax(0) <= 0 if found else torch.zeros_like(reader.weight[0, :, 0, 0], dtype=torch.bool)
        for found, (_, reader) in zip(largest, hidden_layers(model), strict=True)
    ]


@torch.no_grad()
def redraw(model: nn.Module, dead: list[Tensor]) -> None:
    """Give `dead_units` the incoming weights of fresh ones, from the global generator, and outgoing weights of zero.

    No picture on which they were zero can tell, and one on which they leaked hardly; both learn from there.
    """
    layers = list(hidden_layers(model))
    for (_, reader), units in zip(layers, dead, strict=True):
        reader.weight[:, units] = 0
    for (source, _), units in zip(layers, dead, strict=True):
        fresh = conv(source.in_channels, source.out_channels, source.kernel_size[0]).to(units.device)
        for own, new in zip(source.parameters(), fresh.parameters(), strict=True):
            own[units] = new[units]


def revive(loop: Loop, step: LossFunction) -> str:
    """Find and redraw the units that a run's first `N_BATCHES` batches do not wake, before it starts; says so in words.

    `step` as for `Loop.run`, not compiled. With several workers, units that none of them wakes.
    """
    model = loop.model
    if not any(hidden_layers(model)):
        return "no hidden units that may be dead"
    seen_at = [number * loop.settings.batch_size for number in range(N_BATCHES)]
    was_training = model.training
    share = [units.float() for units in dead_units(model.eval(), lambda: [step(n_images) for n_images in seen_at])]
    model.train(was_training)
    loop.workers.average(share)
    dead = [part == 1 for part in share]
    redraw(model, dead)
    loop.state.restart_ema()
    every = torch.cat(dead)
    return f"{int(every.sum())} of {len(every)} hidden units were dead and are drawn anew"
