"""What is being verified: models and settings as plain parts, from a session or from tiny models in a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from specctl.decode.draft import Drafter
from specctl.decode.loop import Rules
from specctl.decode.sampling import Sampler
from specctl.decode.target import Target
from specctl.models.lm import LM
from specctl.session import Session


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything `decode` needs. The makers are called for each run, so that every run has fresh caches.

    `make_target` takes slots and capacity. `drafts` is False for plain decoding, which has nothing to exercise.
    `draft` is a model, or the target's first layers and an adapter. `tokenizer` is None where the events carry no
    text to be checked.
    """

    target: LM
    make_target: Callable[[int, int], Target]
    make_drafter: Callable[[Sampler], Drafter]
    rules: Rules
    name: str
    numerics: str
    drafts: bool = True
    draft: LM | None = None
    tokenizer: Any = None

    @property
    def comparable(self) -> bool:
        """Whether plain decoding gives the very tokens: always when greedy; `coupled` draws if no bit differs."""
        sampler = self.rules.sampler
        return sampler.law.greedy or (sampler.coupled and self.numerics == "invariant")


def from_session(session: Session) -> Subject:
    """The parts a session would decode with, by its profile.

    Without a reader for the draft's prompts: which part of a text it has read depends on when the draft was asked,
    and a fresh draft has to stand on the same keys and values as the one it is compared with.
    """
    if session.draft is not None:
        session = replace(session, draft=replace(session.draft, reader=None))
    sampler = session.sampler()

    def make_target(slots: int, capacity: int) -> Target:
        return session.make_target(slots, capacity, session.drafter(sampler).needs)

    return Subject(
        session.target,
        make_target,
        session.drafter,
        session.rules(sampler),
        session.info.target,
        session.info.numerics,
        drafts=session.profile.drafter.method != "none",
        draft=session.draft,
        tokenizer=session.tokenizer,
    )
