"""Turns of a conversation under verification: what is reused, and what is not held against them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from scenes import talking

from fakes import ask
from specctl.equivalence.report import Verdict
from specctl.equivalence.subject import from_session
from specctl.equivalence.turns import Turns, verify_turns
from specctl.events import Event
from specctl.session import Session


def converse(session: Session | None = None, prompts: int = 2, new: int = 12) -> Turns:
    session = session or talking()
    return verify_turns(session, from_session(session), ask(prompts, new), None)


def test_turns_build_on_each_other_and_leave_the_session_alone() -> None:
    session = talking()
    turns = converse(session)
    assert [one.verdict for one in turns.judged] == [Verdict.EXACT] * 6
    assert turns.reused > 60
    assert turns.to_json() == {"judged": 6, "tokens": 72, "reused": turns.reused}
    assert session.kept is None


def test_a_prompt_that_fills_the_context_has_no_more_turns() -> None:
    session = talking()
    room = session.target.context_length
    long = [replace(one, prompt=(7,) * (room - 2)) for one in ask(1)]
    turns = verify_turns(session, from_session(session), long, None)
    assert turns.judged == []
    assert list(turns.problems()) == []


def test_a_planted_crash_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = Session.reply

    def broken(self: Session, *args: object, **kwargs: object) -> Iterator[Event]:
        if self.kept is not None:
            raise IndexError("a kept cache")
        return reply(self, *args, **kwargs)  # type: ignore[arg-type]

    def later(self: Session, *args: object, **kwargs: object) -> Iterator[Event]:
        yield from broken(self, *args, **kwargs)

    monkeypatch.setattr(Session, "reply", later)
    turns = converse(prompts=1)
    assert [one.verdict for one in turns.judged] == [Verdict.STRUCTURE]
    assert "IndexError" in next(turns.problems()).what
