"""Functions that training on a GPU compiles, each by itself."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

backend = ""
"""The compiler of functions marked as `fused`; none of them is compiled without.
Set by `ulcodec.train.graphs.compile_parts`."""


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
