"""The events of an answer, packed: tens of thousands of them are kept for replays, races and the chat's file."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator

from specctl.events import Event

_CHUNK = 512


class Tape:
    """Grows at the end and is read from the start. All but the newest events are compressed: some 30 bytes each.

    >>> from specctl.events import Finished
    >>> tape = Tape(Finished(0, n, 0, "stop") for n in range(2000))
    >>> len(tape), next(iter(tape)).round, list(tape)[-1].round
    (2000, 0, 1999)
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._packed: list[bytes] = []
        self._open: list[Event] = []
        for event in events:
            self.append(event)

    def append(self, event: Event) -> None:
        self._open.append(event)
        if len(self._open) == _CHUNK:
            # Values alone: what pickle does of a frozen dataclass by itself takes three times as long.
            bare = [(type(one), [getattr(one, name) for name in type(one).__slots__]) for one in self._open]
            self._packed.append(zlib.compress(pickle.dumps(bare), 1))
            self._open = []

    def __len__(self) -> int:
        return _CHUNK * len(self._packed) + len(self._open)

    def __iter__(self) -> Iterator[Event]:
        for packed in self._packed:
            yield from (kind(*values) for kind, values in pickle.loads(zlib.decompress(packed)))
        yield from list(self._open)
