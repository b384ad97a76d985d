"""Requests decoded under watch, and every token of them judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from specctl.decode.draft import Drafter, Request
from specctl.decode.loop import decode
from specctl.decode.target import Target
from specctl.decode.text import annotate
from specctl.equivalence.drawn import Drawn
from specctl.equivalence.noise import Noise
from specctl.equivalence.report import Problem, SequenceReport, Verdict
from specctl.equivalence.rescore import Rescorer
from specctl.equivalence.structure import by_row
from specctl.equivalence.subject import Subject
from specctl.equivalence.verdicts import Tolerance, judge
from specctl.equivalence.watch import Watched
from specctl.errors import MachineError, SpecctlError
from specctl.events import Event

_WAVES = 4
"""Requests of one `decode` call, in batches: so that rows join and leave. What was seen is kept until then."""


@dataclass(slots=True)
class Watchers:
    """Who is told what: a drafter to watch, a sequence that is judged, the events of a finished call; `drawn`, of a
    sampled run, each token and its law."""

    drafter: Callable[[Drafter], Drafter] = lambda drafter: drafter
    judged: Callable[[SequenceReport], None] = lambda report: None
    events: Callable[[Sequence[Event], Sequence[Request]], None] = lambda events, requests: None
    drawn: Drawn | None = None


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
    in_one_call: bool = False,
) -> list[SequenceReport]:
    """Decode the requests and account for every token; reports in the order of the requests.

    `noise` None tolerates nothing: tokens, logits and caches have to be equal bit for bit, which needs
    models whose `row_floor` passes the self-test of `models/numerics.py` (tiny ones: bf16). `audit` is the
    share of rounds whose caches are rebuilt from a copy. Serves `coupled` sampling too: equality holds there.
    `in_one_call`: all requests in a single `decode` call, rather than in waves.
    """
    watchers = watchers or Watchers()
    tolerance = None if noise is None else Tolerance(noise, rescorer or Rescorer(subject.target))
    names = names or [str(number) for number in range(len(requests))]
    reports: list[SequenceReport] = []
    for first, some in [(0, requests)] if in_one_call else _calls(requests, batch_size):
        watched, events, crash = _run(subject, some, batch_size, audit, watchers)
        watchers.events(events, some)
        for row, (request, own) in enumerate(zip(some, by_row(events, len(some)), strict=True)):
            name = names[first + row]
            if crash is None:
                report = judge(name, request, own, watched, row, subject, tolerance)
            else:
                report = crashed(name, crash, watched.problems.get(row, []))
            reports.append(report)
            watchers.judged(report)
    return reports


def draw(subject: Subject, requests: Sequence[Request], batch_size: int, drawn: Drawn) -> None:
    """Decode only, for the law of what is drawn; a crash would have been found before."""
    for _, some in _calls(requests, batch_size):
        _run(subject, some, batch_size, 0.0, Watchers(drawn=drawn))


def _calls(requests: Sequence[Request], batch_size: int) -> Iterator[tuple[int, Sequence[Request]]]:
    """The requests of each `decode` call, and the place of the first."""
    step = batch_size * _WAVES if batch_size > 1 else 1
    for first in range(0, len(requests), step):
        yield first, requests[first : first + step]


def _run(
    subject: Subject, requests: Sequence[Request], batch_size: int, audit: float, watchers: Watchers
) -> tuple[Watched, list[Event], Exception | None]:
    """One `decode` call with everything watched. A crash of the loop is a finding, not a failure of ours."""
    sampler = subject.rules.sampler
    longest = max(len(one.prompt) + one.max_new_tokens for one in requests)
    capacity = min(longest, subject.rules.context_length) + 1
    target = subject.make_target(batch_size, capacity)
    told = subject.rules.probabilities
    watched = Watched(target, sampler.law, audit, watchers.drawn, probabilities=told)
    drafter = watchers.drafter(subject.make_drafter(sampler))
    rules = replace(subject.rules, batch_size=batch_size)
    stream: Iterable[Event] = decode(cast(Target, watched), drafter, requests, rules)
    if subject.tokenizer is not None:
        stream = annotate(stream, subject.tokenizer, requests)
    return watched, *collect(stream)


def collect(stream: Iterable[Event]) -> tuple[list[Event], Exception | None]:
    """The events of a run and the crash that ended it; what is the machine's fault or the caller's is raised."""
    events: list[Event] = []
    try:
        for event in stream:
            events.append(event)
    except Exception as error:
        if isinstance(error, MemoryError) or (
            isinstance(error, SpecctlError) and not isinstance(error, MachineError)
        ):
            raise
        return events, error
    return events, None


def crashed(name: str, error: Exception, found: Sequence[Problem]) -> SequenceReport:
    """The report of a sequence whose run broke; `found` are problems seen before."""
    verdict = Verdict.INCONCLUSIVE if isinstance(error, MachineError) else Verdict.STRUCTURE
    crash = Problem(verdict, f"decoding failed with {type(error).__name__}: {error}")
    worst = max((verdict, *(one.verdict for one in found)), key=lambda one: one.severity)
    return SequenceReport(name, worst, (crash, *found), (), (), "", 0, 0)
