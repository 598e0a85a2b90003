"""The processes that train one model together: started by `torchrun`, one a device, or a single one without it.

Every worker takes its rows of the batch and holds the whole model, or after `shard` its part of every weight (FSDP2).
Random numbers are drawn for the whole batch from generators that all workers seed alike, so that the number of workers
changes no step but for the order of its sums.
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
    """This process among `count`; `local_rank` numbers those of one machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls, device: str) -> "Workers":
        """Meet the other processes of `torchrun`, over NCCL between GPUs and Gloo otherwise."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            on_gpus = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
            store, rank, count = next(rendezvous("env://"))
            if os.environ.get("GROUP_WORLD_SIZE") == "1":
                # One machine's restarted processes share the store of those that died: keep out of their addresses.
                store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
            backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=count)
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Rows of the batch that each worker takes. Raises TrainingError if they cannot be equal."""
        if batch_size % self.count:
            raise TrainingError(f"a batch of {batch_size} cannot be shared equally by {self.count} processes")
        return batch_size // self.count

    def rows(self, whole: Tensor) -> Tensor:
        """This worker's rows."""
        n_rows = self.share(len(whole))
        return whole[self.rank * n_rows : (self.rank + 1) * n_rows]

    def generator(self, device: torch.device) -> torch.Generator:
        """One whose draws are for the whole batch. Alone, a plain one: a CUDA graph takes no other."""
        if self.count == 1:
            return torch.Generator(device)
        generator = BatchGenerator(device)
        generator.rank, generator.count = self.rank, self.count
        return generator

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the workers, all in one message."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def shard(self, model: nn.Module, parts: Sequence[nn.Module]) -> None:
        """Split every weight between the workers, which from now on gather those of each part when it runs."""
        mesh = init_device_mesh(next(model.parameters()).device.type, (self.count,))
        for module in (*parts, model):
            fully_shard(module, mesh=mesh)

    def agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The first worker's clock, and whether any worker was asked to stop; over the CPU, so that no GPU waits."""
        if self.count == 1:
            return seconds, stop
        said = torch.tensor([seconds if self.first else 0.0, float(stop)], dtype=torch.float64)
        dist.all_reduce(said)
        return float(said[0]), bool(said[1] > 0)

    def wait(self) -> None:
        """Until all workers are here."""
        if self.count > 1:
            self.agree(0.0, False)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be split between the workers, in one piece; all of them must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(target: Tensor, values: Tensor) -> Tensor:
    """Copy a tensor in one piece into one that may be split; returns the latter."""
    if isinstance(target, DTensor):
        values = distribute_tensor(values.to(target.device), target.device_mesh, target.placements)
    return target.copy_(values)


@contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers below the normal ones count as 0 in this thread, and in those that torch starts meanwhile for good.

    In training they come from gradients that fade, and CPUs take long over them.
    """
    already = bool(torch.tensor(1e-30) * 1e-10 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


def begin(device: str, batch_size: int, threads: int, seed: int) -> tuple[Workers, torch.device]:
    """What every run starts with: the other processes, a device, threads (0: torch's choice), seed, whole float32.

    Raises TrainingError if the batch cannot be shared, DeviceError if the device cannot be had.
    """
    workers = Workers.join(device)
    workers.share(batch_size)
    chosen = choose_device(device, workers.local_rank)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    # What is float32 under bfloat16 autocast is so for its precision: latents reach hundreds of quantisation steps.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    return workers, chosen
