"""Optimisers of a training run by name, and their parameter groups.

Every optimiser divides a step in two: `advance`, which a CUDA graph can capture, and `renew`, which stays outside.
The learning rate of a group is a tensor, to be filled.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ulcodec.train.soap import Soap

Groups = list[dict[str, Any]]


class AdamW(torch.optim.AdamW):
    """AdamW without weight decay, fused. All of a step can be captured."""

    def __init__(self, groups: Groups) -> None:
        device = groups[0]["params"][0].device
        for group in groups:
            group["lr"] = torch.zeros((), device=device)
        super().__init__(groups, betas=(0.9, 0.99), weight_decay=0.0, fused=True, capturable=device.type == "cuda")

    def advance(self) -> None:
        """Take a step."""
        self.step()

    def renew(self) -> None:
        """Do nothing: `advance` is all of a step."""


OPTIMIZERS: dict[str, Callable[[Groups], AdamW | Soap]] = {"adamw": AdamW, "soap": lambda groups: Soap(groups, lr=0.0)}


def parameter_groups(weights: dict[str, nn.Parameter], slow: tuple[tuple[str, float], ...]) -> Groups:
    """Group weights by their factor on the learning rate: the first ending in `slow` that fits a name decides."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in weights.items():
        factor = next((factor for ending, factor in slow if name.endswith(ending)), 1.0)
        groups.setdefault(factor, []).append(weight)
    return [{"params": members, "factor": factor} for factor, members in groups.items()]
