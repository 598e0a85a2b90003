"""What training on a GPU compiles, part by part.

Blocks of one shape share one compilation, which takes seconds where whole networks take minutes.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import nn

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

N_VARIANTS = 64
"""How many shapes and modes of one function are compiled before the rest run as they are."""

backend = ""
"""The compiler of functions marked as `fused`; none of them is compiled without. Set by `compile_parts`."""


def fused(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Mark a function of tensors that is worth one kernel."""
    compiled: dict[str, Callable[Parameters, Result]] = {}

    @wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        if not backend:
            return function(*arguments, **options)
        if backend not in compiled:  # not before it is needed: the compiler alone takes seconds to import
            compiled[backend] = torch.compile(function, dynamic=False, backend=backend)
        return compiled[backend](*arguments, **options)

    return call


def compile_parts(model: nn.Module, kinds: tuple[type[nn.Module], ...], compiler: str = "inductor") -> None:
    """Compile every module of the given kinds and, for the rest of the process, all functions marked as `fused`."""
    global backend
    backend = compiler
    torch._dynamo.config.cache_size_limit = N_VARIANTS  # its name up to torch 2.6, an alias of recompile_limit since
    for module in model.modules():
        if isinstance(module, kinds):
            module.compile(dynamic=False, backend=compiler)
