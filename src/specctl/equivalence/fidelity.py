"""Draft fidelity: whether the drafter proposes what it should.

A wrong draft cannot change the output, so it hides from every check of the output and shows as lost speed only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specctl.decode.draft import Chooses, Draft, Drafter, Row, Scored, SharesCache, midway, share_cache
from specctl.equivalence.noise import Noise
from specctl.equivalence.report import Problem, Verdict
from specctl.equivalence.rescore import Rescorer, with_adapter
from specctl.equivalence.subject import Subject
from specctl.equivalence.watch import chosen
from specctl.models.cache import SlotCache

_Z = 5.0
"""Standard deviations between observed and expected acceptance: less than one false alarm in a million runs."""

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


class Fidelity:
    """Watches a drafter and judges it. `share` of its drafts are made again by a drafter without a past.

    `noise` measures the draft model when a mismatch has to be told from a near-tie; without it none is excused.
    A prefix read in one piece has other shapes than one read in rounds, so bits may differ in any numerics.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        share: float = 1.0,
        noise: Callable[[], Noise] | None = None,
        itself: bool = False,
    ) -> None:
        """`itself`: the draft model is the target, maybe with a trimmed head; then all it says has to be kept."""
        self.subject = subject
        self.itself = itself
        self.share = share
        self.compared = 0
        self.drafted = 0
        self.accepted = 0
        self.expected = 0.0
        self.observed = 0
        self.mismatches: list[Mismatch] = []
        self.cuts: list[Cut] = []
        self.missed = 0
        self._variance = 0.0
        self._noise = noise

    def watch(self, drafter: Drafter) -> Drafter:
        return _Watched(drafter, self)

    def compare(self, row: Row, most: int, live: Proposal, *, adapts: bool, asked: object = None) -> None:
        """One row's draft with what a fresh drafter proposes.

        Where the drafter `adapts`, how many tokens are worth drafting depends on its past; which tokens never does,
        though it may have `asked` one of several.
        """
        fresh = fresh_draft(self.subject, row, len(live.tokens) or most if adapts else most, asked)
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

        The token that was not sure enough stays in a draft, so none is ever empty for that reason.
        """
        shorter = min(len(live.tokens), len(fresh.tokens))
        if not shorter:
            return False
        if live.confidence is None or fresh.confidence is None:
            return self.subject.numerics == "native"
        return 0 < abs(live.confidence[shorter - 1] - fresh.confidence[shorter - 1]) <= _UNSURE

    def count(self, scores: Tensor, tokens: Sequence[int], q: Tensor | None, accepted: int) -> None:
        """A verdict on one row: scores `[k + 1, vocab]` of the target, the draft, how much of it was kept."""
        self.drafted += len(tokens)
        self.accepted += accepted
        if accepted < len(tokens) and not self._excused(scores[accepted], tokens[accepted]):
            self.missed += len(tokens) - accepted
        law = self.subject.rules.sampler.law
        if law.greedy or self.subject.rules.sampler.coupled or not tokens:
            return
        reached = min(accepted + 1, len(tokens))
        chances = acceptance(law.probabilities(scores[:reached]), tokens[:reached], q)
        self.expected += sum(chances)
        self.observed += accepted
        self._variance += sum(chance * (1 - chance) for chance in chances)

    def _excused(self, scores: Tensor, drafted: int) -> bool:
        """A trimmed head cannot say all and may round otherwise; a law that is cut is another over fewer tokens."""
        kept = None if self.subject.draft is None else self.subject.draft.kept
        if kept is None:
            return False
        best = int(scores.argmax())
        ulps = 2 * torch.finfo(self.subject.target.dtype).eps * float(scores[best].abs())
        tied = float(scores[best] - scores[drafted]) <= ulps
        return not self.subject.rules.sampler.law.greedy or best not in kept.tolist() or tied

    @property
    def z(self) -> float:
        """How far acceptance is from what the laws promise, in standard deviations."""
        apart = self.observed - self.expected
        if self._variance < 1e-9:
            return 0.0 if abs(apart) < 1e-3 else math.copysign(math.inf, apart)
        return apart / math.sqrt(self._variance)

    def problems(self) -> Iterator[Problem]:
        if abs(self.z) > _Z:
            yield Problem(
                Verdict.DRAFT_DEGRADED,
                f"{self.observed} drafted tokens were accepted, the laws promise {self.expected:.1f} "
                f"(z {self.z:.1f})",
            )
        if self.itself and self.missed > self._excused_rejections():
            yield Problem(
                Verdict.DRAFT_DEGRADED,
                f"drafting for itself, the target rejected {self.missed} of {self.drafted} tokens",
            )
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
            "accepted_observed": self.observed,
            "accepted_expected": round(self.expected, 3),
            "z": round(self.z, 3) if math.isfinite(self.z) else None,
        }

    def _excused_rejections(self) -> int:
        if self.subject.numerics != "native" or self._noise is None:
            return 0
        return self._noise().most_ties(self.drafted)

    def _unexplained(self) -> list[Mismatch]:
        if not self.mismatches or self.subject.draft is None or self._noise is None:
            return self.mismatches
        eps, rescorer = self._noise().eps, Rescorer(self.subject.draft)
        return [one for one in self.mismatches if not self._is_noise(one, rescorer, eps)]

    def _is_noise(self, one: Mismatch, rescorer: Rescorer, eps: float) -> bool:
        """Drawn: gaps off by eps move a law by (e^(eps / T) - 1) / 2 at most. Not drawn: both near the best."""
        law = self.subject.rules.sampler.law
        if one.apart is not None:
            return one.apart <= math.expm1(min(eps / law.temperature, 0.5)) / 2
        scores = rescorer.scores(one.ids, law, self._context(one))
        best = float(scores.max())
        return all(best - float(scores[token]) <= eps for token in (one.live, one.fresh))

    def _context(self, one: Mismatch) -> SlotCache | None:
        """What a draft that goes on from the target's states has read; None: it has read all by itself."""
        draft = self.subject.draft
        if draft is None or not (draft.twin or draft.reads):
            return None
        target = self.subject.make_target(1, len(one.ids) + 1)
        hidden = target.admit(one.ids[: one.committed])
        return with_adapter(draft, target.cache, hidden.get(draft.reads)) if draft.reads else target.cache


