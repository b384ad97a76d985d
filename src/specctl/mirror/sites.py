"""Where the draft of Mirror-SD is written: in turn with the target, or beside it.

Whatever the site, a round has two meeting points: the exit's guesses go over (`start`), and the verdicts, for which
the branches that were drafted for them come back (`meet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from specctl.decode.draft import Key, Row
from specctl.mirror.outcomes import Guess
from specctl.mirror.writer import Branch, Writer


@dataclass(frozen=True, slots=True)
class Met:
    """Per row the branch for its verdict (None: a miss) and the keys there were branches for. `spent_s` went into
    them, `waited_s` of it was waited for; `failed` says why there are none."""

    branches: list[Branch | None]
    keys: list[list[Key]]
    spent_s: float
    waited_s: float
    failed: str | None = None


class Site(Protocol):
    """A writer, and when it works. `overlaps`: beside the target."""

    overlaps: bool

    def begin(self, row: Row) -> None: ...

    def write(self, rows: Sequence[Row], room: Sequence[int]) -> list[Branch]:
        """Drafts now; `room[b]` 0 leaves a row as it is."""

    def start(
        self, rows: Sequence[Row], drafts: Sequence[Branch], exits: Sequence[Guess], budget: Sequence[int]
    ) -> None:
        """The first meeting: branches begin to be written."""

    def meet(self, rows: Sequence[Row], verdicts: Sequence[Key | None]) -> Met:
        """The second: a verdict a row, None where the row is done. Only after `start`."""

    def swap(self, one: int, other: int) -> None: ...

    def drop(self, slot: int) -> None: ...


class InTurn:
    """The target waits while branches are written; what it would have saved is modelled."""

    overlaps = False

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._spent = 0.0
        self.begin, self.write, self.swap, self.drop = writer.begin, writer.write, writer.swap, writer.drop

    def start(
        self, rows: Sequence[Row], drafts: Sequence[Branch], exits: Sequence[Guess], budget: Sequence[int]
    ) -> None:
        begun = perf_counter()
        self._writer.branch(rows, drafts, exits, budget)
        self._spent = perf_counter() - begun

    def meet(self, rows: Sequence[Row], verdicts: Sequence[Key | None]) -> Met:
        keys = self._writer.keys
        return Met(self._writer.take(verdicts), keys, self._spent, self._spent)


class InThread:
    """A thread beside the target's: for a draft on a device of its own. Torch lets other threads run in kernels."""

    overlaps = True

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, "mirror")
        self._running: Future[float] | None = None
        self.begin, self.write, self.swap, self.drop = writer.begin, writer.write, writer.swap, writer.drop

    def start(
        self, rows: Sequence[Row], drafts: Sequence[Branch], exits: Sequence[Guess], budget: Sequence[int]
    ) -> None:
        # The loop adds to the rows' ids while this runs.
        asked = [replace(row, ids=list(row.ids)) for row in rows]
        self._running = self._thread.submit(self._branch, asked, drafts, exits, budget)

    def _branch(
        self, rows: Sequence[Row], drafts: Sequence[Branch], exits: Sequence[Guess], budget: Sequence[int]
    ) -> float:
        begun = perf_counter()
        self._writer.branch(rows, drafts, exits, budget)
        return perf_counter() - begun

    def meet(self, rows: Sequence[Row], verdicts: Sequence[Key | None]) -> Met:
        assert self._running is not None
        begun = perf_counter()
        spent = self._running.result()
        waited = perf_counter() - begun
        keys = self._writer.keys
        return Met(self._writer.take(verdicts), keys, spent, min(waited, spent))
