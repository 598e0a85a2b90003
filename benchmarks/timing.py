"""Time calls on a device."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch


def stopwatch(device: torch.device, function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Run a call; return its result and its milliseconds, with the device idle at both ends."""
    synchronise(device)
    start = perf_counter()
    result = function(*arguments)
    synchronise(device)
    return result, 1000 * (perf_counter() - start)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
