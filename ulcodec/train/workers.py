"""Workers: the processes that train one model together, started by `torchrun`, one per device; or a single process.

Every worker takes its rows of the batch, and holds the whole model, or after `shard` its part of every weight (FSDP2).
All workers seed their generators alike and draw random numbers for the whole batch. So a step does not depend on the
number of workers, except for the order of sums.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from ulcodec.devices import choose_device
from ulcodec.diffusion.batch_noise import BatchGenerator
from ulcodec.errors import TrainingError


@dataclass(frozen=True)
class Workers:
    """The rank of this process among `count`; `local_rank`: its rank on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls, device: str) -> "Workers":
        """Connect to the other processes of `torchrun`, over NCCL between GPUs and Gloo otherwise."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            on_gpus = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
            store, rank, count = next(rendezvous("env://"))
            if os.environ.get("GROUP_WORLD_SIZE") == "1":
                # On one machine, restarted processes share the store of those that died: use other keys.
                store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
            backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=count)
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Rows of the batch per worker. Raises TrainingError if the batch cannot be divided equally."""
        if batch_size % self.count:
            raise TrainingError(f"a batch of {batch_size} cannot be shared equally by {self.count} processes")
        return batch_size // self.count

    def rows(self, whole: Tensor) -> Tensor:
        """This worker's rows of a batch."""
        n_rows = self.share(len(whole))
        return whole[self.rank * n_rows : (self.rank + 1) * n_rows]

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator that draws for the whole batch; a plain one for a single process, as a CUDA graph needs it."""
        if self.count == 1:
            return torch.Generator(device)
        generator = BatchGenerator(device)
        generator.rank, generator.count = self.rank, self.count
        return generator

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the workers, in one message."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def shard(self, model: nn.Module, parts: Sequence[nn.Module]) -> None:
        """Split every weight between the workers; each of `parts` gathers its weights when it runs."""
        mesh = init_device_mesh(next(model.parameters()).device.type, (self.count,))
        for module in (*parts, model):
            fully_shard(module, mesh=mesh)

    def agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """Agree on the first worker's clock and on whether to stop, if any worker was asked to; no GPU waits for it."""
        if self.count == 1:
            return seconds, stop
        sums = torch.tensor([seconds if self.first else 0.0, float(stop)], dtype=torch.float64)
        dist.all_reduce(sums)
        return float(sums[0]), bool(sums[1] > 0)

    def wait(self) -> None:
        """Wait for all workers."""
        if self.count > 1:
            self.agree(0.0, False)


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that may be split between the workers; all of them must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(target: Tensor, values: Tensor) -> Tensor:
    """Copy a whole tensor into a target that may be split between the workers; return the target."""
    if isinstance(target, DTensor):
        values = distribute_tensor(values.to(target.device), target.device_mesh, target.placements)
    return target.copy_(values)


@contextmanager
def without_denormals() -> Iterator[None]:
    """Context that flushes denormal numbers to 0, in this thread and in the threads that torch starts inside.

    Vanishing gradients produce them in training, and CPUs are slow on them.
    """
    was_flushing = bool(torch.tensor(1e-30) * 1e-10 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushing)


def begin(device: str, batch_size: int, threads: int, seed: int) -> tuple[Workers, torch.device]:
    """Begin a run: connect the workers, choose the device, set threads (0: torch's choice), seed and float32 precision.

    Raises TrainingError if the batch cannot be divided, DeviceError for an unavailable device.
    """
    workers = Workers.join(device)
    workers.share(batch_size)
    chosen = choose_device(device, workers.local_rank)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    # What stays float32 under bfloat16 autocast needs its precision: latents reach hundreds of bins.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    return workers, chosen
