"""What verification found, as values: sequences, their divergences, coverage, and the verdict on the run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """On one sequence or one run, mildest first; all from STATE on but INCONCLUSIVE are violations."""

    EXACT = "EXACT"
    TIE = "TIE"
    INCONCLUSIVE = "INCONCLUSIVE"
    DRAFT_DEGRADED = "DRAFT-DEGRADED"
    SUSPECT = "SUSPECT"
    DISTRIBUTION = "DISTRIBUTION"
    STATE = "STATE"
    DIVERGED = "DIVERGED"
    STRUCTURE = "STRUCTURE"

    @property
    def violation(self) -> bool:
        return self not in (Verdict.EXACT, Verdict.TIE, Verdict.INCONCLUSIVE)

    @property
    def severity(self) -> int:
        return list(Verdict).index(self)


@dataclass(frozen=True, slots=True)
class Divergence:
    """A position where the run chose another token than the reference, given the same tokens before it.

    `index` counts generated tokens from 0; `slot` is the place in the round's block. The gaps are logit of the
    reference's token minus logit of the run's token: in the re-scoring, in the reference, in the run; None
    where it was not computed (nothing is tolerated) or the token is far from the best.
    """

    index: int
    round: int
    slot: int
    ar_token: int
    spec_token: int
    gap_ref: float | None
    gap_ar: float | None
    gap_spec: float | None
    eps: float | None
    certified: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing found on a sequence, with the class it belongs to."""

    verdict: Verdict
    what: str


@dataclass(frozen=True, slots=True)
class SequenceReport:
    """The verdict is the gravest of the problems; without any it is EXACT, or TIE with certified divergences."""

    id: str
    verdict: Verdict
    problems: tuple[Problem, ...]
    divergences: tuple[Divergence, ...]
    tokens: tuple[int, ...]
    reason: str
    rounds: int
    audited_rounds: int
