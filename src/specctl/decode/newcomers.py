"""Requests that wait for a slot: their prompts are read between rounds, so that those who decode hardly wait.

While others decode, a chunk of prompt is read a round: several short prompts, or a part of a long one. A prompt of
several chunks is read in a cache of its own and takes its slot when all of it is in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic_ns, perf_counter

from specctl.decode.draft import Drafter, Request, Row
from specctl.decode.target import Reading, Target
from specctl.events import Prefilled
from specctl.models.lm import PREFILL_CHUNK


class Newcomers:
    """First come, first served."""

    def __init__(self, target: Target, drafter: Drafter, requests: Sequence[Request]) -> None:
        self._target, self._drafter = target, drafter
        self._waiting = deque(enumerate(requests))
        self._reading: Reading | None = None  # of the first one
        self._spent_s = 0.0

    @property
    def waiting(self) -> list[int]:
        """Indices of the requests that have not joined."""
        return [index for index, _ in self._waiting]

    def join(self, live: list[Row], room: int, number: int) -> Iterator[Prefilled]:
        """Take up to `room` of them in as the last rows of `live`."""
        chunk = PREFILL_CHUNK if live else None
        left = chunk
        for _ in range(min(room, len(self._waiting))):
            index, request = self._waiting[0]
            unread = len(request.prompt) - 1 if self._reading is None else len(self._reading.left)
            if left is not None and unread > left:
                if left == chunk:
                    self._read_on(request)
                return
            left = None if left is None else left - unread
            self._waiting.popleft()
            live.append(Row(index, request, list(request.prompt)))
            seconds = self._take_in(live)
            yield Prefilled(index, number, monotonic_ns(), request.prompt, seconds)

    def _read_on(self, request: Request) -> None:
        begun = perf_counter()
        if self._reading is None:
            self._reading = self._target.begin(request.prompt)
        self._target.read(self._reading)
        self._spent_s += perf_counter() - begun

    def _take_in(self, live: Sequence[Row]) -> float:
        """The last of `live`; returns the seconds its prompt took in all."""
        begun = perf_counter()
        row, reading = live[-1], self._reading
        self._target.fit(live)
        self._drafter.begin(
            row, self._target.admit(row.ids) if reading is None else self._target.join(reading)
        )
        spent, self._spent_s, self._reading = self._spent_s, 0.0, None
        return spent + perf_counter() - begun
