"""Verification: a session on prompts, or a subject on requests, against the reference decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from specctl.decode.draft import Drafter, Request
from specctl.decode.loop import decode
from specctl.decode.target import Target
from specctl.decode.text import annotate
from specctl.equivalence.coverage import Coverage
from specctl.equivalence.noise import Noise
from specctl.equivalence.reference import decode_plainly
from specctl.equivalence.report import Context, Problem, Report, SequenceReport, Verdict
from specctl.equivalence.rescore import Rescorer
from specctl.equivalence.structure import by_row
from specctl.equivalence.subject import Subject, from_session
from specctl.equivalence.suite import Prompt
from specctl.equivalence.verdicts import Tolerance, judge
from specctl.equivalence.watch import Watched
from specctl.errors import MachineError, SpecctlError
from specctl.events import Event
from specctl.session import Session

_CONTEXT_TOKENS = 12
_WAVES = 4
"""Requests of one `decode` call, in batches: so that rows join and leave. What was seen is kept until then."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is done. `audit` is the share of rounds whose caches are rebuilt."""

    max_new_tokens: int
    batch_size: int = 1
    audit: float = 0.1


@dataclass(slots=True)
class Watchers:
    """Who is told what: a drafter to watch, a sequence that is judged, the events of a finished call."""

    drafter: Callable[[Drafter], Drafter] = lambda drafter: drafter
    judged: Callable[[SequenceReport], None] = lambda report: None
    events: Callable[[Sequence[Event], Sequence[Request]], None] = lambda events, requests: None


def verify(
    session: Session,
    prompts: Sequence[Prompt],
    options: Options,
    *,
    judged: Callable[[SequenceReport], None] = lambda report: None,
) -> Report:
    """Verify the session's profile on prompts. `judged` is told each sequence as it is done.

    Raises RequestError for a prompt that cannot be encoded or does not fit the context.
    """
    subject = from_session(session)
    requests = [_request(session, prompt, options) for prompt in prompts]
    coverage = Coverage()
    watchers = Watchers(
        judged=judged, events=lambda events, some: coverage.add(events, some, subject.rules.eos)
    )
    problems = list(_unrepeatable(subject, requests[0]))
    sequences = verify_greedy(
        subject,
        requests,
        batch_size=options.batch_size,
        noise=None,
        audit=options.audit,
        names=[prompt.id for prompt in prompts],
        watchers=watchers,
    )
    problems += _vacuous(subject, coverage)
    info = session.info
    return Report(
        profile=session.profile.name,
        target=info.target,
        draft=info.draft,
        settings=_settings(session, options),
        device=info.device,
        dtype=info.dtype,
        numerics=info.numerics,
        guarantee="G2" if info.numerics == "invariant" else "G3",
        sequences=tuple(sequences),
        coverage=coverage.to_json(),
        problems=tuple(problems),
        context=context(subject, requests, sequences),
    )


def _request(session: Session, prompt: Prompt, options: Options) -> Request:
    profile = session.profile
    raw = prompt.raw or not session.tokenizer.chat_template
    ids = session.encode(prompt.text, system=None if raw else profile.system, raw=raw)
    most = min(options.max_new_tokens, prompt.max_new_tokens or options.max_new_tokens)
    return Request(ids, most, profile.sampling.seed, (*profile.stop, *prompt.stop))


def _settings(session: Session, options: Options) -> dict[str, Any]:
    profile = session.profile
    return {
        "method": profile.drafter.method,
        "drafter": profile.drafter.model_dump(),
        "accept": session.info.accept,
        "sampling": profile.sampling.model_dump(),
        "row_floor": session.target.row_floor,
        "numerics_note": session.info.numerics_note,
        **asdict(options),
    }


def _unrepeatable(subject: Subject, request: Request) -> Iterator[Problem]:
    """A reference that does not repeat itself bit for bit is none."""
    few = replace(request, max_new_tokens=min(request.max_new_tokens, 4))
    one, other = (decode_plainly(subject.target, few, subject.rules) for _ in range(2))
    if [sight.digest for sight in one.sights] != [sight.digest for sight in other.sights]:
        yield Problem(Verdict.INCONCLUSIVE, "the reference does not repeat itself on this machine")


