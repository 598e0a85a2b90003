"""Fast training steps on a GPU: parts are compiled, and the whole step is replayed as a CUDA graph.

A GPU finishes a step faster than a CPU can launch its kernels.
"""

import gc
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from ulcodec.model.blocks import BottleneckBlock
from ulcodec.model.fusion import use_compiler
from ulcodec.model.prior import PriorBlock

Measured = tuple[Tensor, dict[str, Tensor]]

WARM_UP_STEPS = 12
"""Steps before the capture: for compilation, choice of algorithms, and the optimiser's first state."""

N_VARIANTS = 64
"""Most shapes and modes of one function that are compiled; further ones run eagerly."""

STEPS_AHEAD = 16
"""Most steps that the host may be ahead of the device."""


@runtime_checkable
class CapturableLoss(Protocol):
    """A loss function in two parts: `seed` runs on the host at each step, `draw` can be captured.

    `is_static`: whether `draw` reads the same memory at every step. It draws random numbers from `generator` only.
    """

    is_static: bool
    generator: torch.Generator

    def __call__(self, n_images: int) -> Measured: ...

    def seed(self, n_images: int) -> None: ...

    def draw(self) -> Measured: ...


class SeededLoss(ABC):
    """A `CapturableLoss` of a run with `run_seed`. The number of images seen so far seeds all random numbers."""

    is_static = True

    def __init__(self, run_seed: int, generator: torch.Generator):
        self.run_seed, self.generator = run_seed, generator

    def __call__(self, n_images: int) -> Measured:
        self.seed(n_images)
        return self.draw()

    def seed(self, n_images: int) -> None:
        self.generator.manual_seed(self.run_seed * 1_000_003 + n_images)

    @abstractmethod
    def draw(self) -> Measured: ...


def can_be_captured(loss_function: object) -> TypeGuard[CapturableLoss]:
    """Whether a CUDA graph can replay a loss function."""
    return isinstance(loss_function, CapturableLoss) and loss_function.is_static


def compile_parts(model: nn.Module, compiler: str = "inductor") -> None:
    """Compile every residual block of a model and, for the rest of the process, all functions marked as `fused`.

    Blocks of one shape share one compilation: it takes seconds, where whole networks take minutes.
    """
    use_compiler(compiler)
    torch._dynamo.config.cache_size_limit = N_VARIANTS  # its name up to torch 2.6, an alias of recompile_limit since
    for module in model.modules():
        if isinstance(module, BottleneckBlock | PriorBlock):
            module.compile(dynamic=False, backend=compiler)


class GraphedStep:
    """A step that is captured once and then replayed: the same kernels on the same memory.

    `step` runs on the device only, and draws random numbers from `generator` only. It reads what changes between steps
    from tensors that are filled in place. It returns a loss and metrics, each a scalar. Seed the generator before each
    replay.
    """

    def __init__(self, step: Callable[[], Measured], generator: torch.Generator):
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        gc.collect()  # a collection that frees memory during the capture would invalidate it
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            loss, metrics = step()
            self.values = torch.stack([loss.float(), *(metric.float() for metric in metrics.values())])
        self.names = tuple(metrics)

    def replay(self) -> Measured:
        self.graph.replay()
        loss, *metrics = self.values.clone().unbind()
        return loss, dict(zip(self.names, metrics, strict=True))


class Pace:
    """Keeps the host at most `STEPS_AHEAD` steps ahead of a GPU, so that the host's clock measures the GPU."""

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
    """Context of a new stream on a GPU: nothing can be captured on the default stream."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
