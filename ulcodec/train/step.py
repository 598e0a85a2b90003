"""One optimisation step: loss, gradients, optimiser, moving average; on one GPU replayed as a CUDA graph."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ulcodec.train.graphs import WARM_UP_STEPS, CapturableLoss, GraphedStep, can_be_captured
from ulcodec.train.log import Metrics
from ulcodec.train.settings import LoopSettings
from ulcodec.train.state import TrainingState
from ulcodec.train.workers import whole

LossFunction = Callable[[int], tuple[Tensor, Metrics]]
"""Takes the number of images seen so far, which seeds all random numbers of the step; returns the loss and metrics."""


class OptimisationStep:
    """The step of a run. The first ones run eagerly; then a graph is captured, if the loss function allows it."""

    def __init__(self, state: TrainingState, settings: LoopSettings):
        self.state, self.settings = state, settings
        self.ema_share = torch.zeros((), device=state.device)
        self.captures = settings.graphs and state.device.type == "cuda" and state.workers.count == 1
        self.n_steps = 0
        self.graph: GraphedStep | None = None

    def __call__(self, loss_function: LossFunction, learning_rate: float) -> tuple[Tensor, Metrics]:
        """Take a step at a learning rate; return the loss and the metrics."""
        state = self.state
        for group in state.optimizer.param_groups:
            group["lr"].fill_(learning_rate * group["factor"])
        ema_decay = min(self.settings.ema_decay, (2 + state.n_steps) / (11 + state.n_steps))
        ema_share = 1 - ema_decay
        self.ema_share.fill_(ema_share)
        if self.graph is not None:
            assert isinstance(loss_function, CapturableLoss)
            loss_function.seed(state.n_images)
            measured = self.graph.replay()
        else:
            measured = self.advance(lambda: loss_function(state.n_images), ema_share)
        state.optimizer.renew()
        state.n_steps += 1
        state.n_images += self.settings.batch_size
        self.n_steps += 1
        if self.captures and self.n_steps == WARM_UP_STEPS and can_be_captured(loss_function):
            advance = partial(self.advance, loss_function.draw, self.ema_share)
            self.graph = GraphedStep(advance, loss_function.generator)
        return measured

    def advance(
        self, measure: Callable[[], tuple[Tensor, Metrics]], ema_share: float | Tensor
    ) -> tuple[Tensor, Metrics]:
        """Do the part of a step that runs on the device: loss, gradients, weights, moving average.

        `ema_share`: weight of the new weights in their average, a tensor where a graph is captured.
        """
        state = self.state
        loss, metrics = measure()
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not state.is_sharded:
            state.workers.average([weight.grad for weight in state.weights if weight.grad is not None])
        norm = nn.utils.clip_grad_norm_(state.weights, self.settings.clip_norm)
        state.optimizer.advance()
        weights = [weight.detach() for weight in state.weights]
        if isinstance(ema_share, Tensor):
            change = torch._foreach_sub(weights, state.ema)
            torch._foreach_mul_(change, ema_share)
            torch._foreach_add_(state.ema, change)
        else:
            torch._foreach_lerp_(state.ema, weights, ema_share)
        return loss.detach(), {**metrics, "gradient_norm": whole(norm.detach())}
