"""Describe the machine, the software and the commit of a measurement."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import PIL
import torch

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.devices import bfloat16_pays

ROOT = Path(ulcodec.__file__).parents[1]


def run_record(
    command: Sequence[str], codec: Codec | None = None, device: torch.device | None = None
) -> dict[str, Any]:
    """Describe a measurement: command (without folders), date, commit, model, device, processor, versions.

    Without a codec and a device, the device is the CPU.
    """
    device = device or (torch.device("cpu") if codec is None else codec.device)
    return {
        "command": " ".join(map(without_folder, command)),
        "date": date.today().isoformat(),
        "version": ulcodec.__version__,
        "commit": commit(),
        "model": codec and codec.name,
        "model_fingerprint": codec and codec.fingerprint,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "network_dtype": "bfloat16" if bfloat16_pays(device) else "float32",
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
    """Shorten an absolute path to its name: a report holds no folders of the machine."""
    option, equals, value = argument.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def commit() -> str | None:
    """Commit of the source, with `-dirty` for changed tracked files except results; None outside the repository."""
    if git("rev-parse", "--show-toplevel") != str(ROOT):
        return None
    head = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return f"{head}-dirty" if head and changes else head


def git(*arguments: str) -> str | None:
    try:
        finished = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return finished.stdout.strip()
