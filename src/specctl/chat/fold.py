"""What the panes show, as a fold over the events of one run: the same live, replayed and raced."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specctl.decode.stats import Stats
from specctl.events import Branched, Drafted, Emitted, Event, Finished, Prefilled, Started, Timed, Verified

RECENT = 256
"""Rounds kept for drawing. Figures count all of them."""


@dataclass(slots=True)
class Round:
    """One row's round. `accepted` is None until the target has judged; `bonus` is its own token.

    `p` and `q`: how likely target and drafter found each drafted token, where that was asked for. `mark`: what a
    method says of the round beyond that. `ready`: verdicts that were prepared for, tokens accepted and the piece
    behind them, the likeliest first.
    """

    row: int
    number: int
    pieces: tuple[str, ...]
    accepted: int | None = None
    bonus: str = ""
    p: tuple[float, ...] = ()
    q: tuple[float, ...] = ()
    mark: str = ""
    ready: tuple[tuple[int, str], ...] = ()


def ahead(event: Branched) -> str:
    """How many drafts were made ahead, and whether the one that was needed is among them."""
    said = {True: "hit", False: "miss", None: "none needed"}[event.hit]
    return f"{len(event.keys)} ahead, {said}"


class Run:
    """Add the events of a run one by one; ask at any time. Memory does not grow with the figures, only the text."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.stats = Stats()
        self.recent: deque[Round] = deque(maxlen=RECENT)
        self.chunks: dict[int, list[str]] = {}
        self.reasons: dict[int, str] = {}
        self.drafted_at: list[int] = []
        self.version = 0

    def add(self, event: Event) -> None:
        self.version += 1
        self.stats.add(event)
        match event:
            case Started():
                self.started = event
            case Drafted():
                self._drafted(event)
            case Verified():
                self._verified(event)
            case Emitted():
                self.chunks.setdefault(event.row, []).append(event.text)
            case Branched():
                self._branched(event)
            case Finished():
                self.chunks.setdefault(event.row, []).append(event.text)
                self.reasons[event.row] = event.reason

    def _round(self, event: Any) -> Round | None:
        """The round an event is about, if it is still kept."""
        key = (event.row, event.round)
        return next((one for one in reversed(self.recent) if (one.row, one.number) == key), None)

    def _drafted(self, event: Drafted) -> None:
        pieces = event.pieces or ("?",) * len(event.tokens)
        self.recent.append(Round(event.row, event.round, pieces, q=event.q))
        self.drafted_at += [0] * (len(event.tokens) - len(self.drafted_at))
        for position in range(len(event.tokens)):
            self.drafted_at[position] += 1

    def _verified(self, event: Verified) -> None:
        if (one := self._round(event)) is not None:
            one.accepted, one.bonus, one.p = event.accepted, event.bonus_piece, event.p

    def _branched(self, event: Branched) -> None:
        if (one := self._round(event)) is not None and event.keys:
            one.mark = ahead(event)
            one.ready = tuple((n, piece) for (n, _), piece in zip(event.keys, event.pieces, strict=False))

    def text(self, row: int = 0) -> str:
        return "".join(self.chunks.get(row, ()))

    @property
    def seconds(self) -> float:
        return self.stats.prefill_s + self.stats.decode_s

    @property
    def accepted_recently(self) -> list[int]:
        """Accepted tokens of the last rounds that drafted or could have, oldest first."""
        return [one.accepted for one in self.recent if one.accepted is not None]

    @property
    def accepted_at(self) -> list[int]:
        """As `Stats.accepted_per_position`, one entry for each position that was ever drafted."""
        found = self.stats.accepted_per_position
        return [*found, *[0] * (len(self.drafted_at) - len(found))]

    @property
    def round_ms(self) -> tuple[float, float, float] | None:
        """Mean milliseconds of a round: drafting, verifying, all of it."""
        if not self.stats.forwards:
            return None
        stats = self.stats
        return tuple(1000 * s / stats.forwards for s in (stats.draft_s, stats.verify_s, stats.decode_s))  # type: ignore[return-value]


def timeline(events: Sequence[Event]) -> list[float]:
    """When each event is out at true speed, in seconds from the start; the reader's own time is in none."""
    times: list[float] = []
    now = 0.0
    begun = 0  # index of the first event of the open round
    for index, event in enumerate(events):
        if isinstance(event, Prefilled):
            now += event.seconds
            begun = index + 1
        times.append(now)
        if isinstance(event, Timed):
            for i in range(begun, index + 1):
                spent = event.draft_s if isinstance(events[i], Drafted) else event.round_s
                times[i] = now + min(spent, event.round_s)
            now += event.round_s
            begun = index + 1
    return times


def rounds(events: Sequence[Event]) -> list[int]:
    """Where a replay stops: the number of events seen after the start, each prefill, each round and the end."""
    stops = [i + 1 for i, event in enumerate(events) if isinstance(event, Started | Timed)]
    return stops if stops and stops[-1] == len(events) else [*stops, len(events)]
