"""From what was seen to a verdict on a sequence: every token, and every divergence on past the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specctl.decode.draft import Request
from specctl.decode.loop import Rules
from specctl.equivalence import structure
from specctl.equivalence.noise import Noise
from specctl.equivalence.reference import Answer, decode_plainly
from specctl.equivalence.report import Divergence, Problem, SequenceReport, Verdict
from specctl.equivalence.rescore import Rescorer
from specctl.equivalence.sight import Sight
from specctl.equivalence.subject import Subject
from specctl.equivalence.watch import Watched, differing, row_of
from specctl.events import Emitted, Event, Finished, Verified


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What native numerics are allowed, and what a divergence is measured with."""

    noise: Noise
    rescorer: Rescorer


def judge(
    name: str,
    request: Request,
    events: Sequence[Event],
    watched: Watched,
    row: int,
    subject: Subject,
    tolerance: Tolerance | None,
) -> SequenceReport:
    """Events are those of the row alone. Without `tolerance` everything has to be equal bit for bit.

    Where tokens cannot be compared, what was seen before each of them still can.
    """
    tokens = [token for event in events if isinstance(event, Emitted) for token in event.tokens]
    problems = [
        Problem(Verdict.STRUCTURE, what)
        for what in structure.check_row(events, request, subject.rules, subject.target.vocab_size)
    ]
    if subject.tokenizer is not None:
        problems += [
            Problem(Verdict.STRUCTURE, what)
            for what in structure.check_text(events, tokens, request, subject.rules)
        ]
    if subject.rules.probabilities:
        found = structure.check_chances(events, watched.chances.get(row, []))
        problems += [Problem(Verdict.STRUCTURE, what) for what in found]
    problems += watched.problems.get(row, [])
    reference = decode_plainly(subject.target, request, subject.rules, follow=tokens)
    sights = watched.sights.get(row, [])
    divergences: list[Divergence] = []
    if subject.comparable:
        divergences += _divergences(request, events, tokens, reference, sights, subject.rules, tolerance)
    problems += [_diverged(one) for one in divergences if not one.certified]
    if tolerance is None:
        problems += _bits_off(reference, sights, watched, row, len(request.prompt) + len(tokens) - 1)
    else:
        problems += _gaps_off(reference, sights, tolerance.noise.eps)
    verdicts = [problem.verdict for problem in problems] + ([Verdict.TIE] if divergences else [])
    return SequenceReport(
        name,
        max(verdicts, key=lambda one: one.severity, default=Verdict.EXACT),
        tuple(problems),
        tuple(divergences),
        tuple(tokens),
        next((event.reason for event in events if isinstance(event, Finished)), ""),
        sum(isinstance(event, Verified) for event in events),
        watched.audited.get(row, 0),
    )


def _divergences(
    request: Request,
    events: Sequence[Event],
    tokens: Sequence[int],
    reference: Answer,
    sights: Sequence[Sight],
    rules: Rules,
    tolerance: Tolerance | None,
) -> Iterator[Divergence]:
    """Wherever the run's token is not the reference's for the same prefix."""
    places = list(_places(events))
    for index, (ours, theirs) in enumerate(zip(tokens, reference.tokens, strict=True)):
        if ours == theirs:
            continue
        gap_ar = reference.sights[index].gap(theirs, ours)
        gap_spec = sights[index].gap(theirs, ours) if index < len(sights) else None
        gap_ref, certified = None, False
        if tolerance is not None:
            scores = tolerance.rescorer.scores([*request.prompt, *tokens[:index]], rules.sampler.law)
            gap_ref = float(scores[theirs] - scores[ours])
            behind = float(scores.max()) - min(float(scores[theirs]), float(scores[ours]))
            certified = _is_tie(gap_ref, behind, gap_ar, gap_spec, tolerance.noise.eps)
        round_number, slot = places[index]
        eps = None if tolerance is None else tolerance.noise.eps
        yield Divergence(index, round_number, slot, theirs, ours, gap_ref, gap_ar, gap_spec, eps, certified)


def _is_tie(gap_ref: float, behind: float, gap_ar: float | None, gap_spec: float | None, eps: float) -> bool:
    """Both tokens within the noise of the best, and both paths where the noise lets them be.

    The last clause finds a wrong state that happens to be near a tie.
    """
    paths = (gap_ar, gap_spec)
    return (
        abs(gap_ref) <= eps
        and behind <= eps
        and all(gap is not None and abs(gap - gap_ref) <= eps for gap in paths)
    )


def _places(events: Sequence[Event]) -> Iterator[tuple[int, int]]:
    """Round and slot of each emitted token."""
    for event in events:
        if isinstance(event, Emitted):
            yield from ((event.round, slot) for slot in range(len(event.tokens)))


def _diverged(one: Divergence) -> Problem:
    return Problem(
        Verdict.DIVERGED,
        f"token {one.index} is {one.spec_token} instead of {one.ar_token} (round {one.round}, slot {one.slot})",
    )


def _bits_off(
    reference: Answer, sights: Sequence[Sight], watched: Watched, row: int, end: int
) -> Iterator[Problem]:
    """Logits at every position, and the whole cache the row left behind, against the reference's."""
    for index, (ours, theirs) in enumerate(zip(sights, reference.sights, strict=False)):
        if ours.digest != theirs.digest:
            yield Problem(Verdict.STATE, f"the logits of token {index} differ from the reference's")
            break
    if row in watched.caches:
        wrong = differing(watched.caches[row], row_of(reference.cache, end))
        if wrong:
            yield Problem(Verdict.STATE, f"the cache differs from the reference's at {wrong}")


def _gaps_off(reference: Answer, sights: Sequence[Sight], eps: float) -> Iterator[Problem]:
    """In native numerics: the two paths are each off by the noise at most, so by twice that from each other."""
    for index, (ours, theirs) in enumerate(zip(sights, reference.sights, strict=False)):
        first, second = list(theirs.best)[:2]
        expected, seen = theirs.gap(first, second), ours.gap(first, second)
        if expected is None or seen is None or abs(seen - expected) > 2 * eps:
            yield Problem(
                Verdict.STATE,
                f"the logits of token {index} differ from the reference's by more than the noise",
            )
            break
