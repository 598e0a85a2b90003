"""The training loop: one object owns all state, and resuming is running the same command again."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.errors import TrainingError
from ulcodec.store.tensor_files import is_written, read_document, read_tensors, recover_directory, write_directory
from ulcodec.train.graphs import WARM_UP_STEPS, CapturableLoss, GraphedStep, Pace, can_be_captured, own_stream
from ulcodec.train.log import Log, LossGuard, Metrics, append_row, check_logs, summarise
from ulcodec.train.optimizers import OPTIMIZERS, parameter_groups
from ulcodec.train.runs import progress_of
from ulcodec.train.settings import LoopSettings
from ulcodec.train.signals import StopRequest
from ulcodec.train.soap import Soap
from ulcodec.train.workers import Workers, fill, whole

LossFunction = Callable[[int], tuple[Tensor, Metrics]]
"""Takes the number of images seen so far, which seeds everything random in the step; returns the loss and metrics."""


class Loop:
    """Model, EMA copy, optimiser and counters of one run, in one directory.

    `RUN/checkpoint` is the newest state, `RUN/constant` the last one before the rate began to fall (to continue from
    with more time), `RUN/log.csv` the metrics, `RUN/validation.csv` the held-out scores; TensorBoard events go beside
    them where tensorboard is installed. `sharded`: parts of the model whose weights, with all others, are split between
    the workers; the files are the same.
    """

    def __init__(
        self,
        model: nn.Module,
        run_dir: Path,
        settings: LoopSettings,
        config: dict[str, Any],
        workers: Workers | None = None,
        sharded: Sequence[nn.Module] = (),
    ):
        self.model, self.run_dir, self.settings, self.config = model, run_dir, settings, config
        self.workers = workers or Workers()
        self.is_sharded = bool(sharded) and self.workers.count > 1
        if self.is_sharded:
            self.workers.shard(model, sharded)
        self.names = [name for name, _ in model.named_parameters()]
        self.weights = [parameter for _, parameter in model.named_parameters()]
        self.ema = [weight.detach().clone() for weight in self.weights]
        self.device = self.weights[0].device
        groups = parameter_groups(dict(zip(self.names, self.weights, strict=True)), settings.slow)
        self.optimizer = OPTIMIZERS[settings.optimizer](groups)
        self.ema_share = torch.zeros((), device=self.device)
        self.n_images = self.n_steps = 0
        self.seconds = 0.0
        self.decaying = False
        self.captures = settings.graphs and self.device.type == "cuda" and self.workers.count == 1
        self.n_steps_here = 0
        self.graphed: GraphedStep | None = None
        check_logs(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.resume()

    # State on disk

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All tensors in one piece, on the CPU where they are split: every worker must ask, the first gets them."""
        groups: dict[str, dict[str, Tensor]] = {
            "model": dict(zip(self.names, self.weights, strict=True)),
            "ema": dict(zip(self.names, self.ema, strict=True)),
        }
        moments: dict[str, Tensor] = {}
        for name, weight in zip(self.names, self.weights, strict=True):
            for key, value in self.optimizer.state.get(weight, {}).items():
                moments[f"{key}.{name}"] = value
        if moments:
            groups["optimizer"] = moments
        return {group: self.gathered(tensors) for group, tensors in groups.items()} if self.is_sharded else groups

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        pieces = ((name, whole(tensor.detach())) for name, tensor in tensors.items())
        return {name: tensor.cpu() for name, tensor in pieces if self.workers.first}

    def save(self, name: str = "checkpoint") -> None:
        state = self.state() if self.is_sharded or self.workers.first else {}
        if not self.workers.first:
            return
        progress = {
            "n_images": self.n_images,
            "n_steps": self.n_steps,
            "seconds": self.seconds,
            "decaying": self.decaying,
            "optimizer": self.settings.optimizer,
        }
        write_directory(self.run_dir / name, state, {"config": self.config, "progress": progress})

    def resume(self) -> None:
        """Continue from `RUN/checkpoint` if there is one.

        Raises TrainingError if its model's configuration or its optimiser is another.
        """
        path = self.run_dir / "checkpoint"
        if self.workers.first:
            recover_directory(path)
        self.workers.wait()
        if not is_written(path):
            return
        if (model := read_document(path, "config").get("model")) != self.config["model"]:
            raise TrainingError(f"{path} holds another model configuration: {model}")
        progress = read_document(path, "progress")
        if (optimizer := progress.get("optimizer", "adamw")) != self.settings.optimizer:
            raise TrainingError(f"{path} holds the state of the optimiser {optimizer}, not {self.settings.optimizer}")
        for group, targets in (("model", self.weights), ("ema", self.ema)):
            tensors = read_tensors(path, group)
            for name, target in zip(self.names, targets, strict=True):
                fill(target, tensors[name])
        self.n_images, self.n_steps = int(progress["n_images"]), int(progress["n_steps"])
        self.seconds, self.decaying = float(progress["seconds"]), bool(progress["decaying"])
        if self.n_steps:
            self.load_moments(read_tensors(path, "optimizer"))

    @torch.no_grad()
    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """The optimiser's state. What is shaped as its weight is laid out in memory as that: the fused step takes all
        of them element by element."""
        weights = dict(zip(self.names, self.weights, strict=True))
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

    # One step

    def progress(self) -> float:
        """Share of the run that is over, 0 to 1."""
        return progress_of(self.settings, self.n_images, self.seconds)

    def learning_rate(self) -> float:
        warmup = min(1.0, (self.n_images + self.settings.batch_size) / self.settings.warmup_images)
        decay = min(1.0, (1 - self.progress()) / self.settings.decay_share)
        return self.settings.learning_rate * warmup * decay

    def step(self, loss_function: LossFunction) -> tuple[Tensor, Metrics]:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.learning_rate() * group["factor"])
        decay = min(self.settings.ema_decay, (2 + self.n_steps) / (11 + self.n_steps))
        ema_share = 1 - decay
        self.ema_share.fill_(ema_share)
        if self.graphed is not None:
            assert isinstance(loss_function, CapturableLoss)
            loss_function.seed(self.n_images)
            measured = self.graphed.replay()
        else:
            measured = self.advance(lambda: loss_function(self.n_images), ema_share)
        if isinstance(self.optimizer, Soap):
            self.optimizer.renew()
        self.n_steps += 1
        self.n_steps_here += 1
        self.n_images += self.settings.batch_size
        if self.captures and self.n_steps_here == WARM_UP_STEPS and can_be_captured(loss_function):
            advance = partial(self.advance, loss_function.draw, self.ema_share)
            self.graphed = GraphedStep(advance, loss_function.generator)
        return measured

    def advance(
        self, measure: Callable[[], tuple[Tensor, Metrics]], ema_share: float | Tensor
    ) -> tuple[Tensor, Metrics]:
        """What a step does on the device: loss, gradients, weights, and `ema_share` of these in their average."""
        loss, metrics = measure()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not self.is_sharded:
            self.workers.average([weight.grad for weight in self.weights if weight.grad is not None])
        norm = nn.utils.clip_grad_norm_(self.weights, self.settings.clip_norm)
        if isinstance(self.optimizer, Soap):
            self.optimizer.advance()
        else:
            self.optimizer.step()
        weights = [weight.detach() for weight in self.weights]
        if isinstance(ema_share, Tensor):
            change = torch._foreach_sub(weights, self.ema)
            torch._foreach_mul_(change, ema_share)
            torch._foreach_add_(self.ema, change)
        else:
            torch._foreach_lerp_(self.ema, weights, ema_share)
        return loss.detach(), {**metrics, "gradient_norm": whole(norm.detach())}

    # The run

    def run(self, loss_function: LossFunction, validate: Callable[[nn.Module], dict[str, float]]) -> None:
        """Train to the end of the budget. Raises TrainingError on a loss that is not finite or explodes."""
        if self.progress() >= 1:
            if self.workers.first:
                print(f"{self.run_dir}: this run is complete ({self.n_images} images)")
            return
        with own_stream(self.device):
            self.run_on_stream(loss_function, validate)

    def run_on_stream(self, loss_function: LossFunction, validate: Callable[[nn.Module], dict[str, float]]) -> None:
        """`run`, on the stream that is current: a graph is captured on the one where its first steps ran."""
        guard, pace = LossGuard(self.settings.explosion_factor), Pace(self.device)
        log = Log(self.run_dir, self.n_images) if self.workers.first else None
        n_validated = int(self.progress() * self.settings.n_validations)
        stop, stopping = StopRequest(), False
        started, saved, logged = time.monotonic() - self.seconds, self.seconds, self.seconds
        logged_images = self.n_images
        pending: list[tuple[Tensor, Metrics]] = []
        try:
            while self.progress() < 1 and not stopping:
                if not self.decaying and self.progress() >= 1 - self.settings.decay_share:
                    summarise(pending, guard, self.workers)
                    self.save("constant")
                    self.decaying = True
                pending.append(self.step(loss_function))
                pace.after_step()
                self.seconds, stopping = self.workers.agree(time.monotonic() - started, stop.requested)
                log_due = self.seconds - logged >= self.settings.log_seconds
                save_due = self.seconds - saved >= self.settings.checkpoint_seconds
                if n_validated < int(self.progress() * self.settings.n_validations) and self.progress() < 1:
                    n_validated = int(self.progress() * self.settings.n_validations)
                    self.validate(validate)
                if not (log_due or save_due):
                    continue
                row = summarise(pending, guard, self.workers)
                pending = []
                speed = (self.n_images - logged_images) / (self.seconds - logged)
                logged, logged_images = self.seconds, self.n_images
                if log is not None:
                    log.write({"n_images": self.n_images, "seconds": self.seconds, "images_per_s": speed,
                               "learning_rate": self.learning_rate(), **row}, self.progress())  # fmt: skip
                if save_due:
                    self.save()
                    saved = self.seconds
            summarise(pending, guard, self.workers)
            self.save()
        finally:
            stop.restore()
            if log is not None:
                log.close()
        if stopping:
            raise KeyboardInterrupt
        self.validate(validate)

    def validate(self, score: Callable[[nn.Module], dict[str, float]]) -> None:
        """Score the EMA weights: in the first process, which needs the others where the weights are split.

        Nothing is compiled for it: its batches have shapes of their own.
        """
        if not (self.workers.first or self.is_sharded):
            return
        with self.ema_weights(), torch.compiler.set_stance("force_eager"):
            scores = score(self.model)
        if not self.workers.first:
            return
        append_row(self.run_dir / "validation.csv", {"n_images": self.n_images, "seconds": self.seconds, **scores})
        print("validation (EMA): " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()), flush=True)

    def restart_ema(self) -> None:
        """Begin the average anew at the weights as they are."""
        torch._foreach_copy_(self.ema, [weight.detach() for weight in self.weights])

    def ema_weights(self) -> "SwappedWeights":
        """Context in which the model carries its EMA weights."""
        return SwappedWeights(self.weights, self.ema)


class SwappedWeights:
    def __init__(self, weights: list[nn.Parameter], others: list[Tensor]):
        self.weights, self.others = weights, others

    def swap(self) -> None:
        with torch.no_grad():
            for weight, other in zip(self.weights, self.others, strict=True):
                kept = weight.detach().clone()
                weight.copy_(other)
                other.copy_(kept)

    def __enter__(self) -> None:
        self.swap()

    def __exit__(self, *_: object) -> None:
        self.swap()
