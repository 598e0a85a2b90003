"""Which float arithmetic pays on a device.

Only encoder, decoder and training use it: never what a decoder must reproduce.
"""

import platform

import torch


def bfloat16_pays(device: torch.device) -> bool:
    """True on GPUs, and on CPUs with bfloat16 arithmetic."""
    if device.type != "cpu":
        return True
    return platform.machine() == "x86_64" and bool(torch.cpu._is_avx512_bf16_supported())
