"""Progress of long work, for an observer that knows no terminal.

    with observed(lambda fraction, note: print(f"{fraction:.0%} {note}")):
        codec.encode(picture)

`tracked` and `share` both take what is left of the work around them. Without an observer they do nothing.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
Observer = Callable[[float, str], object]
"""Takes the fraction that is done, from 0 to 1 and never less than before, and a note on what is being done. An
exception that it raises ends the work."""


@dataclass(eq=False)
class Span:
    """A part of the work: the fraction of the whole where it ends, and a note."""

    stop: float
    note: str


@dataclass
class Work:
    """What an observer sees: the fraction that is done, and the spans around the present moment, the innermost last."""

    observer: Observer
    done: float
    spans: list[Span]

    def reach(self, fraction: float) -> None:
        self.done = max(self.done, fraction)
        self.observer(self.done, self.spans[-1].note)


_current: ContextVar[Work | None] = ContextVar("ulcodec_progress", default=None)


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Report the progress of the work inside, in this thread. The last fraction is exactly 1 unless the work fails."""
    work = Work(observer, 0.0, [Span(1.0, "")])
    token = _current.set(work)
    try:
        work.reach(0.0)
        yield
        work.reach(1.0)
    finally:
        _current.reset(token)


@contextmanager
def share(fraction: float, note: str | None = None) -> Iterator[None]:
    """Give the work inside a fraction of what is left of the span around, and fill it unless the work fails.

    `note`: what is being done; by default that of the span around.
    """
    work = _current.get()
    if work is None:
        yield
        return
    around = work.spans[-1]
    span = Span(work.done + fraction * (around.stop - work.done), around.note if note is None else note)
    work.spans.append(span)
    try:
        work.reach(work.done)
        yield
        work.reach(span.stop)
    finally:
        if span in work.spans:  # an abandoned generator may be closed later than the spans around it
            del work.spans[work.spans.index(span) :]


def tracked(items: Collection[Item], note: str | None = None) -> Iterator[Item]:
    """The items, each of which takes an equal part of what is left of the span around.

    `note`: may hold `{}` for the number of the item, and another one for the number of items.
    """
    for index, item in enumerate(items):
        with share(1 / (len(items) - index), note and note.format(index + 1, len(items))):
            yield item
