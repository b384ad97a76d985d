"""Which settings are fastest here: all of them simulated from one trace, the best few measured.

Answers and what each draft model thinks of them are recorded once; every draft length and threshold then follows
from the trace and the cost curves without running (`simulate.py`). Only greedy decoding can be foretold this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from specctl.bench import doctor, runner, suites, trace
from specctl.bench.profiles import ProfileContestant
from specctl.bench.runner import Plan
from specctl.bench.settings import Setting, Source, finalists, foretell
from specctl.bench.suites import Group, Prompt
from specctl.bench.summary import Summary, summarise
from specctl.bench.trace import Trace
from specctl.bench.trial import Trial
from specctl.decode.draft import Request
from specctl.models import costs
from specctl.models.costs import Costs
from specctl.session import Session

WORTH = 1.02
"""A gain below this is none: settings and prompts vary by more."""

_FINALISTS = 4
_TRACING = 0.4
"""Share of the time in which prompts are recorded; the rest is for running the best."""


@dataclass(slots=True)
class Tuning:
    """`settings`: all of them, the most promising first. `measured`: of the few that were run, by name; `plain`:
    plain decoding in the same turns. `prompts` were recorded, in `seconds` for everything.
    """

    settings: list[Setting]
    measured: dict[str, Summary] = field(default_factory=dict)
    plain: Summary | None = None
    prompts: int = 0
    seconds: float = 0.0

    def best(self) -> Setting | None:
        """The fastest of those measured, or the most promising where none was; None: plain decoding is as good."""
        run = [one for one in self.settings if one.profile.name in self.measured]
        found = max(run or self.settings, key=self.speedup)
        return found if self.speedup(found) >= WORTH else None

    def speedup(self, setting: Setting) -> float:
        """Measured if it was run, else predicted."""
        measured = self.measured.get(setting.profile.name)
        return measured.speedup.mean if measured else setting.predicted

    def tops(self) -> list[Setting]:
        """The most promising setting of each source and method."""
        found: dict[tuple[str, str], Setting] = {}
        for one in self.settings:
            found.setdefault((one.source.name, one.profile.drafter.method), one)
        return list(found.values())

    def reasons(self) -> Iterator[str]:
        """For each model that drafts, how often it was right and how often it has to be."""
        for source in dict.fromkeys(one.source.name for one in self.settings):
            one = next(one for one in self.settings if one.source.name == source)
            right, needed = one.source.acceptance(), doctor.break_even(one.source.costs)
            reached = f"{source}: at best {self.speedup(one):.2f} × plain decoding"
            if right is None:
                yield reached
                continue
            wanted = "no acceptance would pay" if needed is None else f"drafting pays from {needed:.0%} on"
            yield f"{reached}; {right:.0%} of its single tokens are right, {wanted}"


@dataclass(slots=True)
class Clock:
    """Time since it was made, and how much of `budget` (seconds) is left."""

    budget: float
    begun: float = field(default_factory=perf_counter)

    @property
    def elapsed(self) -> float:
        return perf_counter() - self.begun

    @property
    def left(self) -> float:
        return self.budget - self.elapsed


def tune(
    sessions: Sequence[Session],
    prompts: Sequence[Prompt],
    tokens: int,
    budget: float,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    told: Callable[[str], None] = lambda text: None,
) -> Tuning:
    """The first session decodes plainly and stands for lookup; the others have a draft model each, their profiles'
    names say which. `budget` in seconds; what was begun is ended, so it may take a little longer.
    """
    clock = Clock(budget)
    known = measured_costs(sessions, told)
    groups = suites.groups(prompts, 1)
    plan = Plan(groups, lambda group: [_request(sessions[0], group.prompts[0], tokens)])
    traced, sources = _record(sessions, known, plan, clock, cancelled, told)
    told("simulating")
    tuning = Tuning([] if cancelled() else foretell(sources), prompts=len(traced))
    contestants = finalists(tuning.settings, _FINALISTS)
    if contestants and clock.left > 0 and not cancelled():
        plan = Plan(traced, plan.requests)
        tuning.measured, tuning.plain = _run(sessions[0], contestants, plan, clock, cancelled, told)
    tuning.seconds = clock.elapsed
    return tuning


def measured_costs(sessions: Sequence[Session], told: Callable[[str], None]) -> list[Costs]:
    """What forwards of each session's models cost, remembered or measured now."""
    target = costs.curve(sessions[0].target, told=told)
    return [
        Costs(target, None if one.draft is None else costs.curve(one.draft, told=told)) for one in sessions
    ]


def _request(session: Session, prompt: Prompt, tokens: int) -> Request:
    ids = session.encode(prompt.text, system=None if prompt.raw else session.profile.system, raw=prompt.raw)
    return Request(ids, min(tokens, prompt.max_new_tokens or tokens), 0, prompt.stop)


def _record(
    sessions: Sequence[Session],
    known: Sequence[Costs],
    plan: Plan,
    clock: Clock,
    cancelled: Callable[[], bool],
    told: Callable[[str], None],
) -> tuple[list[Group], list[Source]]:
    """Traces of as many prompts as there is time for, one at least; and the sources with their costs."""
    traces: list[dict[str, list[Trace]]] = [{} for _ in sessions]
    rests: list[float] = []
    traced: list[Group] = []
    for number, group in enumerate(plan.groups, start=1):
        if cancelled() or (traced and clock.elapsed > _TRACING * clock.budget):
            break
        told(f"recording {number} of {len(plan.groups)}")
        request = plan.requests(group)[0]
        answer, rest = trace.plain(sessions[0], request, cancelled)
        rests.append(rest)
        traced.append(group)
        for session, kinds in zip(sessions, traces, strict=True):
            kinds.setdefault(group.category, []).append(trace.follow(session, request, answer))
    overhead = median(rests) if rests else 0.0
    found = [
        Source(
            session.profile.name if session.draft else "lookup",
            session,
            Costs(cost.target, cost.draft, overhead),
            kinds,
        )
        for session, cost, kinds in zip(sessions, known, traces, strict=True)
    ]
    return traced, found


def _run(
    plain: Session,
    contestants: Sequence[Setting],
    plan: Plan,
    clock: Clock,
    cancelled: Callable[[], bool],
    told: Callable[[str], None],
) -> tuple[dict[str, Summary], Summary | None]:
    """The finalists in turns with plain decoding, prompt by prompt while there is time; plain decoding's apart."""
    everybody = [ProfileContestant(plain), *(ProfileContestant(one.session()) for one in contestants)]
    trials: list[Trial] = []
    told(f"warming up {len(everybody)} settings")
    before, longest = clock.elapsed, 0.0
    for number, group in enumerate(runner.run(everybody, plan, cancelled=cancelled), start=1):
        trials += group
        longest, before = max(longest, clock.elapsed - before), clock.elapsed
        told(f"running the best {len(contestants)}: prompt {number} of {len(plan.groups)}")
        if clock.left < longest:
            break
    name = plain.profile.name
    found = {one.contestant: one for one in summarise(trials, {}, name)} if trials else {}
    return {key: one for key, one in found.items() if key != name}, found.get(name)