def _vacuous(subject: Subject, coverage: Coverage) -> Iterator[Problem]:
    if not subject.drafts:
        return
    if not coverage.drafted:
        yield Problem(Verdict.DRAFT_DEGRADED, "the profile drafts, but no token was ever drafted")
    elif coverage.vacuous:
        what = "rejected" if coverage.accepted else "accepted"
        yield Problem(Verdict.INCONCLUSIVE, f"no drafted token was ever {what}, so little was exercised")


def context(
    subject: Subject, requests: Sequence[Request], sequences: Sequence[SequenceReport]
) -> Context | None:
    """The first divergence that is no tie, else the first tie; text on both sides of it."""
    found = [
        (request, report, one)
        for request, report in zip(requests, sequences, strict=True)
        for one in report.divergences
    ]
    if not found:
        return None
    request, report, one = min(found, key=lambda entry: entry[2].certified)
    shared = [*request.prompt, *report.tokens[: one.index]]
    rest = Request(tuple(shared), _CONTEXT_TOKENS, request.seed)
    reference = decode_plainly(subject.target, rest, subject.rules)
    return Context(
        report.id,
        one,
        subject.rules.render(shared[-2 * _CONTEXT_TOKENS :]),
        subject.rules.render(reference.tokens),
        subject.rules.render(report.tokens[one.index : one.index + _CONTEXT_TOKENS]),
    )


def verify_greedy(
    subject: Subject,
    requests: Sequence[Request],
    *,
    batch_size: int,
    noise: Noise | None,
    audit: float,
    names: Sequence[str] | None = None,
    watchers: Watchers | None = None,
    rescorer: Rescorer | None = None,
) -> list[SequenceReport]:
    """Decode the requests and account for every token; reports in the order of the requests.

    `noise` None tolerates nothing: tokens, logits and caches have to be equal bit for bit, which needs
    models whose `row_floor` passes the self-test of `models/numerics.py` (4 for tiny float64 ones). `audit` is the
    share of rounds whose caches are rebuilt from a copy. Serves `coupled` sampling too: equality holds there.
    """
    watchers = watchers or Watchers()
    tolerance = None if noise is None else Tolerance(noise, rescorer or Rescorer(subject.target))
    names = names or [str(number) for number in range(len(requests))]
    step = batch_size * _WAVES if batch_size > 1 else 1
    reports: list[SequenceReport] = []
    for first in range(0, len(requests), step):
        some = requests[first : first + step]
        watched, events, crash = _run(subject, some, batch_size, audit, watchers)
        watchers.events(events, some)
        for row, (request, own) in enumerate(zip(some, by_row(events, len(some)), strict=True)):
            name = names[first + row]
            if crash is None:
                report = judge(name, request, own, watched, row, subject, tolerance)
            else:
                report = _crashed(name, crash, watched.problems.get(row, []))
            reports.append(report)
            watchers.judged(report)
    return reports


def _run(
    subject: Subject, requests: Sequence[Request], batch_size: int, audit: float, watchers: Watchers
) -> tuple[Watched, list[Event], Exception | None]:
    """One `decode` call with everything watched. A crash of the loop is a finding, not a failure of ours."""
    sampler = subject.rules.sampler
    longest = max(len(one.prompt) + one.max_new_tokens for one in requests)
    capacity = min(longest, subject.rules.context_length) + 1
    watched = Watched(subject.make_target(batch_size, capacity), sampler.law, audit)
    drafter = watchers.drafter(subject.make_drafter(sampler))
    rules = replace(subject.rules, batch_size=batch_size)
    stream: Iterable[Event] = decode(cast(Target, watched), drafter, requests, rules)
    if subject.tokenizer is not None:
        stream = annotate(stream, subject.tokenizer, requests)
    events: list[Event] = []
    try:
        for event in stream:
            events.append(event)
    except Exception as error:
        if isinstance(error, MemoryError) or (
            isinstance(error, SpecctlError) and not isinstance(error, MachineError)
        ):
            raise
        return watched, events, error
    return watched, events, None


def _crashed(name: str, error: Exception, found: Sequence[Problem]) -> SequenceReport:
    verdict = Verdict.INCONCLUSIVE if isinstance(error, MachineError) else Verdict.STRUCTURE
    crash = Problem(verdict, f"decoding failed with {type(error).__name__}: {error}")
    worst = max((verdict, *(one.verdict for one in found)), key=lambda one: one.severity)
    return SequenceReport(name, worst, (crash, *found), (), (), "", 0, 0)
