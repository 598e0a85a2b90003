"""Report the progress of long work to an observer.

    with observed(lambda fraction, note: print(f"{fraction:.0%} {note}")):
        codec.encode(picture)

`tracked` and `share` divide the remaining part of the work around them. Without an observer they do nothing.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
Observer = Callable[[float, str], object]
"""Takes the fraction that is done, from 0 to 1 and never decreasing, and a note on the present work. An exception that
it raises ends the work."""


@dataclass(eq=False)
class Span:
    """A part of the work: the fraction of the whole at its end, and a note."""

    stop: float
    note: str


@dataclass
class Work:
    """The fraction that is done, and the nested spans at the present moment, the innermost last."""

    observer: Observer
    done: float
    spans: list[Span]

    def reach(self, fraction: float) -> None:
        self.done = max(self.done, fraction)
        self.observer(self.done, self.spans[-1].note)


_current: ContextVar[Work | None] = ContextVar("ulcodec_progress", default=None)


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Context: report the progress of the work inside, in this thread. The last fraction is 1 unless the work fails."""
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
    """Context: give the work inside a fraction of what remains of the surrounding span.

    `note`: the present work, by default the note of the surrounding span. The fraction is done at the end, unless the
    work fails.
    """
    work = _current.get()
    if work is None:
        yield
        return
    outer = work.spans[-1]
    span = Span(work.done + fraction * (outer.stop - work.done), outer.note if note is None else note)
    work.spans.append(span)
    try:
        work.reach(work.done)
        yield
        work.reach(span.stop)
    finally:
        if span in work.spans:  # an abandoned generator may be closed after the surrounding spans
            del work.spans[work.spans.index(span) :]


def tracked(items: Collection[Item], note: str | None = None) -> Iterator[Item]:
    """Iterate; each item takes an equal part of what remains of the surrounding span.

    `note`: may contain `{}` for the number of the item, and a second one for the number of items.
    """
    for index, item in enumerate(items):
        with share(1 / (len(items) - index), note and note.format(index + 1, len(items))):
            yield item
