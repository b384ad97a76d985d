"""Where the draft of Mirror-SD is written: in turn with the target, or beside it.

Whatever the site, a round has two meeting points: the exit's guesses go over (`start`), and the verdicts, for which
the branches that were drafted for them come back (`meet`).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

from specctl.decode.draft import Key, Row
from specctl.mirror.branches import Branch
from specctl.mirror.outcomes import Guess
from specctl.mirror.worker import Worker
from specctl.mirror.writer import Writer


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


class InProcess:
    """A worker beside the target's process. Where it has died, or is late, this round is drafted in place.

    The writer in place reads what it lacks when it is first needed.
    """

    overlaps = True
    _numbers = itertools.count()

    def __init__(self, worker: Worker, local: Writer, settings: Sequence[Any], patience: float) -> None:
        """`settings`: law, coupled, eos and plan, as `Office.open` takes them."""
        self._worker, self._local, self._patience = worker, local, patience
        self._at = next(self._numbers)
        self._asked: int | None = None
        self._failed: str | None = None
        worker.tell("open", self._at, *settings)
        weakref.finalize(self, worker.tell, "close", self._at)

    def begin(self, row: Row) -> None:
        unread = len(row.ids) - 1
        request = replace(row.request, max_new_tokens=row.request.max_new_tokens + unread)
        self._local.begin(Row(row.index, request, row.ids[:1]))
        self._worker.tell("begin", self._at, _slim(row))

    def write(self, rows: Sequence[Row], room: Sequence[int]) -> list[Branch]:
        self._failed = None
        if not any(room):
            return [Branch() for _ in rows]
        made: list[Branch] | None = self._answer(self._ask("write", [_slim(row) for row in rows], room))
        return self._local.write(rows, room) if made is None else made

    def start(
        self, rows: Sequence[Row], drafts: Sequence[Branch], exits: Sequence[Guess], budget: Sequence[int]
    ) -> None:
        bare = [replace(draft, q=None) for draft in drafts]
        self._asked = self._ask("branch", [_slim(row) for row in rows], bare, exits, budget)

    def meet(self, rows: Sequence[Row], verdicts: Sequence[Key | None]) -> Met:
        begun = perf_counter()
        answer: tuple[list[list[Key]], float] | None = self._answer(self._asked)
        waited = perf_counter() - begun
        keys, spent = answer or ([[] for _ in rows], 0.0)
        hits = [verdict if verdict in own else None for verdict, own in zip(verdicts, keys, strict=True)]
        branches: list[Branch | None] | None = [None for _ in rows]
        if any(hits):
            branches = self._answer(self._ask("take", hits))
        failed, self._failed = self._failed, None
        return Met(branches or [None for _ in rows], keys, spent, min(waited, spent), failed)

    def swap(self, one: int, other: int) -> None:
        self._local.swap(one, other)
        self._worker.tell("swap", self._at, one, other)

    def drop(self, slot: int) -> None:
        self._local.drop(slot)
        self._worker.tell("drop", self._at, slot)

    def _ask(self, what: str, *args: Any) -> int | None:
        """A question's number; None if the worker is not there to answer."""
        if self._worker.ready:
            return self._worker.ask(what, self._at, *args)
        self._failed = self._worker.gone or "the worker is late"
        return None

    def _answer(self, number: int | None) -> Any | None:
        if number is None:
            return None
        answer = self._worker.wait(number, self._patience)
        if answer is None:
            self._failed = self._worker.gone or "the worker is late"
        return answer


def _slim(row: Row) -> Row:
    """The ids are enough: the prompt is in them."""
    return Row(row.index, replace(row.request, prompt=()), list(row.ids))
