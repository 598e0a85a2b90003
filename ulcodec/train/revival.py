"""Reinitialise dead hidden units, without a change of the model's output.

A dead unit is one whose ReLU is zero at every position of every picture. It has no gradient, so that it stays dead.
Most units in the older blocks of `small` had died (docs/lab-notes/dead-units.md). They cost decoding time for nothing.
Sokar et al. 2023 (arXiv 2302.12902) reinitialise during the run; here it is done when a run starts from a model. Leaky
units keep a gradient, and count as dead if they are never above zero.
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
"""Batches of training crops on which dead units are found."""


def hidden_layers(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.Conv2d]]:
    """Pairs of the layer that feeds hidden units of a residual block and the layer that reads them."""
    for block in model.modules():
        if isinstance(block, BottleneckBlock | PriorBlock):
            yield block.reduce, block.spatial
            yield block.spatial, block.expand


@torch.no_grad()
def dead_units(model: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    """Find the units of each of `hidden_layers` that are never above zero while `run` runs the model: bool [hidden].

    Layers that do not run count as alive.
    """
    maxima: list[list[Tensor]] = []

    def record(layer_maxima: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda reader, inputs: layer_maxima.append(inputs[0].amax((0, 2, 3)))

    handles = []
    for _, reader in hidden_layers(model):
        maxima.append([])
        handles.append(reader.register_forward_pre_hook(record(maxima[-1])))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [
        torch.stack(values).amax(0) <= 0 if values else torch.zeros_like(reader.weight[0, :, 0, 0], dtype=torch.bool)
        for values, (_, reader) in zip(maxima, hidden_layers(model), strict=True)
    ]


@torch.no_grad()
def reinitialise(model: nn.Module, dead: list[Tensor]) -> None:
    """Give dead units fresh incoming weights, from the global generator, and outgoing weights of zero.

    The output does not change where the units were zero, and hardly where they leaked.
    """
    layers = list(hidden_layers(model))
    for (_, reader), units in zip(layers, dead, strict=True):
        reader.weight[:, units] = 0
    for (source, _), units in zip(layers, dead, strict=True):
        fresh = conv(source.in_channels, source.out_channels, source.kernel_size[0]).to(units.device)
        for weight, fresh_weight in zip(source.parameters(), fresh.parameters(), strict=True):
            weight[units] = fresh_weight[units]


def revive(loop: Loop, step: LossFunction) -> str:
    """Reinitialise the units that are dead on the first `N_BATCHES` batches of a run; return a line that counts them.

    Call it before the run. `step`: as for `Loop.run`, not compiled. A unit is dead if it is dead for all workers.
    """
    model = loop.model
    if not any(hidden_layers(model)):
        return "no hidden units that could be dead"
    positions = [number * loop.settings.batch_size for number in range(N_BATCHES)]
    was_training = model.training
    share = [units.float() for units in dead_units(model.eval(), lambda: [step(n_images) for n_images in positions])]
    model.train(was_training)
    loop.workers.average(share)
    dead = [layer_share == 1 for layer_share in share]
    reinitialise(model, dead)
    loop.state.restart_ema()
    units = torch.cat(dead)
    return f"{int(units.sum())} of {len(units)} hidden units were dead and are reinitialised"
