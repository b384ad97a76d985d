"""One pass that records what a drafter would have said at every position of an answer.

Greedy drafts depend on the committed tokens only, and those are plain decoding's whatever is drafted. A drafter
that goes on token by token is on the right track for as long as each of its tokens, asked for alone, is right: so
one token a position is all that has to be recorded, and every draft length follows (`simulate.py`). Nearly so for
a draft in the target's cache (method `self`): its second token stands on its own states of the first one, where
the trace has the target's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from torch import Tensor

from specctl.decode.draft import Draft, Drafter, Parts, Request, Row, Scored, build_drafter, share_cache
from specctl.decode.loop import decode
from specctl.decode.sampling import Law
from specctl.decode.stats import Stats
from specctl.decode.target import Target
from specctl.events import Emitted
from specctl.models.cache import SlotCache
from specctl.models.lm import LM
from specctl.models.trimmed import widen
from specctl.profile.drafters import DraftModelParams, NoneParams, SelfParams
from specctl.session import Session

_CHUNK = 64
"""Positions looked at in one forward: it bounds the logits that are held at once."""


@dataclass(frozen=True, slots=True)
class Trace:
    """An answer by plain decoding, and at each of its positions the one token the drafter proposed there.

    `proposed[i]` is None where it proposed nothing; `confidence[i]` is how likely it found its token.
    """

    request: Request
    answer: tuple[int, ...]
    proposed: tuple[int | None, ...]
    confidence: tuple[float, ...]

    def right(self, at: int) -> bool:
        return at < len(self.answer) and self.proposed[at] == self.answer[at]


@dataclass(slots=True)
class Recorder:
    """A drafter that lets another one propose a token, notes it and keeps it to itself."""

    drafter: Drafter
    proposed: list[int | None] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    needs: frozenset[int] = frozenset()

    def share(self, cache: SlotCache) -> None:
        share_cache(self.drafter, cache)

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self.drafter.begin(row, hidden)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        draft = self.drafter.draft(rows, [min(most, 1) for most in budget])
        self.proposed.append(draft.tokens[0][0] if draft.tokens[0] else None)
        looked = draft.confidence is not None and draft.confidence[0]
        self.confidence.append(draft.confidence[0][0] if looked and draft.confidence else 1.0)
        hidden = None if draft.hidden is None else draft.hidden[:, :1]
        return Draft([[]], hidden=hidden, depth=draft.depth)

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        self.drafter.observe(rows, scored, accepted)

    def swap(self, one: int, other: int) -> None:
        self.drafter.swap(one, other)

    def drop(self, slot: int) -> None:
        self.drafter.drop(slot)


def record(session: Session, request: Request) -> Trace:
    """Plain decoding of one request, with the session's draft model, if it has one, asked at every position."""
    sampler = session.sampler()
    parts = Parts(session.target, session.draft, sampler, session.eos)
    drafter = build_drafter(_one_token(session), parts)
    recorder = Recorder(drafter, needs=drafter.needs)
    capacity = min(len(request.prompt) + request.max_new_tokens, session.target.context_length) + 1
    target = Target(session.target, slots=1, capacity=capacity, captures=drafter.needs)
    answer: list[int] = []
    for event in decode(target, recorder, [request], session.rules(sampler)):
        if isinstance(event, Emitted):
            answer += event.tokens
    return Trace(request, tuple(answer), tuple(recorder.proposed), tuple(recorder.confidence))


def _one_token(session: Session) -> NoneParams | SelfParams | DraftModelParams:
    if session.draft is None:
        return NoneParams(method="none")
    if session.draft.twin:
        return SelfParams(method="self", draft_tokens=1, min_confidence=0.0)
    return DraftModelParams(method="draft-model", draft_tokens=1, min_confidence=0.0)


def plain(
    session: Session, request: Request, cancelled: Callable[[], bool] = lambda: False
) -> tuple[tuple[int, ...], float]:
    """The answer of plain decoding, and the seconds of a round that the target's forward does not take."""
    capacity = min(len(request.prompt) + request.max_new_tokens, session.target.context_length) + 1
    target = Target(session.target, slots=1, capacity=capacity)
    rules = session.rules(session.sampler())
    nobody = build_drafter(NoneParams(method="none"), Parts(session.target, None, rules.sampler, session.eos))
    answer: list[int] = []
    stats = Stats()
    begun = perf_counter()
    for event in decode(target, nobody, [request], rules, cancelled=cancelled):
        stats.add(event)
        if isinstance(event, Emitted):
            answer += event.tokens
    rest = perf_counter() - begun - stats.prefill_s - stats.verify_s
    return tuple(answer), max(rest, 0.0) / max(stats.rounds, 1)


def follow(session: Session, request: Request, answer: tuple[int, ...]) -> Trace:
    """As `record`, for an answer that is known: the draft model reads it like a prompt, in a few forwards."""
    if session.draft is None:
        return Trace(request, answer, (None,) * len(answer), (1.0,) * len(answer))
    if session.draft.twin:  # it drafts over the target's own states, which only decoding makes
        return record(session, request)
    proposed, confidence = proposals(
        session.draft, session.sampler().law, request.prompt, answer, session.target.vocab_size
    )
    return Trace(request, answer, proposed, confidence)


def proposals(
    lm: LM, law: Law, prompt: tuple[int, ...], answer: tuple[int, ...], vocab_size: int
) -> tuple[tuple[int | None, ...], tuple[float, ...]]:
    """`lm`'s best token for each position of `answer`, and how likely it finds it; None past its context.

    `vocab_size` is the target's.
    """
    ids = [*prompt, *answer[:-1]][: lm.context_length]
    known = [token if token < lm.vocab_size else 0 for token in ids]
    cache = lm.new_cache()
    cache.admit()
    cache.reserve(1, len(ids) + _CHUNK + lm.row_floor)
    first = min(len(prompt) - 1, len(ids))
    lm.prefill(cache, 0, known[:first])
    proposed: list[int | None] = []
    confidence: list[float] = []
    for start in range(first, len(ids), _CHUNK):
        chunk = known[start : start + _CHUNK]
        logits = widen(lm.forward(cache, [chunk], range(1)), lm.kept, vocab_size)
        cache.commit(0, len(chunk))
        scores = law.scores(logits, [ids[: start + 1]], [ids[start + 1 : start + _CHUNK]])[0]
        proposed += scores.argmax(dim=-1).tolist()
        confidence += scores.softmax(dim=-1).amax(dim=-1).tolist()
    unknown = len(answer) - len(proposed)
    return (*proposed, *[None] * unknown), (*confidence, *[0.0] * unknown)
