"""The one generation loop: plain decoding and every method, batch 1 and more.

prefill → while rows live: draft → score in one target forward → accept → cut at the end of the answer → commit
→ observe. Plain decoding is the drafter that proposes nothing, so a speedup compares like with like. Rows join
when a slot is free and leave when they are done; nobody waits for the longest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic_ns, perf_counter

from specctl.decode.accept import Acceptor
from specctl.decode.draft import Draft, Drafter, Request, Row, Scored
from specctl.decode.finish import Ending, Limits, Render, finish
from specctl.decode.sampling import Sampler
from specctl.decode.target import Target
from specctl.events import Drafted, Emitted, Event, Finished, Prefilled, Timed, Verified


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every row of a run. `render` turns token ids into the text stop strings are sought in."""

    accept: Acceptor
    sampler: Sampler
    eos: frozenset[int]
    context_length: int
    render: Render
    batch_size: int = 1


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
    waiting = deque(Row(i, request, list(request.prompt)) for i, request in enumerate(requests))
    live: list[Row] = []
    number = 0
    while (waiting or live) and not cancelled():
        while waiting and len(live) < rules.batch_size:
            live.append(waiting.popleft())
            yield _admit(target, drafter, live[-1], number)
        number += 1
        yield from _round(target, drafter, live, rules, number)
    for row in [*live, *waiting]:
        yield Finished(row.index, number, monotonic_ns(), "cancelled")


def _admit(target: Target, drafter: Drafter, row: Row, number: int) -> Prefilled:
    begun = perf_counter()
    drafter.begin(row, target.admit(row.ids))
    return Prefilled(row.index, number, monotonic_ns(), row.request.prompt, perf_counter() - begun)


def _round(target: Target, drafter: Drafter, live: list[Row], rules: Rules, number: int) -> Iterator[Event]:
    """One round for all live rows; removes those that finish from `live`."""
    begun = perf_counter()
    draft = drafter.draft(live, [_budget(row, rules) for row in live])
    draft_s = perf_counter() - begun
    for row, tokens in zip(live, draft.tokens, strict=True):
        yield Drafted(row.index, number, monotonic_ns(), tuple(tokens))

    begun = perf_counter()
    scored = target.score(live, draft)
    accepted, bonus = _judge(scored, draft, live, rules)
    verify_s = perf_counter() - begun
    endings: list[Ending] = []
    events: list[Event] = []
    for slot, row in enumerate(live):
        block = [*draft.tokens[slot][: accepted[slot]], bonus[slot]]
        ending = finish(row.generated, block, _limits(row.request, rules), rules.render)
        endings.append(ending)
        row.ids.extend(block[: ending.kept])
        target.commit(slot, ending.kept)
        now = monotonic_ns()
        events.append(Verified(row.index, number, now, len(draft.tokens[slot]), accepted[slot], bonus[slot]))
        events.append(Emitted(row.index, number, now, tuple(block[: ending.kept])))
        if ending.reason:
            events.append(Finished(row.index, number, now, ending.reason))
    drafter.observe(live, scored, accepted)
    n_rows = len(live)
    _leave(target, drafter, live, endings)
    round_s = draft_s + perf_counter() - begun
    yield from events
    yield Timed(number, monotonic_ns(), n_rows, draft_s, verify_s, round_s)


def _judge(scored: Scored, draft: Draft, live: list[Row], rules: Rules) -> tuple[list[int], list[int]]:
    """Accepted counts and bonus tokens; the round's one wait for the device."""
    histories = [row.ids for row in live]
    scores = rules.sampler.law.scores(scored.logits, histories, draft.tokens)
    verdict = rules.accept(scores, draft, live, rules.sampler)
    return verdict.accepted.tolist(), verdict.bonus.tolist()


def _leave(target: Target, drafter: Drafter, live: list[Row], endings: Sequence[Ending]) -> None:
    """Finished rows give up their slots, highest first; the last row moves into each hole."""
    for slot in reversed(range(len(live))):
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
