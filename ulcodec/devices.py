"""Devices and their float arithmetic, for everything that a decoder need not reproduce exactly."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ulcodec.errors import DeviceError

if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's OpenMP threads, and would wait for them for ever.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def bfloat16_pays(device: torch.device) -> bool:
    """Whether bfloat16 is faster: on GPUs, and on CPUs with bfloat16 arithmetic unless ATEN_CPU_CAPABILITY forbids it.

    The choice depends on the processor, not on a measurement: the bytes of a file may depend on it, and must not change
    from run to run.
    """
    if device.type != "cpu":
        return True
    if platform.machine() != "x86_64" or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported())


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Choose a device by name; "auto" and "cuda" give each process of a machine another GPU. Raises DeviceError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    if name.startswith("cuda") and torch.cuda._is_in_bad_fork():
        raise DeviceError("a forked process cannot use the GPU of its parent: start processes by spawn")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"cannot use device {name!r}: {str(error).splitlines()[0]}") from error


def autocast(device: torch.device, *, precise: bool = False) -> torch.autocast:
    """Autocast to bfloat16 where it is faster, unless the result has to be `precise`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=not precise and bfloat16_pays(device))


@contextmanager
def coding_arithmetic(device: torch.device, *, precise: bool = False) -> Iterator[None]:
    """Return a context of `autocast` in which float32 products are float32, whatever the process has set in torch."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with autocast(device, precise=precise):
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)
