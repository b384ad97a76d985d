"""A profile as a contestant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter

from specctl.bench.memory import step_bytes, weight_bytes
from specctl.bench.summary import Weights
from specctl.bench.trial import Outcome
from specctl.decode.draft import Request
from specctl.decode.stats import Stats
from specctl.events import Drafted, Emitted, Event
from specctl.session import Session


class ProfileContestant:
    """A session, timed from outside: what a user waits for, text included."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.name = session.profile.name

    def run(self, requests: Sequence[Request], batch_size: int, cancelled: Callable[[], bool]) -> Outcome:
        answers: list[list[int]] = [[] for _ in requests]
        stats = Stats()
        drafted: Counter[int] = Counter()
        first: float | None = None
        begun = perf_counter()
        for event in self.session.generate(requests, batch_size=batch_size, cancelled=cancelled):
            stats.add(event)
            _count_drafted(event, drafted)
            if isinstance(event, Emitted):
                first = first if first is not None else perf_counter() - begun
                answers[event.row] += event.tokens
        seconds = perf_counter() - begun
        longest = max(drafted, default=0)
        return Outcome(
            tuple(map(tuple, answers)),
            seconds,
            first,
            stats.prefill_s,
            stats.draft_s,
            stats.verify_s,
            stats.rounds,
            tuple(sum(n for length, n in drafted.items() if length > slot) for slot in range(longest)),
            tuple(stats.accepted_per_position),
        )


def _count_drafted(event: Event, drafted: Counter[int]) -> None:
    if isinstance(event, Drafted):
        drafted[len(event.tokens)] += 1


def weights(session: Session) -> Weights:
    """Bytes of weights a session holds, and reads in a step. A drafter that runs no model reads none."""
    models = [session.target] if session.draft is None else [session.target, session.draft]
    draft = step_bytes(session.draft) if session.draft is not None else None
    if session.profile.drafter.method in ("none", "ngram"):
        draft = 0
    return Weights(sum(map(weight_bytes, models)), draft, step_bytes(session.target))
