"""Are drafts drawn from the law they report, and accepted as often as target and draft law foretell?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from specctl.decode.draft import Draft, Drafter, Row, Scored
from specctl.decode.noise import Place, Stream
from specctl.equivalence.report import Problem, Verdict
from specctl.equivalence.subject import Subject

_SURE = 5.0
"""Standard deviations from which acceptance is no accident: one run in two million."""


@dataclass(slots=True)
class Acceptance:
    """What was found on all drafters of a run. Greedy runs have no chance in them: there only the draft's
    context is watched.
    """

    subject: Subject
    redrawn: int = 0
    wrong: list[str] = field(default_factory=list)
    judged: int = 0
    accepted: int = 0
    expected: float = 0.0
    variance: float = 0.0

    def watch(self, drafter: Drafter) -> Drafter:
        return _Watched(drafter, self)

    @property
    def z(self) -> float:
        """Accepted minus expected tokens, in standard deviations; 0 where acceptance is certain."""
        return (self.accepted - self.expected) / math.sqrt(self.variance) if self.variance > 1e-9 else 0.0

    def problems(self) -> Iterator[Problem]:
        if self.wrong:
            more = f" and {len(self.wrong) - 1} more" if len(self.wrong) > 1 else ""
            yield Problem(Verdict.DRAFT_DEGRADED, f"{self.wrong[0]}{more}")
        if abs(self.z) > _SURE:
            yield Problem(
                Verdict.DISTRIBUTION,
                f"{self.accepted} of {self.judged} drafted tokens were accepted where "
                f"{self.expected:.1f} were to be expected (z = {self.z:.1f})",
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "redrawn": self.redrawn,
            "wrong": len(self.wrong),
            "judged": self.judged,
            "accepted": self.accepted,
            "expected": self.expected,
            "z": self.z,
        }


class _Watched:
    """Stands in for a drafter; the loop sees no difference."""

    def __init__(self, drafter: Drafter, found: Acceptance) -> None:
        self.needs = drafter.needs
        self._drafter = drafter
        self._found = found
        self._draft = Draft([])
        self._histories: list[list[int]] = []

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._drafter.begin(row, hidden)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        draft = self._draft = self._drafter.draft(rows, budget)
        self._histories = [list(row.ids) for row in rows]
        for b, (row, tokens) in enumerate(zip(rows, draft.tokens, strict=True)):
            self._check_room(row, tokens)
            if draft.q is not None:
                self._redraw(row, tokens, draft.q[b])
        return draft

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        sampler = self._found.subject.rules.sampler
        # Coupled and greedy acceptance is equality: other checks have it token by token.
        if not sampler.law.greedy and not sampler.coupled and self._draft.longest:
            self._expect(scored, accepted)
        self._drafter.observe(rows, scored, accepted)

    def drop(self, slot: int) -> None:
        self._drafter.drop(slot)

    def _check_room(self, row: Row, tokens: Sequence[int]) -> None:
        lm = self._found.subject.draft
        if tokens and lm is not None and len(row.ids) + len(tokens) > lm.context_length:
            self._say(row, f"the draft went on past its context of {lm.context_length} tokens")

    def _redraw(self, row: Row, tokens: Sequence[int], q: Tensor) -> None:
        """Draws are keyed, so the law that is reported must give the very tokens again."""
        sampler = self._found.subject.rules.sampler
        stream = Stream.TARGET if sampler.coupled else Stream.DRAFT
        for slot, token in enumerate(tokens):
            place = Place(row.request.seed, len(row.ids) + slot)
            self._found.redrawn += 1
            if int(sampler.draws.sample(q[slot][None], [place], stream)) != token:
                self._say(row, f"drafted token {slot} was not drawn from the law reported for it")

    def _expect(self, scored: Scored, accepted: Sequence[int]) -> None:
        """A drafted token that is judged is kept with chance sum min(p, q), given all before it; one that was not
        drawn, with its own probability.
        """
        law, draft, found = self._found.subject.rules.sampler.law, self._draft, self._found
        p = law.probabilities(law.scores(scored.logits, self._histories, draft.tokens))
        for b, (tokens, n) in enumerate(zip(draft.tokens, accepted, strict=True)):
            for slot in range(min(n + 1, len(tokens))):
                at = p[b, slot]
                chance = float(at[tokens[slot]] if draft.q is None else at.minimum(draft.q[b, slot]).sum())
                found.judged += 1
                found.accepted += slot < n
                found.expected += chance
                found.variance += chance * max(1 - chance, 0.0)

    def _say(self, row: Row, what: str) -> None:
        self._found.wrong.append(f"row {row.index}, after {len(row.generated)} tokens: {what}")
