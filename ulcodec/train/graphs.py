"""Training steps on a GPU: compiled part by part, and replayed as a CUDA graph.

A GPU is done with a step sooner than a CPU can launch its kernels.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from ulcodec.model import fusion
from ulcodec.model.blocks import BottleneckBlock
from ulcodec.model.prior import PriorBlock

Measured = tuple[Tensor, dict[str, Tensor]]

WARM_UP_STEPS = 12
"""Steps before the capture: compilation, the choice of algorithms, an optimiser's first state."""

N_VARIANTS = 64
"""How many shapes and modes of one function are compiled before the rest run as they are."""

STEPS_AHEAD = 16
"""By how many steps the host may be ahead of the device."""


@runtime_checkable
class CapturableLoss(Protocol):
    """A loss function in two parts: what the host does for each step, and what is captured.

    `is_static`: whether `draw` reads the same memory at every step. It draws from `generator` alone.
    """

    is_static: bool
    generator: torch.Generator

    def __call__(self, n_images: int) -> Measured: ...

    def seed(self, n_images: int) -> None: ...

    def draw(self) -> Measured: ...


def can_be_captured(loss_function: object) -> TypeGuard[CapturableLoss]:
    return isinstance(loss_function, CapturableLoss) and loss_function.is_static


def compile_parts(model: nn.Module, compiler: str = "inductor") -> None:
    """Compile every residual block and, for the rest of the process, all functions marked as `fused`.

    Blocks of one shape share one compilation, which takes seconds where whole networks take minutes.
    """
    fusion.backend = compiler
    torch._dynamo.config.cache_size_limit = N_VARIANTS  # its name up to torch 2.6, an alias of recompile_limit since
    for module in model.modules():
        if isinstance(module, BottleneckBlock | PriorBlock):
            module.compile(dynamic=False, backend=compiler)


class GraphedStep:
    """A step captured once and replayed: the same kernels on the same memory.

    `step` does all of it on the device, draws from `generator` alone, reads what changes between steps from tensors
    that are filled in place, and returns a loss and metrics, each a scalar. Seed the generator before each replay.
    """

    def __init__(self, step: Callable[[], Measured], generator: torch.Generator):
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        gc.collect()  # what a collection frees while a capture is under way spoils it
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            loss, metrics = step()
            self.values = torch.stack([loss.float(), *(metric.float() for metric in metrics.values())])
        self.names = tuple(metrics)

    def replay(self) -> Measured:
        self.graph.replay()
        loss, *metrics = self.values.clone().unbind()
        return loss, dict(zip(self.names, metrics, strict=True))


class Pace:
    """Keeps the host at most `STEPS_AHEAD` steps ahead of a GPU, so that a clock on it measures the GPU."""

    def __init__(self, device: torch.device) -> None:
        self.waits = device.type == "cuda"
        self.events: deque[torch.cuda.Event] = deque()

    def after_step(self) -> None:
        if not self.waits:
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self.events.append(event)
        if len(self.events) > STEPS_AHEAD:
            self.events.popleft().synchronize()


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, a stream other than the default one, on which nothing can be captured."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
