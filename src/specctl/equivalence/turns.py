"""Turns of a conversation: what `Session.reply` decodes from the cache that the turn before has left.

A turn that is broken off between draft and verdict, one that builds on what it said, one that takes part of that
back. Each is judged like any other sequence: the reference reads its whole prompt anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

from specctl.decode.draft import Request
from specctl.decode.target import Kept, Target, common_prefix
from specctl.equivalence.greedy import collect, crashed
from specctl.equivalence.report import Problem, SequenceReport
from specctl.equivalence.structure import by_row
from specctl.equivalence.subject import Subject
from specctl.equivalence.verdicts import Tolerance, judge
from specctl.equivalence.watch import Watched
from specctl.events import Drafted, Emitted
from specctl.session import Session

_PROMPTS, _NEW_TOKENS = 2, 12
_BROKEN_OFF_IN = 3  # the round of the first turn that never ends
_SAID_NEXT = 4  # tokens of the prompt's end that stand for what a user says next


@dataclass(slots=True)
class Turns:
    """What was found; `reused` counts tokens whose states the cache of an earlier turn still had."""

    judged: list[SequenceReport] = field(default_factory=list)
    reused: int = 0

    def problems(self) -> Iterator[Problem]:
        for report in self.judged:
            yield from (Problem(one.verdict, f"{report.id}: {one.what}") for one in report.problems)

    def to_json(self) -> dict[str, int]:
        tokens = sum(len(one.tokens) for one in self.judged)
        return {"judged": len(self.judged), "tokens": tokens, "reused": self.reused}


def verify_turns(
    session: Session, subject: Subject, requests: Sequence[Request], tolerance: Tolerance | None
) -> Turns:
    """Converse on the first few prompts. Without `tolerance` everything has to be equal bit for bit."""
    turns = Turns()
    for number, request in enumerate(requests[:_PROMPTS]):
        talk = _Talk(session, subject, tolerance, turns)
        first = replace(request, max_new_tokens=min(request.max_new_tokens, _NEW_TOKENS), stop=())
        said = talk.break_off(first)
        second = replace(first, prompt=(*first.prompt, *said, *first.prompt[-_SAID_NEXT:]))
        answer = talk.judge(f"prompt {number}, behind a broken-off turn", second)
        if answer is None:
            continue
        third = replace(first, prompt=(*second.prompt, *answer[:-1], *first.prompt[-_SAID_NEXT:]))
        talk.judge(f"prompt {number}, behind a whole turn", third)
        talk.judge(f"prompt {number}, the second turn again", second)
    return turns


class _Watching(Session):
    """A session whose targets are watched."""

    watched: Watched

    @classmethod
    def of(cls, session: Session) -> _Watching:
        parts: dict[str, Any] = {one.name: getattr(session, one.name) for one in fields(session)}
        return cls(**{**parts, "kept": None})

    def make_target(
        self, slots: int, capacity: int, needs: frozenset[int], kept: Kept | None = None
    ) -> Target:
        target = super().make_target(slots, capacity, needs, kept)
        self.watched = Watched(
            target, self.sampler().law, audit=1.0, probabilities=self.profile.probabilities
        )
        return cast(Target, self.watched)


class _Talk:
    """One conversation."""

    def __init__(self, session: Session, subject: Subject, tolerance: Tolerance | None, turns: Turns) -> None:
        self._session = _Watching.of(session)
        self._subject = subject
        self._tolerance = tolerance
        self._turns = turns

    def break_off(self, request: Request) -> list[int]:
        """A turn that stops after a draft; what it had said, and the draft, of which no cache may know."""
        said: list[int] = []
        rounds = 0
        stream = self._session.reply(request)
        for event in stream:
            if isinstance(event, Emitted):
                said += event.tokens
            rounds += isinstance(event, Drafted)
            if isinstance(event, Drafted) and rounds == _BROKEN_OFF_IN:
                said += event.tokens
                break
        cast(Any, stream).close()
        return said

    def judge(self, name: str, request: Request) -> list[int] | None:
        """The turn's tokens; None if it does not fit the context, or crashed."""
        if len(request.prompt) >= self._session.target.context_length:
            return None
        kept = self._session.kept
        self._turns.reused += common_prefix(kept.ids[:-1], request.prompt[:-1]) if kept else 0
        events, crash = collect(self._session.reply(request))
        watched = self._session.watched
        if crash is None:
            own = by_row(events, 1)[0]
            report = judge(name, request, own, watched, 0, self._subject, self._tolerance)
        else:
            report = crashed(name, crash, watched.problems.get(0, []))
        self._turns.judged.append(report)
        return list(report.tokens) or None
