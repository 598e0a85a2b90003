"""Names of the backends, which compute networks and prior, and the choice between those that are installed."""

from importlib.util import find_spec
from typing import Literal, get_args

from ulcodec.errors import MissingPackageError

Backend = Literal["auto", "torch", "onnxruntime"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


def installed_backend() -> Backend:
    """Return torch if it is installed, else onnxruntime. Raises MissingPackageError without both."""
    if find_spec("torch") is not None:
        return "torch"
    if find_spec("onnxruntime") is not None:
        return "onnxruntime"
    raise MissingPackageError(
        'no backend is installed: pip install "ulcodec[onnx]" to encode and decode on a CPU, or "ulcodec[torch]" for '
        "everything"
    )
