"""Optimisers of a training run by name, and their parameter groups."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ulcodec.train.soap import Soap

Groups = list[dict[str, Any]]


def adamw(groups: Groups) -> torch.optim.Optimizer:
    device = groups[0]["params"][0].device
    for group in groups:
        group["lr"] = torch.zeros((), device=device)
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0, fused=True, capturable=device.type == "cuda")


def soap(groups: Groups) -> torch.optim.Optimizer:
    return Soap(groups, lr=0.0)


OPTIMIZERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {"adamw": adamw, "soap": soap}


def parameter_groups(weights: dict[str, nn.Parameter], slow: tuple[tuple[str, float], ...]) -> list[dict[str, Any]]:
    """Optimiser groups by the factor on their learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in weights.items():
        factor = next((factor for ending, factor in slow if name.endswith(ending)), 1.0)
        groups.setdefault(factor, []).append(weight)
    return [{"params": members, "factor": factor} for factor, members in groups.items()]
