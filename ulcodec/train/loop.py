"""The training loop: one object owns all state, and resuming is running the same command again."""

import csv
import math
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.errors import TrainingError
from ulcodec.files import atomic_write
from ulcodec.model.checkpoint import (
    is_written,
    read_document,
    read_tensors,
    recover_directory,
    write_directory,
)
from ulcodec.train.graphs import WARM_UP_STEPS, CapturableLoss, GraphedStep, Pace, can_be_captured, own_stream
from ulcodec.train.limits import MOST_CROPS, MOST_IMAGES, MOST_MINUTES, check_number, check_whole
from ulcodec.train.soap import Soap
from ulcodec.train.workers import Workers, fill, whole

Metrics = dict[str, Tensor]
LossFunction = Callable[[int], tuple[Tensor, Metrics]]
"""Takes the number of images seen so far, which seeds everything random in the step; returns the loss and metrics."""

Groups = list[dict[str, Any]]


def adamw(groups: Groups) -> torch.optim.Optimizer:
    device = groups[0]["params"][0].device
    for group in groups:
        group["lr"] = torch.zeros((), device=device)
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0, fused=True, capturable=device.type == "cuda")


def soap(groups: Groups) -> torch.optim.Optimizer:
    return Soap(groups, lr=0.0)


OPTIMIZERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {"adamw": adamw, "soap": soap}


LOGS = ("log.csv", "validation.csv")


@dataclass(frozen=True)
class LoopSettings:
    """Length, optimisation and housekeeping of a run.

    The run ends at `minutes` of training time or at `n_images`, whichever is set; the rate falls to zero over the last
    `decay_share` of it. `explosion_factor`: a loss this many times its recent median stops the run.
    `slow`: pairs of a parameter-name ending and the factor on its learning rate. `optimizer`: a key of `OPTIMIZERS`.
    `n_validations`: how often the EMA weights are scored on the way, the last time at the end. `graphs`: on one GPU,
    replay steps as a CUDA graph where their loss function can be captured.
    """

    minutes: float | None
    n_images: int | None
    batch_size: int
    learning_rate: float = 6e-4
    warmup_images: int = 1600
    decay_share: float = 0.2
    ema_decay: float = 0.999
    clip_norm: float = 100.0
    checkpoint_seconds: float = 120.0
    log_seconds: float = 10.0
    explosion_factor: float = 20.0
    slow: tuple[tuple[str, float], ...] = ()
    optimizer: str = "adamw"
    n_validations: int = 1
    graphs: bool = True

    def check(self) -> None:
        """Raises TrainingError for settings that cannot run."""
        if self.minutes is None and self.n_images is None:
            raise TrainingError("give the run a length: minutes or a number of images")
        if self.minutes is not None:
            check_number("minutes", self.minutes, above=0, most=MOST_MINUTES)
        if self.n_images is not None:
            check_whole("the number of images", self.n_images, 1, MOST_IMAGES)
        check_whole("the batch size", self.batch_size, 1, MOST_CROPS)
        check_number("the learning rate", self.learning_rate, above=0, most=1)
        check_whole("the images of the warm-up", self.warmup_images, 1, MOST_IMAGES)
        if self.optimizer not in OPTIMIZERS:
            raise TrainingError(f"unknown optimiser {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")
        check_number("the decay's share of the run", self.decay_share, above=0, most=1)


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


def run_config(run_dir: Path) -> dict[str, Any]:
    """The configuration that a run's checkpoint holds. Raises TrainingError if there is none."""
    if not is_written(run_dir / "checkpoint"):
        raise TrainingError(f"{run_dir}: no checkpoint to resume")
    return read_document(run_dir / "checkpoint", "config")


def rewind(run_dir: Path, settings: LoopSettings, device: str) -> None:
    """Make a run ready for a new length: if its learning rate fell already, go back to the state before that.

    Every worker calls it, the first one writes. Raises TrainingError, and changes nothing, if that state is beyond the
    new length.
    """
    workers = Workers.join(device)
    checkpoint, constant = run_dir / "checkpoint", run_dir / "constant"
    if workers.first:
        for path in (checkpoint, constant):
            recover_directory(path)
        if read_document(checkpoint, "progress")["decaying"]:
            documents = {name: read_document(constant, name) for name in ("config", "progress")}
            n_images, seconds = documents["progress"]["n_images"], documents["progress"]["seconds"]
            if progress_of(settings, n_images, seconds) >= 1:
                raise TrainingError(
                    f"{run_dir}: its rate began to fall at {n_images} images and {seconds / 60:.2f} minutes; "
                    "give it a greater length"
                )
            groups = {name: read_tensors(constant, name) for name in ("model", "ema", "optimizer")}
            write_directory(checkpoint, groups, documents)
    workers.wait()


def progress_of(settings: LoopSettings, n_images: int, seconds: float) -> float:
    """Share of a run's length that is over, 0 to 1."""
    shares = [0.0]
    if settings.minutes is not None:
        shares.append(seconds / (60 * settings.minutes))
    if settings.n_images is not None:
        shares.append(n_images / settings.n_images)
    return min(1.0, max(shares))


