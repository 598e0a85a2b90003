"""What a measurement ran on."""

import os
import platform
from pathlib import Path
from typing import Any

import PIL
import torch


def machine_record() -> dict[str, Any]:
    """Processor, cores and versions."""
    return {
        "cpu": cpu_name(),
        "n_cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pillow": PIL.__version__,
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def without_folder(argument: str) -> str:
    """An absolute path loses its folder: a report holds nothing of the machine's layout."""
    option, equals, value = argument.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)
