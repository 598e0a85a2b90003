"""Stop a training run cleanly on SIGINT or SIGTERM."""

import signal
from types import FrameType


class StopRequest:
    """Requests a clean stop on SIGINT or SIGTERM: after the current step, with a checkpoint."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        try:
            self.previous = [signal.signal(number, self.request) for number in self.SIGNALS]
        except ValueError:  # not in the main thread: signals stay with the caller
            self.previous = []

    def request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def restore(self) -> None:
        for number, handler in zip(self.SIGNALS, self.previous, strict=False):
            signal.signal(number, handler)
