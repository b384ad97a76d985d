"""Contestants take turns, prompt by prompt, in one process; the first one is the baseline.

A shared machine's speed drifts by tens of percent within minutes. So nothing is compared with what ran long
before: each group of prompts is answered by everybody before the next one begins, in an order that rotates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from specctl.bench.memory import PeakMemory
from specctl.bench.suites import Group
from specctl.bench.trial import Contestant, Outcome, Trial, digest
from specctl.decode.draft import Request

_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """`requests` are a group's prompts as token ids; the same for everybody."""

    groups: Sequence[Group]
    requests: Callable[[Group], Sequence[Request]]
    repeats: int = 1


def run(
    contestants: Sequence[Contestant], plan: Plan, *, cancelled: Callable[[], bool] = lambda: False
) -> Iterator[list[Trial]]:
    """Yields the trials of each group once everybody has answered it. A group that is cut short is left out."""
    for contestant in contestants:
        _warm_up(contestant, plan, cancelled)
    turn = 0
    for repeat in range(plan.repeats):
        for group in plan.groups:
            done: dict[int, tuple[Outcome, int | None]] = {}
            for number in _order(len(contestants), turn):
                if not cancelled():
                    done[number] = _answer(contestants[number], group, plan, cancelled)
            if cancelled():
                return
            expected = digest(done[0][0].answers)
            yield [
                _trial(one.name, group, repeat, *done[number], expected)
                for number, one in enumerate(contestants)
            ]
            turn += 1


def _order(n: int, turn: int) -> list[int]:
    """Everybody is first as often as anybody else."""
    return [(turn + place) % n for place in range(n)]


def _warm_up(contestant: Contestant, plan: Plan, cancelled: Callable[[], bool]) -> None:
    """The first group of each batch size, cut short: pages read in, kernels chosen, memory allocated."""
    seen: set[int] = set()
    for group in plan.groups:
        if group.batch_size not in seen and not cancelled():
            seen.add(group.batch_size)
            short = [
                replace(one, max_new_tokens=min(_WARM_UP_TOKENS, one.max_new_tokens))
                for one in plan.requests(group)
            ]
            contestant.run(short, group.batch_size, cancelled)


def _answer(
    contestant: Contestant, group: Group, plan: Plan, cancelled: Callable[[], bool]
) -> tuple[Outcome, int | None]:
    with PeakMemory() as peak:
        outcome = contestant.run(plan.requests(group), group.batch_size, cancelled)
    return outcome, peak.growth_bytes


def _trial(
    name: str, group: Group, repeat: int, outcome: Outcome, growth: int | None, expected: str
) -> Trial:
    found = digest(outcome.answers)
    return Trial(
        contestant=name,
        category=group.category,
        group=group.name,
        batch_size=group.batch_size,
        repeat=repeat,
        tokens=outcome.n_tokens,
        seconds=outcome.seconds,
        digest=found,
        equal=found == expected,
        growth_bytes=growth,
        first_token_s=outcome.first_token_s,
        prefill_s=outcome.prefill_s,
        draft_s=outcome.draft_s,
        verify_s=outcome.verify_s,
        rounds=outcome.rounds,
        offered=outcome.offered,
        accepted=outcome.accepted,
    )
