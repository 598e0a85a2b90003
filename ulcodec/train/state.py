"""The state of a training run: weights, their moving average, optimiser, counters; and its checkpoint on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.errors import TrainingError
from ulcodec.model.config import modernised
from ulcodec.store.tensor_files import is_written, read_document, read_tensors, recover_directory, write_directory
from ulcodec.train.optimizers import OPTIMIZERS, parameter_groups
from ulcodec.train.settings import LoopSettings
from ulcodec.train.workers import Workers, fill, whole


class TrainingState:
    """Everything that a checkpoint holds, and that a step changes.

    `ema`: exponential moving average of `weights`. `seconds`: training time so far; `decaying`: whether the learning
    rate has begun to fall. `sharded`: parts of the model whose weights, with all others, are split between the workers;
    the files are the same.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: LoopSettings,
        workers: Workers,
        sharded: Sequence[nn.Module] = (),
    ) -> None:
        self.workers = workers
        self.is_sharded = bool(sharded) and workers.count > 1
        if self.is_sharded:
            workers.shard(model, sharded)
        self.names = [name for name, _ in model.named_parameters()]
        self.weights = [parameter for _, parameter in model.named_parameters()]
        self.ema = [weight.detach().clone() for weight in self.weights]
        self.optimizer_name = settings.optimizer
        self.optimizer = OPTIMIZERS[settings.optimizer](parameter_groups(self._by_name(self.weights), settings.slow))
        self.n_images = self.n_steps = 0
        self.seconds = 0.0
        self.decaying = False

    @property
    def device(self) -> torch.device:
        return self.weights[0].device

    def restart_ema(self) -> None:
        """Set the moving average to the weights."""
        torch._foreach_copy_(self.ema, [weight.detach() for weight in self.weights])

    def ema_weights(self) -> "SwappedWeights":
        """Context in which the model carries its EMA weights."""
        return SwappedWeights(self.weights, self.ema)

    def save(self, path: Path, config: dict[str, Any]) -> None:
        """Write a checkpoint. Every worker must call it; the first one writes."""
        tensors = self._tensors() if self.is_sharded or self.workers.first else {}
        if not self.workers.first:
            return
        progress = {
            "n_images": self.n_images,
            "n_steps": self.n_steps,
            "seconds": self.seconds,
            "decaying": self.decaying,
            "optimizer": self.optimizer_name,
        }
        write_directory(path, tensors, {"config": config, "progress": progress})

    def load(self, path: Path, config: dict[str, Any]) -> None:
        """Read a checkpoint, if there is one. Every worker must call it.

        Raises TrainingError if the checkpoint holds another model configuration or another optimiser.
        """
        if self.workers.first:
            recover_directory(path)
        self.workers.wait()
        if not is_written(path):
            return
        stored = modernised(read_document(path, "config").get("model"))
        if stored != config["model"]:
            raise TrainingError(f"{path} holds another model configuration{differences(stored, config['model'])}")
        progress = read_document(path, "progress")
        if (optimizer := progress.get("optimizer", "adamw")) != self.optimizer_name:
            raise TrainingError(f"{path} holds the state of the optimiser {optimizer}, not {self.optimizer_name}")
        for group, targets in (("model", self.weights), ("ema", self.ema)):
            tensors = read_tensors(path, group)
            for name, target in zip(self.names, targets, strict=True):
                fill(target, tensors[name])
        self.n_images, self.n_steps = int(progress["n_images"]), int(progress["n_steps"])
        self.seconds, self.decaying = float(progress["seconds"]), bool(progress["decaying"])
        if self.n_steps:
            self._load_moments(read_tensors(path, "optimizer"))

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors by group and name. Sharded ones are gathered on the CPU of the first worker."""
        groups: dict[str, dict[str, Tensor]] = {
            "model": dict(self._by_name(self.weights)),
            "ema": self._by_name(self.ema),
        }
        moments: dict[str, Tensor] = {}
        for name, weight in zip(self.names, self.weights, strict=True):
            for key, value in self.optimizer.state.get(weight, {}).items():
                moments[f"{key}.{name}"] = value
        if moments:
            groups["optimizer"] = moments
        return {group: self._gather(tensors) for group, tensors in groups.items()} if self.is_sharded else groups

    def _gather(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        gathered = ((name, whole(tensor.detach())) for name, tensor in tensors.items())
        return {name: tensor.cpu() for name, tensor in gathered if self.workers.first}

    def _by_name(self, tensors: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.names, tensors, strict=True))

    @torch.no_grad()
    def _load_moments(self, moments: dict[str, Tensor]) -> None:
        """Load the optimiser's state.

        Moments of the shape of their weight get its memory layout: the fused step goes through both element by element.
        """
        weights = self._by_name(self.weights)
        ordered = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        numbers = {weight: number for number, weight in enumerate(ordered)}
        state: dict[int, dict[str, Tensor]] = {number: {} for number in numbers.values()}
        for full_name, value in moments.items():
            key, name = full_name.split(".", 1)
            weight = weights[name]
            if value.shape == weight.shape:
                value = fill(torch.empty_like(weight), value)
            state[numbers[weight]][key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def differences(stored: Any, expected: dict[str, Any]) -> str:
    """Name the values in which a stored configuration differs."""
    if not isinstance(stored, dict):
        return ""
    names = sorted(name for name in stored.keys() | expected.keys() if stored.get(name) != expected.get(name))
    return ": " + ", ".join(f"{name} {stored.get(name)}, not {expected.get(name)}" for name in names)


class SwappedWeights:
    """Context in which two lists of tensors have exchanged their values."""

    def __init__(self, weights: list[nn.Parameter], others: list[Tensor]):
        self.weights, self.others = weights, others

    def swap(self) -> None:
        """Exchange the values."""
        with torch.no_grad():
            for weight, other in zip(self.weights, self.others, strict=True):
                value = weight.detach().clone()
                weight.copy_(other)
                other.copy_(value)

    def __enter__(self) -> None:
        self.swap()

    def __exit__(self, *_: object) -> None:
        self.swap()
