"""How long-running store work tells the front end what it is doing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """One bar at a time: `start`, any number of `advance`, `done`. `note` may come at any moment.

    `advance` may be called from another thread than `start`, never from two at once.
    """

    def start(self, what: str, total_bytes: int | None) -> None: ...

    def advance(self, n_bytes: int) -> None: ...

    def note(self, text: str) -> None: ...

    def done(self) -> None: ...


class SilentProgress:
    def start(self, what: str, total_bytes: int | None) -> None:
        pass

    def advance(self, n_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def done(self) -> None:
        pass


@contextmanager
def bar(progress: Progress, what: str, total_bytes: int | None) -> Iterator[None]:
    """`start` now and `done` at the end, also of a failure."""
    progress.start(what, total_bytes)
    try:
        yield
    finally:
        progress.done()
