"""Draft fidelity: whether the drafter proposes what it should, and has as much of it accepted as it should.

A wrong draft cannot change the output, so it hides from every check of the output and shows as lost speed only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from specctl.decode.draft import Chooses, Draft, Drafter, Row, Scored
from specctl.equivalence.noise import Noise
from specctl.equivalence.remade import Proposal, Remade
from specctl.equivalence.report import Problem, Verdict
from specctl.equivalence.subject import Subject
from specctl.equivalence.through import Through
from specctl.equivalence.watch import chosen

_Z = 5.0
"""Standard deviations between observed and expected acceptance: less than one false alarm in a million runs."""


class Fidelity:
    """Watches a drafter and judges it. `share` of its drafts are `remade` by a drafter without a past."""

    def __init__(
        self,
        subject: Subject,
        *,
        share: float = 1.0,
        noise: Callable[[], Noise] | None = None,
        itself: bool = False,
    ) -> None:
        """`noise`: of the draft model, for `Remade`. `itself`: the draft model is the target, maybe with a trimmed
        head; then all it says has to be kept."""
        self.subject = subject
        self.itself = itself
        self.share = share
        self.remade = Remade(subject, noise)
        self.drafted = 0
        self.accepted = 0
        self.expected = 0.0
        self.observed = 0
        self.missed = 0
        self._variance = 0.0
        self._noise = noise

    def watch(self, drafter: Drafter) -> Drafter:
        return _Watched(drafter, self)

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
        yield from self.remade.problems()

    def to_json(self) -> dict[str, Any]:
        return {
            **self.remade.to_json(),
            "accepted_observed": self.observed,
            "accepted_expected": round(self.expected, 3),
            "z": round(self.z, 3) if math.isfinite(self.z) else None,
        }

    def _excused_rejections(self) -> int:
        if self.subject.numerics != "native" or self._noise is None:
            return 0
        return self._noise().most_ties(self.drafted)


class _Watched(Through):
    def __init__(self, drafter: Drafter, fidelity: Fidelity) -> None:
        super().__init__(drafter)
        self._fidelity = fidelity
        self._rounds = 0
        self._draft = Draft([])
        self._histories: list[list[int]] = []

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        draft = self._draft = super().draft(rows, budget)
        self._histories = [list(row.ids) for row in rows]
        self._rounds += 1
        if chosen(self._rounds, self._fidelity.share):
            for slot, (row, most) in enumerate(zip(rows, budget, strict=True)):
                adapts = getattr(self._drafter, "adapts", False)
                asked = self._drafter.asked(slot) if isinstance(self._drafter, Chooses) else None
                mine = Proposal.of(draft, slot)
                self._fidelity.remade.compare(row, most, mine, adapts=adapts, asked=asked)
        return draft

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        law = self._fidelity.subject.rules.sampler.law
        scores = law.scores(scored.logits, self._histories, self._draft.tokens)
        for slot, (tokens, kept) in enumerate(zip(self._draft.tokens, accepted, strict=True)):
            q = None if self._draft.q is None else self._draft.q[slot]
            self._fidelity.count(scores[slot], tokens, q, kept)
        super().observe(rows, scored, accepted)


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
