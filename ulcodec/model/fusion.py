"""Functions of tensors that are compiled for training on a GPU."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_compiler: str | None = None


def use_compiler(backend: str | None) -> None:
    """Compile all functions marked as `fused` from now on, by a backend of `torch.compile`; None: run them eagerly."""
    global _compiler
    _compiler = backend


def fused(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Mark a function of tensors for compilation. It runs eagerly until `use_compiler` names a backend."""
    compiled: dict[str, Callable[Parameters, Result]] = {}

    @wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        if _compiler is None:
            return function(*arguments, **options)
        if _compiler not in compiled:  # only at the first call: importing the compiler takes seconds
            compiled[_compiler] = torch.compile(function, dynamic=False, backend=_compiler)
        return compiled[_compiler](*arguments, **options)

    return call
