"""What a draft claims: that its tokens were drawn from the law it reports, and within its model's context.

And that a trimmed head can still end an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from specctl.decode.draft import Draft, Drafter, Row
from specctl.decode.noise import Place, Stream
from specctl.equivalence.report import Problem, Verdict
from specctl.equivalence.subject import Subject
from specctl.equivalence.through import Through


@dataclass(slots=True)
class Claims:
    """What was found on all drafters of a run; `redrawn` counts the tokens that were drawn again."""

    subject: Subject
    redrawn: int = 0
    wrong: list[str] = field(default_factory=list)

    def watch(self, drafter: Drafter) -> Drafter:
        return _Watched(drafter, self)

    def problems(self) -> Iterator[Problem]:
        lm = self.subject.draft
        if lm is not None and lm.kept is not None:
            missing = self.subject.rules.eos.difference(lm.kept.tolist())
            if missing:
                what = f"the trimmed head of the draft lacks tokens that end an answer: {sorted(missing)}"
                yield Problem(Verdict.DRAFT_DEGRADED, what)
        if self.wrong:
            more = f", and {len(self.wrong) - 1} more like this" if len(self.wrong) > 1 else ""
            yield Problem(Verdict.DRAFT_DEGRADED, f"{self.wrong[0]}{more}")

    def check(self, row: Row, tokens: Sequence[int], q: Tensor | None) -> None:
        """One row's draft and its laws `[k, vocab]`."""
        lm = self.subject.draft
        if tokens and lm is not None and len(row.ids) + len(tokens) > lm.context_length:
            self._say(row, f"the draft went on past its context of {lm.context_length} tokens")
        # Draws are keyed, so the law that is reported must give the very tokens again.
        sampler = self.subject.rules.sampler
        stream = Stream.TARGET if sampler.coupled else Stream.DRAFT
        for slot, token in enumerate(tokens if q is not None else ()):
            assert q is not None
            self.redrawn += 1
            place = Place(row.request.seed, len(row.ids) + slot)
            if int(sampler.draws.sample(q[slot][None], [place], stream)) != token:
                self._say(row, f"drafted token {slot} was not drawn from the law reported for it")

    def _say(self, row: Row, what: str) -> None:
        self.wrong.append(f"row {row.index}, after {len(row.generated)} tokens: {what}")


class _Watched(Through):
    def __init__(self, drafter: Drafter, claims: Claims) -> None:
        super().__init__(drafter)
        self._claims = claims

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        draft = super().draft(rows, budget)
        for slot, (row, tokens) in enumerate(zip(rows, draft.tokens, strict=True)):
            self._claims.check(row, tokens, None if draft.q is None else draft.q[slot])
        return draft
