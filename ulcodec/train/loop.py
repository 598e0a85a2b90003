"""The training loop."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.errors import TrainingError
from ulcodec.train.graphs import Pace, own_stream
from ulcodec.train.log import Metrics, RunLog, Timer, append_row, check_logs
from ulcodec.train.runs import progress_of
from ulcodec.train.settings import LoopSettings
from ulcodec.train.signals import StopRequest
from ulcodec.train.state import TrainingState
from ulcodec.train.step import LossFunction, OptimisationStep
from ulcodec.train.workers import Workers

Validation = Callable[[nn.Module], dict[str, float]]
"""Scores a model on held-out data."""


class Loop:
    """A training run in a directory.

    `RUN/checkpoint` holds the newest state, `RUN/constant` the last one before the learning rate began to fall (to
    continue from with more time), `RUN/log.csv` the metrics, `RUN/validation.csv` the held-out scores. TensorBoard
    events lie beside them where tensorboard is installed. Call `resume` before `run`.
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
        self.state = TrainingState(model, settings, self.workers, sharded)
        self.optimise = OptimisationStep(self.state, settings)

    def resume(self, *, new_length: bool = False) -> None:
        """Make the run directory, or continue from its checkpoint.

        With a new length, a run whose learning rate has begun to fall continues from the state before. Changes nothing
        in the directory. Raises TrainingError if that state is beyond the new length, or as `TrainingState.load`.
        """
        check_logs(self.run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.state.load(self.run_dir / "checkpoint", self.config)
        if new_length and self.state.decaying:
            self.state.load(self.run_dir / "constant", self.config)
            if self.progress() >= 1:
                raise TrainingError(
                    f"{self.run_dir}: its rate began to fall at {self.state.n_images} images and "
                    f"{self.state.seconds / 60:.2f} minutes; give it a greater length"
                )

    def announce(self, counts: str) -> None:
        """Print what the run trains on, where it runs, and where it begins."""
        if self.workers.first:
            n_images = self.state.n_images
            print(f"{counts}; {self.state.device}, {self.workers.count} of them; resuming at {n_images} images")

    def progress(self) -> float:
        """Share of the run that is over, 0 to 1."""
        return progress_of(self.settings, self.state.n_images, self.state.seconds)

    def learning_rate(self) -> float:
        """Learning rate of the next step: linear warm-up, constant, linear decay."""
        warmup = min(1.0, (self.state.n_images + self.settings.batch_size) / self.settings.warmup_images)
        decay = min(1.0, (1 - self.progress()) / self.settings.decay_share)
        return self.settings.learning_rate * warmup * decay

    def step(self, loss_function: LossFunction) -> tuple[Tensor, Metrics]:
        """Take one step; return the loss and the metrics."""
        return self.optimise(loss_function, self.learning_rate())

    def save(self, name: str = "checkpoint") -> None:
        """Write a checkpoint."""
        self.state.save(self.run_dir / name, self.config)

    def run(self, loss_function: LossFunction, validate: Validation) -> None:
        """Train to the end of the budget. Raises TrainingError if the loss is not finite or explodes."""
        if self.progress() >= 1:
            if self.workers.first:
                print(f"{self.run_dir}: this run is complete ({self.state.n_images} images)")
            return
        with own_stream(self.state.device):  # a graph is captured on the stream of its first steps
            self._run(loss_function, validate)

    def _run(self, loss_function: LossFunction, validate: Validation) -> None:
        state, settings = self.state, self.settings
        log, pace, stop = RunLog(self.run_dir, state, settings, self.workers), Pace(state.device), StopRequest()
        started, save_timer = time.monotonic() - state.seconds, Timer(settings.checkpoint_seconds, state.seconds)
        n_validated, stopping = self._n_validations_due(), False
        try:
            while self.progress() < 1 and not stopping:
                if not state.decaying and self.progress() >= 1 - settings.decay_share:
                    log.check()
                    self.save("constant")
                    state.decaying = True
                log.add(*self.step(loss_function))
                pace.after_step()
                state.seconds, stopping = self.workers.agree(time.monotonic() - started, stop.requested)
                if n_validated < self._n_validations_due() and self.progress() < 1:
                    n_validated = self._n_validations_due()
                    self.validate(validate)
                save_due = save_timer.is_due(state.seconds)
                if save_due or log.timer.is_due(state.seconds):
                    log.write(self.learning_rate(), self.progress())
                if save_due:
                    self.save()
                    save_timer.restart(state.seconds)
            log.check()
            self.save()
        finally:
            stop.restore()
            log.close()
        if stopping:
            raise KeyboardInterrupt
        self.validate(validate)

    def _n_validations_due(self) -> int:
        return int(self.progress() * self.settings.n_validations)

    def validate(self, score: Validation) -> None:
        """Score the EMA weights in the first worker; the others help where the weights are sharded.

        Nothing is compiled for the batches of a validation, whose shapes differ.
        """
        if not (self.workers.first or self.state.is_sharded):
            return
        with self.state.ema_weights(), torch.compiler.set_stance("force_eager"):
            scores = score(self.model)
        if not self.workers.first:
            return
        row = {"n_images": self.state.n_images, "seconds": self.state.seconds, **scores}
        append_row(self.run_dir / "validation.csv", row)
        print("validation (EMA): " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()), flush=True)
