"""Progress bar on a terminal's standard error, for work of more than two seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ulcodec.progress import observed

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY_S, REDRAW_S = 2.0, 0.1
SPEED_WINDOW_S = 60.0


class Bar:
    """Observer of `ulcodec.progress` that draws a bar at each report; it has no thread."""

    def __init__(self, doing: str, clock: Callable[[], float] = time.monotonic):
        self.doing, self.clock = doing, clock
        self.next_s = clock() + DELAY_S
        self.progress: Progress | None = None

    def __call__(self, fraction: float, note: str) -> None:
        now = self.clock()
        if now < self.next_s or fraction == 1:  # the bar is about to be removed
            return
        self.next_s = now + REDRAW_S
        description = f"{self.doing} {note}".strip()
        if self.progress is None:
            self.progress = self.new_progress()
            self.progress.add_task(description, total=1.0)
        [task] = self.progress.tasks
        self.progress.update(task.id, completed=fraction, description=description)
        if self.progress.live.is_started:
            self.progress.refresh()
        else:
            self.progress.start()
            self.progress.console.show_cursor(True)  # a killed process must not leave it hidden

    def new_progress(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.table import Column

        return Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(file=sys.stderr),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            get_time=self.clock,
            speed_estimate_period=SPEED_WINDOW_S,
        )

    def hide(self) -> None:
        """Remove the bar from the screen; the next report draws it again."""
        if self.progress is not None:
            self.progress.stop()


_bar: Bar | None = None


@contextmanager
def progress_bar(doing: str) -> Iterator[None]:
    """Show the progress of the work inside; remove the bar at its end or on an error."""
    global _bar
    if not sys.stderr.isatty():
        yield
        return
    _bar = Bar(doing)
    try:
        with observed(_bar):
            yield
    finally:
        _bar.hide()
        _bar = None


def hide_bar() -> None:
    """Hide the bar so that a line can be printed; the next report draws it below."""
    if _bar is not None:
        _bar.hide()