def parameter_groups(weights: dict[str, nn.Parameter], slow: tuple[tuple[str, float], ...]) -> list[dict[str, Any]]:
    """Optimiser groups by the factor on their learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in weights.items():
        factor = next((factor for ending, factor in slow if name.endswith(ending)), 1.0)
        groups.setdefault(factor, []).append(weight)
    return [{"params": members, "factor": factor} for factor, members in groups.items()]


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


class LossGuard:
    """Stops a run whose loss is not finite or leaves its recent range."""

    def __init__(self, factor: float):
        self.factor = factor
        self.recent: deque[float] = deque(maxlen=200)

    def check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss}; the last good checkpoint is kept. Try a lower learning rate")
        if len(self.recent) >= 50:
            typical = statistics.median(self.recent)
            if loss > self.factor * abs(typical):
                raise TrainingError(
                    f"the loss exploded to {loss:.4g} from a median of {typical:.4g}; the last good checkpoint is "
                    "kept. Try a lower learning rate"
                )
        self.recent.append(loss)


def summarise(
    pending: list[tuple[Tensor, Metrics]], guard: LossGuard, workers: Workers | None = None
) -> dict[str, float]:
    """Means over the steps since the last line and the workers; the only place where the loop waits for the device."""
    if not pending:
        return {}
    losses = torch.stack([loss for loss, _ in pending]).float()
    names = pending[0][1]
    metrics = torch.stack([torch.stack([metrics[name] for _, metrics in pending]).float().mean() for name in names])
    (workers or Workers()).average([losses, metrics])
    for loss in losses.tolist():
        guard.check(loss)
    means = dict(zip(names, metrics.tolist(), strict=True))
    if not math.isfinite(means["gradient_norm"]):
        raise TrainingError("the gradient is not finite; the last good checkpoint is kept. Try a lower learning rate")
    return {"loss": float(losses.mean()), **means}


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add a line to a CSV file, the first with the names above it."""
    new = not path.exists() or path.stat().st_size == 0
    with open(path, "a", newline="") as handle:
        writer = csv.writer(handle)
        if new:
            writer.writerow(row)
        writer.writerow([value if isinstance(value, int) else f"{value:.6g}" for value in row.values()])


def check_logs(run_dir: Path) -> None:
    """Raise TrainingError where a log of this name is not that of a run: its rows would be dropped."""
    for path in (run_dir / name for name in LOGS):
        if path.is_file() and path.stat().st_size:
            with open(path, "rb") as handle:
                if not handle.readline().startswith(b"n_images,"):
                    raise TrainingError(f"{path} is not the log of a run; choose another run directory")


def drop_rows_after(path: Path, n_images: int) -> None:
    """Forget what was logged after the checkpoint from which the run resumes."""
    if path.exists():
        with open(path, newline="") as handle:
            lines = list(csv.reader(handle))
        rows = [line for line in lines[1:] if line and line[0].isdecimal() and int(line[0]) <= n_images]
        text = StringIO(newline="")
        csv.writer(text).writerows([*lines[:1], *rows])
        atomic_write(path, text.getvalue().encode())


class Log:
    """A CSV row and a progress line each time, and TensorBoard scalars where tensorboard is installed."""

    def __init__(self, run_dir: Path, n_images: int):
        self.path = run_dir / "log.csv"
        for path in (run_dir / name for name in LOGS):
            drop_rows_after(path, n_images)
        self.tensorboard = summary_writer(run_dir)

    def write(self, row: dict[str, float], progress: float) -> None:
        append_row(self.path, row)
        if self.tensorboard is not None:
            for name, value in row.items():
                self.tensorboard.add_scalar(name, value, int(row["n_images"]))
        print(progress_line(row, progress), flush=True)

    def close(self) -> None:
        if self.tensorboard is not None:
            self.tensorboard.close()


def progress_line(row: dict[str, float], progress: float) -> str:
    rate = next((f"{row[name]:.3f} bpp  " for name in ("chain_bpp", "continuous_bpp") if name in row), "")
    psnr = f"{row['psnr_db']:.2f} dB  " if "psnr_db" in row else ""
    remaining_s = row["seconds"] * (1 - progress) / progress if progress else math.nan
    return (
        f"{100 * progress:5.1f} %  {row['n_images']:>9} images  {row['images_per_s']:7.1f} images/s  "
        f"loss {row['loss']:.4f}  {rate}{psnr}{remaining_s / 60:.1f} min left"
    )


def summary_writer(run_dir: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run_dir))


class StopRequest:
    """Turns SIGINT and SIGTERM into a clean stop after the current step, with a checkpoint."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        try:
            self.previous = [signal.signal(number, self.request) for number in self.SIGNALS]
        except ValueError:  # not in the main thread: the caller keeps the signals
            self.previous = []

    def request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def restore(self) -> None:
        for number, handler in zip(self.SIGNALS, self.previous, strict=False):
            signal.signal(number, handler)
