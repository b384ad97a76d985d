"""Ctrl-C during a run: the first asks for a clean end, the second ends at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Interrupt:
    """In a `with`: `asked()` is true after the first Ctrl-C; the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._asked = False

    def asked(self) -> bool:
        return self._asked

    def __enter__(self) -> Interrupt:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:  # a background job of a script: its Ctrl-C is not meant for us
            signal.signal(signal.SIGINT, self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _first(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
