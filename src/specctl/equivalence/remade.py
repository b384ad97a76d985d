"""Drafts made once more, by a drafter without a past: the tokens have to be the same, and how many they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from specctl.decode.draft import Chooses, Draft, Row, SharesCache, share_cache
from specctl.equivalence.noise import Noise
from specctl.equivalence.report import Problem, Verdict
from specctl.equivalence.rescore import Rescorer, with_adapter
from specctl.equivalence.subject import Subject
from specctl.models.cache import SlotCache

_ROUNDING = 1e-6

_UNSURE = 0.05
"""Rounding to 16 bits moves a draft's confidence by less."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One row of a draft: its tokens, their laws `[k, vocab]`, how likely the drafter found each."""

    tokens: Sequence[int]
    q: Tensor | None
    confidence: Sequence[float] | None

    @classmethod
    def of(cls, draft: Draft, slot: int) -> Proposal:
        q = None if draft.q is None else draft.q[slot]
        return cls(draft.tokens[slot], q, None if draft.confidence is None else draft.confidence[slot])


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A proposal a fresh drafter does not make: after `ids`, `live` instead of `fresh`.

    The first `committed` of `ids` were; those behind were drafted. `apart` is the total variation between the laws
    they were drawn from; None where nothing was drawn.
    """

    ids: tuple[int, ...]
    committed: int
    live: int
    fresh: int
    apart: float | None


@dataclass(frozen=True, slots=True)
class Cut:
    """A draft of another length than a fresh drafter's: `live` instead of `fresh`, behind so many `tokens`."""

    tokens: int
    live: int
    fresh: int


class Remade:
    """Drafts beside those of a fresh drafter.

    `noise` measures the draft model when a mismatch has to be told from a near-tie; without it none is excused.
    A prefix read in one piece has other shapes than one read in rounds, so bits may differ in any numerics.
    """

    def __init__(self, subject: Subject, noise: Callable[[], Noise] | None) -> None:
        self.compared = 0
        self.mismatches: list[Mismatch] = []
        self.cuts: list[Cut] = []
        self._subject = subject
        self._noise = noise

    def compare(self, row: Row, most: int, live: Proposal, *, adapts: bool, asked: object = None) -> None:
        """One row's draft with what a fresh drafter proposes.

        Where the drafter `adapts`, how many tokens are worth drafting depends on its past; which tokens never does,
        though it may have `asked` one of several.
        """
        fresh = fresh_draft(self._subject, row, len(live.tokens) or most if adapts else most, asked)
        self.compared += 1
        for at, pair in enumerate(zip(live.tokens, fresh.tokens, strict=False)):
            apart = None
            if live.q is not None and fresh.q is not None:
                apart = float((live.q[at].double() - fresh.q[at].double()).abs().sum()) / 2
            if pair[0] != pair[1] or (apart or 0) > _ROUNDING:
                found = Mismatch((*row.ids, *live.tokens[:at]), len(row.ids), *pair, apart)
                self.mismatches.append(found)
                return
        if not adapts and len(live.tokens) != len(fresh.tokens) and not self._as_sure(live, fresh):
            self.cuts.append(Cut(len(row.generated), len(live.tokens), len(fresh.tokens)))

    def _as_sure(self, live: Proposal, fresh: Proposal) -> bool:
        """Whether the shorter draft may have ended for want of confidence that rounding explains.

        Drafts end for their last token (Kangaroo, S2D) or for all of theirs together. The token that was not sure
        enough stays, so none is ever empty for that reason.
        """
        shorter = min(len(live.tokens), len(fresh.tokens))
        if not shorter:
            return False
        if live.confidence is None or fresh.confidence is None:
            return self._subject.numerics == "native"
        return (
            0 < abs(math.prod(live.confidence[:shorter]) - math.prod(fresh.confidence[:shorter])) <= _UNSURE
        )

    def problems(self) -> Iterator[Problem]:
        if self.cuts:
            cut = self.cuts[0]
            yield Problem(
                Verdict.DRAFT_DEGRADED,
                f"{len(self.cuts)} of {self.compared} drafts are shorter or longer than a fresh drafter's, first "
                f"{cut.live} tokens instead of {cut.fresh} after {cut.tokens}",
            )
        left = self._unexplained()
        if left:
            one = left[0]
            yield Problem(
                Verdict.DRAFT_DEGRADED,
                f"{len(left)} of {self.compared} drafts differ from a fresh drafter's, first "
                f"{one.live} instead of {one.fresh} after {len(one.ids)} tokens",
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "fresh_drafts_compared": self.compared,
            "mismatches": len(self.mismatches),
            "unexplained": len(self._unexplained()),
            "other_lengths": len(self.cuts),
        }

    def _unexplained(self) -> list[Mismatch]:
        if not self.mismatches or self._subject.draft is None or self._noise is None:
            return self.mismatches
        eps, rescorer = self._noise().eps, Rescorer(self._subject.draft)
        return [one for one in self.mismatches if not self._is_noise(one, rescorer, eps)]

    def _is_noise(self, one: Mismatch, rescorer: Rescorer, eps: float) -> bool:
        """Drawn: gaps off by eps move a law by (e^(eps / T) - 1) / 2 at most. Not drawn: both near the best."""
        law = self._subject.rules.sampler.law
        if one.apart is not None:
            return one.apart <= math.expm1(min(eps / law.temperature, 0.5)) / 2
        scores = rescorer.scores(one.ids, law, self._context(one))
        best = float(scores.max())
        return all(best - float(scores[token]) <= eps for token in (one.live, one.fresh))

    def _context(self, one: Mismatch) -> SlotCache | None:
        """What a draft that goes on from the target's states has read; None: it has read all by itself."""
        draft = self._subject.draft
        if draft is None or not (draft.twin or draft.reads):
            return None
        target = self._subject.make_target(1, len(one.ids) + 1)
        hidden = target.admit(one.ids[: one.committed])
        return with_adapter(draft, target.cache, hidden.get(draft.reads)) if draft.reads else target.cache


def fresh_draft(subject: Subject, row: Row, most: int, asked: object = None) -> Proposal:
    """What a drafter without a past proposes behind the row's committed tokens, `asked` as the live one was."""
    alone = Row(row.index, row.request, list(row.ids))
    drafter = subject.make_drafter(subject.rules.sampler)
    if isinstance(drafter, Chooses):
        drafter.ask_only(asked)
    hidden: dict[int, Tensor] = {}
    if drafter.needs or isinstance(drafter, SharesCache):
        target = subject.make_target(1, len(row.ids) + most + 1)
        hidden = target.admit(alone.ids)
        share_cache(drafter, target.cache)
    drafter.begin(alone, hidden)
    return Proposal.of(drafter.draft([alone], [most]), 0)
