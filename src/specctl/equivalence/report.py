"""What verification found, as values: sequences, their divergences, coverage, and the verdict on the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specctl.equivalence.tape import Tape


class Verdict(StrEnum):
    """On one sequence or one run, mildest first. A violation is anything but EXACT, TIE and INCONCLUSIVE."""

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


@dataclass(frozen=True, slots=True)
class Context:
    """A first divergence for eyes: the end of what both share, and how each goes on."""

    id: str
    divergence: Divergence
    before: str
    reference: str
    run: str


@dataclass(frozen=True, slots=True)
class Report:
    """One profile on one pair. `problems` are those of the run as a whole; `guarantee` is G2, G3, or `law` where
    tokens were drawn and only their law could be tested. `models` says by hashes what was loaded. `case_file` is
    where the smallest failing case was written.
    """

    profile: str
    target: str
    draft: str | None
    settings: dict[str, Any]
    device: str
    dtype: str
    numerics: str
    guarantee: str
    sequences: tuple[SequenceReport, ...]
    coverage: dict[str, Any]
    problems: tuple[Problem, ...] = ()
    noise: dict[str, Any] | None = None
    fidelity: dict[str, Any] | None = None
    sampled: dict[str, Any] | None = None
    turns: dict[str, Any] | None = None
    context: Context | None = None
    case: Tape | None = None
    case_file: str | None = None
    models: dict[str, Any] | None = None
    reference_repeats: bool = True

    @property
    def verdict(self) -> Verdict:
        """The gravest of all; INCONCLUSIVE only if nothing is wrong."""
        found = [one.verdict for one in self.sequences] + [one.verdict for one in self.problems]
        return max(found, key=lambda one: one.severity, default=Verdict.INCONCLUSIVE)

    @property
    def exit_code(self) -> int:
        return exit_code([self.verdict])

    def count(self, *verdicts: Verdict) -> int:
        return sum(one.verdict in verdicts for one in self.sequences)

    def to_json(self) -> dict[str, Any]:
        """Section by section as documented in `docs/concepts/equivalence.md`; no clock, no text of prompts."""
        return {
            "profile": self.profile,
            "pair": self.models
            or {"target": {"id": self.target}, "draft": self.draft and {"id": self.draft}},
            "settings": self.settings,
            "device": self.device,
            "dtype": self.dtype,
            "numerics": self.numerics,
            "guarantee": self.guarantee,
            "noise": self.noise,
            "reference_repeats": self.reference_repeats,
            "coverage": self.coverage,
            "sequences": [_sequence(one) for one in self.sequences],
            "draft_fidelity": self.fidelity,
            "sampled": self.sampled,
            "turns": self.turns,
            "tape_ref": self.case_file,
            "problems": [_problem(one) for one in self.problems],
            "totals": self.totals(),
            "verdict": self.verdict.value,
            "exit_code": self.exit_code,
        }

    def totals(self) -> dict[str, int]:
        counts = {verdict.value: self.count(verdict) for verdict in Verdict if self.count(verdict)}
        return {
            "sequences": len(self.sequences),
            **counts,
            "tokens": sum(len(one.tokens) for one in self.sequences),
            "rounds": sum(one.rounds for one in self.sequences),
            "audited_rounds": sum(one.audited_rounds for one in self.sequences),
            "divergences": sum(len(one.divergences) for one in self.sequences),
            "certified_ties": sum(two.certified for one in self.sequences for two in one.divergences),
        }


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """0 if all is well, 1 with any violation, 3 if nothing is wrong but something undecided."""
    found = list(verdicts)
    if any(one.violation for one in found):
        return 1
    return 3 if Verdict.INCONCLUSIVE in found or not found else 0


_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}


def first_line(reports: Sequence[Report]) -> str:
    """`PASS (G2, bit-exact bf16) 28/28: 28 exact; 0 violations; 310 accepted, 95 rejected`."""
    word = {0: "PASS", 1: "FAIL", 3: "INCONCLUSIVE"}[exit_code(one.verdict for one in reports)]
    promises = sorted({_promise(one) for one in reports})
    n = sum(len(one.sequences) for one in reports)
    exact = sum(one.count(Verdict.EXACT) for one in reports)
    ties = sum(one.count(Verdict.TIE) for one in reports)
    wrong = sum(problem.verdict.violation for one in reports for problem in one.problems)
    wrong += sum(two.verdict.violation for one in reports for two in one.sequences)
    accepted = sum(one.coverage["accepted"] for one in reports)
    drafted = sum(one.coverage["drafted"] for one in reports)
    # Where tokens were drawn and not compared, only what was seen before each of them is exact.
    word_for = "sound" if all(one.guarantee == "law" for one in reports) else "exact"
    parts = [f"{exact} {word_for}" + (f", {ties} {'tie' if ties == 1 else 'ties'}" if ties else "")]
    parts.append(f"{wrong} violation{'' if wrong == 1 else 's'}")
    noises = [one.noise["eps"] for one in reports if one.noise is not None]
    if noises:
        parts.append(f"noise {max(noises):.3g}")
    parts.append(f"{accepted} accepted, {drafted - accepted} rejected")
    return f"{word} ({'; '.join(promises)}) {exact + ties}/{n}: " + "; ".join(parts)


def _promise(report: Report) -> str:
    kind = {"G2": "G2, bit-exact", "G3": "G3, native", "law": "sampled law"}[report.guarantee]
    return f"{kind} {_SHORT.get(report.dtype, report.dtype)}"


HEAD = (
    "profile",
    "verdict",
    "exact",
    "tie",
    "violation",
    "tokens",
    "rounds",
    "accepted",
    "drafted",
    "audited",
)


def table_row(report: Report) -> list[str]:
    totals = report.totals()
    wrong = sum(one.verdict.violation for one in report.sequences)
    figures = (
        report.count(Verdict.EXACT),
        report.count(Verdict.TIE),
        wrong,
        totals["tokens"],
        totals["rounds"],
        report.coverage["accepted"],
        report.coverage["drafted"],
        totals["audited_rounds"],
    )
    return [report.profile, report.verdict.value, *map(str, figures)]


def _sequence(one: SequenceReport) -> dict[str, Any]:
    divergences = [asdict(two) for two in one.divergences]
    return {
        "id": one.id,
        "verdict": one.verdict.value,
        "finish_reason": one.reason,
        "tokens": len(one.tokens),
        "first_divergence": divergences[0] if divergences else None,
        "divergences": divergences,
        "state_audit": {
            "rounds": one.audited_rounds,
            "clean": not any(problem.verdict is Verdict.STATE for problem in one.problems),
        },
        "problems": [_problem(problem) for problem in one.problems],
    }


def _problem(problem: Problem) -> dict[str, str]:
    return {"verdict": problem.verdict.value, "what": problem.what}