class _Watched:
    """Stands in for a drafter; the loop sees no difference."""

    def __init__(self, drafter: Drafter, fidelity: Fidelity) -> None:
        self.needs = drafter.needs
        self.midway = midway(drafter)
        self._drafter = drafter
        self._fidelity = fidelity
        self._rounds = 0
        self._draft = Draft([])
        self._histories: list[list[int]] = []

    def share(self, cache: SlotCache) -> None:
        share_cache(self._drafter, cache)

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._drafter.begin(row, hidden)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        draft = self._draft = self._drafter.draft(rows, budget)
        self._histories = [list(row.ids) for row in rows]
        self._rounds += 1
        if chosen(self._rounds, self._fidelity.share):
            for slot, (row, most) in enumerate(zip(rows, budget, strict=True)):
                adapts = getattr(self._drafter, "adapts", False)
                asked = self._drafter.asked(slot) if isinstance(self._drafter, Chooses) else None
                self._fidelity.compare(row, most, Proposal.of(draft, slot), adapts=adapts, asked=asked)
        return draft

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        law = self._fidelity.subject.rules.sampler.law
        scores = law.scores(scored.logits, self._histories, self._draft.tokens)
        for slot, (tokens, kept) in enumerate(zip(self._draft.tokens, accepted, strict=True)):
            q = None if self._draft.q is None else self._draft.q[slot]
            self._fidelity.count(scores[slot], tokens, q, kept)
        self._drafter.observe(rows, scored, accepted)

    def swap(self, one: int, other: int) -> None:
        self._drafter.swap(one, other)

    def drop(self, slot: int) -> None:
        self._drafter.drop(slot)


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


def acceptance(p: Tensor, tokens: Sequence[int], q: Tensor | None) -> list[float]:
    """How likely each drafted token is accepted: the sum of min(p, q) `[k, vocab]` before it is drawn.

    A token that was not drawn is accepted with its probability in p.
    """
    if q is None:
        chosen = torch.tensor(list(tokens), device=p.device)[:, None]
        chances: list[float] = p.gather(1, chosen)[:, 0].tolist()
        return chances
    shared: list[float] = torch.minimum(p, q[: len(tokens)]).sum(dim=-1).tolist()
    return shared
