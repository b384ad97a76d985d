"""The one generation loop: plain decoding and every method, batch 1 and more.

prefill → while rows live: draft → score in one target forward → accept → cut at the end of the answer → commit
→ observe. Plain decoding is the drafter that proposes nothing, so a speedup compares like with like. Rows leave
when they are done; who joins when, and who takes part in a round, is the schedule's matter (`schedules/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic_ns, perf_counter

from specctl.decode import chances
from specctl.decode.accept import Acceptor
from specctl.decode.draft import Ahead, Draft, Drafter, Request, Row, Scored, midway, share_cache
from specctl.decode.finish import Ending, Limits, Render, finish
from specctl.decode.newcomers import Newcomers
from specctl.decode.sampling import Sampler
from specctl.decode.schedules import DEFAULT, DEFAULT_WINDOW, SCHEDULES, Schedule
from specctl.decode.target import Target
from specctl.events import Branched, Drafted, Emitted, Event, Finished, Mirrored, Timed, Verified


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every row of a run. `render` turns token ids into the text stop strings are sought in.

    `batch_size` rows take part in a round at most; `window` is how many `exspec` chooses them from.
    `probabilities`: the events also say how likely each drafted token was.
    """

    accept: Acceptor
    sampler: Sampler
    eos: frozenset[int]
    context_length: int
    render: Render
    batch_size: int = 1
    schedule: str = DEFAULT
    window: int = DEFAULT_WINDOW
    probabilities: bool = False


def decode(
    target: Target,
    drafter: Drafter,
    requests: Sequence[Request],
    rules: Rules,
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Generate for all requests; events come as things happen, tagged with the request's index.

    `cancelled` is asked once a round. The caches are consistent with what was committed whenever an event is
    out, so the stream may be closed at any of them.
    """
    share_cache(drafter, target.cache)
    if (call := midway(drafter)) is not None:
        target.stop_midway(call)
    schedule = SCHEDULES[rules.schedule](rules.batch_size, rules.window)
    newcomers = Newcomers(target, drafter, requests)
    live: list[Row] = []
    number = 0
    while (newcomers.waiting or live) and not cancelled():
        yield from newcomers.join(live, schedule.room(len(live)), number)
        number += 1
        yield from _round(target, drafter, live, rules, schedule, number)
    for index in [*(row.index for row in live), *newcomers.waiting]:
        yield Finished(index, number, monotonic_ns(), "cancelled")


def _round(
    target: Target, drafter: Drafter, live: list[Row], rules: Rules, schedule: Schedule, number: int
) -> Iterator[Event]:
    """One round for the rows the schedule picks; removes those that finish from `live`."""
    begun = perf_counter()
    n_rows, realigned = _gather(target, drafter, live, schedule)
    rows = live if n_rows == len(live) else live[:n_rows]
    align_s = perf_counter() - begun

    begun = perf_counter()
    draft = drafter.draft(rows, [_budget(row, rules) for row in rows])
    draft_s = perf_counter() - begun
    nothing: chances.Chances = [()] * len(rows)
    q = chances.of_drafter(draft) if rules.probabilities else nothing
    for row, tokens, found in zip(rows, draft.tokens, q, strict=True):
        yield Drafted(row.index, number, monotonic_ns(), tuple(tokens), q=found)

    begun = perf_counter()
    scored = target.score(rows, draft)
    accepted, bonus = _judge(scored, draft, rows, rules)
    verify_s = perf_counter() - begun
    p = chances.of_target(scored, draft, rows, rules.sampler) if rules.probabilities else nothing
    indices = [row.index for row in rows]
    endings: list[Ending] = []
    events: list[Event] = []
    for slot, row in enumerate(rows):
        block = [*draft.tokens[slot][: accepted[slot]], bonus[slot]]
        ending = finish(row.generated, block, _limits(row.request, rules), rules.render)
        endings.append(ending)
        row.ids.extend(block[: ending.kept])
        target.commit(slot, ending.kept)
        now = monotonic_ns()
        verdict = (len(draft.tokens[slot]), accepted[slot], bonus[slot])
        events.append(Verified(row.index, number, now, *verdict, p=p[slot]))
        events.append(Emitted(row.index, number, now, tuple(block[: ending.kept])))
        if ending.reason:
            events.append(Finished(row.index, number, now, ending.reason))
    drafter.observe(rows, scored, accepted)
    _leave(target, drafter, live, endings)
    round_s = align_s + draft_s + perf_counter() - begun
    yield from events
    if (call := midway(drafter)) is not None:
        ahead = call.report()
        yield from _ahead(ahead, indices, number, round_s)
        if not ahead.overlaps:
            verify_s, draft_s = verify_s - ahead.spent_s, draft_s + ahead.spent_s
    yield Timed(number, monotonic_ns(), n_rows, draft_s, verify_s, round_s, align_s, realigned)


def _ahead(ahead: Ahead, indices: Sequence[int], number: int, round_s: float) -> Iterator[Event]:
    """What was drafted while the target verified."""
    for index, keys, hit in zip(indices, ahead.ready, ahead.hits, strict=True):
        yield Branched(index, number, monotonic_ns(), tuple(keys), hit)
    lower, upper = ahead.halves
    modelled = None if ahead.overlaps else round_s - min(upper, ahead.spent_s)
    yield Mirrored(
        number, monotonic_ns(), lower, upper, ahead.spent_s, ahead.waited_s, modelled, ahead.failed
    )


def _gather(target: Target, drafter: Drafter, live: list[Row], schedule: Schedule) -> tuple[int, bool]:
    """Bring the rows of the next round to the front; how many they are, and whether caches were realigned."""
    picked = schedule.pick(live, target.widths)
    n_rows = len(picked)
    free = sorted(set(range(n_rows)).difference(picked))
    for slot in picked:
        if slot >= n_rows:
            place = free.pop()
            target.swap(place, slot)
            drafter.swap(place, slot)
            live[place], live[slot] = live[slot], live[place]
    return n_rows, schedule.rectangular and target.align(n_rows)


def _judge(scored: Scored, draft: Draft, live: list[Row], rules: Rules) -> tuple[list[int], list[int]]:
    """Accepted counts and bonus tokens; the round's one wait for the device."""
    histories = [row.ids for row in live]
    scores = rules.sampler.law.scores(scored.logits, histories, draft.tokens)
    verdict = rules.accept(scores, draft, live, rules.sampler)
    return verdict.accepted.tolist(), verdict.bonus.tolist()


def _leave(target: Target, drafter: Drafter, live: list[Row], endings: Sequence[Ending]) -> None:
    """Finished rows give up their slots, highest first; the last row moves into each hole."""
    for slot in reversed(range(len(endings))):
        if endings[slot].reason:
            target.release(slot)
            drafter.drop(slot)
            live[slot] = live[-1]
            live.pop()


def _limits(request: Request, rules: Rules) -> Limits:
    room = rules.context_length - len(request.prompt)
    return Limits(rules.eos, request.max_new_tokens, room, request.stop)


def _budget(row: Row, rules: Rules) -> int:
    """Drafted tokens that can still be kept: a round adds one token of the target's own to them."""
    left = row.request.max_new_tokens - (len(row.ids) - len(row.request.prompt))
    return max(min(left, rules.context_length - len(row.ids)) - 1, 0)
